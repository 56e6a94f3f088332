//! `match`: which requests a route wants.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Spanned;
use crate::units::{HeaderName, HostPattern, Method, Network, Pairs, Regex};

/// What a request must be; every key that is given must hold, and an empty table wants every request.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// Its host is one of these; empty is any.
    pub hosts: Vec<Spanned<HostPattern>>,
    /// Its path: a pattern such as `"/orders/{id}"` or `"/files/{*rest}"`, `{ prefix = "/shop" }`, or
    /// `{ regex = "…" }`.
    pub path: Option<Spanned<PathMatch>>,
    /// Its method is one of these; empty is any.
    pub methods: Vec<Spanned<Method>>,
    /// Its headers.
    pub headers: Pairs<Spanned<HeaderName>, ValueMatch>,
    /// The parameters of its query.
    pub query: Pairs<Spanned<String>, ValueMatch>,
    /// Its cookies.
    pub cookies: Pairs<Spanned<String>, ValueMatch>,
    /// The client's address is in one of these networks; empty is any.
    pub clients: Vec<Network>,
    /// Where the table stands.
    #[serde(skip)]
    pub span: Range<usize>,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Segment by segment, with captures: `/orders/{id}`, `/files/{*rest}`.
    Pattern(String),
    /// This path and everything below it, by whole segments.
    Prefix(String),
    /// The whole path matches.
    Regex(Regex),
}

/// The forms of a path that need a key.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum PathTable {
    /// This path and everything below it: `/a` is `/a` and `/a/…`, never `/ab`.
    Prefix(String),
    /// An expression that the whole path must match.
    Regex(Regex),
}

impl<'de> Deserialize<'de> for PathMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = PathMatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a path such as \"/orders/{id}\", { prefix = \"…\" } or { regex = \"…\" }",
                )
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PathMatch, E> {
                Ok(PathMatch::Pattern(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PathMatch, A::Error> {
                match PathTable::deserialize(MapAccessDeserializer::new(map))? {
                    PathTable::Prefix(prefix) => Ok(PathMatch::Prefix(prefix)),
                    PathTable::Regex(regex) => Ok(PathMatch::Regex(regex)),
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for PathMatch {
    fn schema_name() -> Cow<'static, str> {
        "PathMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = PathTable::json_schema(generator);
        json_schema!({
            "title": "Path",
            "anyOf": [
                { "type": "string", "pattern": "^/", "description": "A path with captures: `{id}` is one segment, `{*rest}` the rest." },
                table,
            ],
            "examples": ["/orders/{id}", "/files/{*rest}", { "prefix": "/shop" }],
        })
    }
}

/// How a header, a query parameter or a cookie is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// It is there and says exactly this.
    Exact(String),
    /// It is there and the whole of it matches.
    Regex(Regex),
    /// It is there, or it is not.
    Present(bool),
}

/// The forms of a value that need a key.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ValueTable {
    /// An expression that the whole value must match.
    Regex(Regex),
    /// Whether it is there at all.
    Present(bool),
}

impl<'de> Deserialize<'de> for ValueMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ValueMatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, { regex = \"…\" } or { present = true }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ValueMatch, E> {
                Ok(ValueMatch::Exact(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValueMatch, A::Error> {
                match ValueTable::deserialize(MapAccessDeserializer::new(map))? {
                    ValueTable::Regex(regex) => Ok(ValueMatch::Regex(regex)),
                    ValueTable::Present(present) => Ok(ValueMatch::Present(present)),
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Serialize for ValueMatch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact(text) => serializer.serialize_str(text),
            Self::Regex(regex) => serializer.collect_map([("regex", regex)]),
            Self::Present(present) => serializer.collect_map([("present", present)]),
        }
    }
}

impl JsonSchema for ValueMatch {
    fn schema_name() -> Cow<'static, str> {
        "ValueMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = ValueTable::json_schema(generator);
        json_schema!({
            "title": "Value",
            "anyOf": [{ "type": "string", "description": "Exactly this." }, table],
            "examples": ["canary", { "present": true }],
        })
    }
}

/// One table or a list of them, each with its place.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Match>, D::Error> {
    struct Matches(Vec<Spanned<Match>>, Option<Match>);

    impl<'de> Deserialize<'de> for Matches {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Either)
        }
    }

    struct Either;

    impl<'de> Visitor<'de> for Either {
        type Value = Matches;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table, or a list of tables any of which may match")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Matches, A::Error> {
            let one = Match::deserialize(MapAccessDeserializer::new(map))?;
            Ok(Matches(Vec::new(), Some(one)))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Matches, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(seq)).map(|many| Matches(many, None))
        }
    }

    let placed = |one: Spanned<Match>| Match {
        span: one.span,
        ..one.value
    };
    let Spanned { value, span } = Spanned::<Matches>::deserialize(deserializer)?;
    let Matches(many, one) = value;
    let one = one.map(|one| Spanned::new(one, span));
    Ok(many.into_iter().chain(one).map(placed).collect())
}
