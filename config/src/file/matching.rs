//! `match`: which requests a route wants.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::pattern;
use crate::Spanned;
use crate::units::{HeaderName, HostPattern, Method, Network, Pairs, Regex, written};

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
    /// The client's address is in one of these networks. Left out, any client will do.
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

impl PathMatch {
    /// The names of what it captures.
    pub fn captures(&self) -> Vec<&str> {
        match self {
            Self::Pattern(path) => pattern::captures(path).collect(),
            Self::Prefix(_) => Vec::new(),
            Self::Regex(regex) => regex.captures().collect(),
        }
    }
}

/// The forms of a path that need a key; exactly one of them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
struct PathTable {
    /// This path and everything below it: `/a` is `/a` and `/a/…`, never `/ab`.
    prefix: Option<PathPrefix>,
    /// An expression that the whole path must match.
    regex: Option<Regex>,
}

impl<'de> Deserialize<'de> for PathMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = PathMatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path such as \"/orders/{id}\", { prefix = \"…\" } or { regex = \"…\" }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PathMatch, E> {
                pattern::check(text).map_err(E::custom)?;
                Ok(PathMatch::Pattern(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PathMatch, A::Error> {
                let table = PathTable::deserialize(MapAccessDeserializer::new(map))?;
                match (table.prefix, table.regex) {
                    (Some(prefix), None) => Ok(PathMatch::Prefix(prefix.0)),
                    (None, Some(regex)) => Ok(PathMatch::Regex(regex)),
                    (Some(_), Some(_)) => Err(A::Error::custom("`prefix` and `regex` exclude each other")),
                    (None, None) => {
                        Err(A::Error::custom("a path is a string, { prefix = \"…\" } or { regex = \"…\" }"))
                    }
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Literal segments; a slash at the end is ignored.
struct PathPrefix(String);

impl std::str::FromStr for PathPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pattern::check_prefix(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

written!(PathPrefix, expecting: "a path such as \"/shop\"", schema: { "type": "string", "pattern": "^/" });

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

/// The forms of a value that need a key; exactly one of them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
struct ValueTable {
    /// An expression that the whole value must match.
    regex: Option<Regex>,
    /// Whether it is there at all.
    present: Option<bool>,
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
                let table = ValueTable::deserialize(MapAccessDeserializer::new(map))?;
                match (table.regex, table.present) {
                    (Some(regex), None) => Ok(ValueMatch::Regex(regex)),
                    (None, Some(present)) => Ok(ValueMatch::Present(present)),
                    (Some(_), Some(_)) => Err(A::Error::custom("`regex` and `present` exclude each other")),
                    (None, None) => {
                        Err(A::Error::custom("a value is a string, { regex = \"…\" } or { present = true }"))
                    }
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
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Match>, D::Error> {
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

    let placed = |one: Spanned<Match>| Match { span: one.span, ..one.value };
    let Spanned { value, span } = Spanned::<Matches>::deserialize(deserializer)?;
    let Matches(many, one) = value;
    let one = one.map(|one| Spanned::new(one, span));
    Ok(many.into_iter().chain(one).map(placed).collect())
}
