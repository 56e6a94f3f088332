//! `paths`: what is put in order in a request's path before routes are compared, and what is refused.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the paths of requests are read. Whatever is given here, an escape that is none, `%00` and `\` are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// What becomes of segments `.` and `..`, also as `%2e`.
    pub dot_segments: DotSegments,
    /// What becomes of several slashes in a row.
    pub slashes: Slashes,
    /// What becomes of `%2F` and `%5C`, the escapes of a slash and a backslash.
    pub encoded_slashes: EncodedSlashes,
}

impl Paths {
    /// The same with what somebody says differently.
    pub fn with(self, other: RoutePaths) -> Self {
        Self {
            dot_segments: other.dot_segments.unwrap_or(self.dot_segments),
            slashes: other.slashes.unwrap_or(self.slashes),
            encoded_slashes: other.encoded_slashes.unwrap_or(self.encoded_slashes),
        }
    }

    /// What can be refused before it is known which of these routes a request is for: what all of them refuse.
    ///
    /// What only some refuse is kept, so that routes are compared by a path that has lost nothing.
    pub fn on_arrival(self, routes: impl Iterator<Item = RoutePaths>) -> Self {
        routes.map(|route| self.with(route)).fold(self, |all, one| Self {
            dot_segments: match (all.dot_segments, one.dot_segments) {
                (DotSegments::Reject, DotSegments::Remove) => DotSegments::Remove,
                (first, _) => first,
            },
            slashes: match (all.slashes, one.slashes) {
                (Slashes::Reject, Slashes::Keep | Slashes::Merge) => Slashes::Keep,
                (first, _) => first,
            },
            encoded_slashes: match (all.encoded_slashes, one.encoded_slashes) {
                (EncodedSlashes::Reject, EncodedSlashes::Keep | EncodedSlashes::Decode) => EncodedSlashes::Keep,
                (first, _) => first,
            },
        })
    }
}

/// What a route says differently about its paths. What is left out is as its listener has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RoutePaths {
    /// What becomes of segments `.` and `..`, also as `%2e`.
    pub dot_segments: Option<DotSegments>,
    /// What becomes of several slashes in a row.
    pub slashes: Option<Slashes>,
    /// What becomes of `%2F` and `%5C`, the escapes of a slash and a backslash.
    pub encoded_slashes: Option<EncodedSlashes>,
}

/// What becomes of segments `.` and `..`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DotSegments {
    /// They are resolved, as browsers do it: `/a/../b` is `/b`.
    #[default]
    Remove,
    /// The request is refused.
    Reject,
}

/// What becomes of several slashes in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Slashes {
    /// They are one: `/a//b` is `/a/b`.
    #[default]
    Merge,
    /// They stay.
    Keep,
    /// The request is refused.
    Reject,
}

/// What becomes of `%2F` and `%5C`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodedSlashes {
    /// The request is refused.
    #[default]
    Reject,
    /// They stay, as a part of their segment.
    Keep,
    /// Both are slashes: `/a%2Fb` is `/a/b`.
    Decode,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_arrival_nothing_is_refused_that_a_route_takes() {
        let keeps = RoutePaths { encoded_slashes: Some(EncodedSlashes::Keep), ..RoutePaths::default() };
        let refuses = RoutePaths { slashes: Some(Slashes::Reject), ..RoutePaths::default() };
        let all = Paths::default().on_arrival([refuses, keeps].into_iter());
        assert_eq!(all, Paths { encoded_slashes: EncodedSlashes::Keep, ..Paths::default() });

        let strict = Paths {
            dot_segments: DotSegments::Reject,
            slashes: Slashes::Reject,
            encoded_slashes: EncodedSlashes::Reject,
        };
        assert_eq!(strict.on_arrival([RoutePaths::default()].into_iter()), strict);
        let lax = RoutePaths {
            dot_segments: Some(DotSegments::Remove),
            slashes: Some(Slashes::Merge),
            encoded_slashes: Some(EncodedSlashes::Decode),
        };
        assert_eq!(
            strict.on_arrival([lax].into_iter()),
            Paths { dot_segments: DotSegments::Remove, slashes: Slashes::Keep, encoded_slashes: EncodedSlashes::Keep }
        );
    }
}
