//! `[[route]]`: a rule, the chain it wraps, and what answers.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU16;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Match, Retry, RoutePaths};
use crate::units::{Duration, HeaderName, HeaderText, OneOrMany, Pairs};
use crate::{Document, Place, Raw, Spanned};

/// A rule: what it matches, the chain it wraps, what answers it. Exactly one of `service`, `split`,
/// `respond` and `redirect` answers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// Its name in logs, metrics and reports. Default: its position in the file, `#3`.
    pub name: Option<Spanned<String>>,
    /// The listeners it serves. Default: all.
    pub listeners: Vec<Spanned<String>>,
    /// What a request must be: one table, or a list of tables any of which may match. Default: anything.
    #[serde(rename = "match", deserialize_with = "super::matching::one_or_many")]
    #[schemars(with = "OneOrMany<Match>")]
    pub matches: Vec<Match>,
    /// The middlewares that its requests pass, in order: names, bare type names, or inline tables.
    pub chain: Vec<ChainItem>,
    /// Routes with a higher priority are tried first, before their paths are compared. Default 0.
    pub priority: i32,
    /// What is different about the paths of its requests than its listener says.
    pub paths: RoutePaths,
    /// Accepts that another route takes all of its requests. Otherwise that is an error.
    pub allow_shadowed: bool,
    /// Clocks of its requests.
    pub timeouts: Option<RouteTimeouts>,
    /// When a request is tried again; instead of the service's own `retry`.
    pub retry: Option<Retry>,
    /// The service that answers. `"{name}"` takes the service's name from the capture `name` of the path.
    pub service: Option<Spanned<String>>,
    /// Services that share the requests by weight.
    pub split: Option<Spanned<Vec<Split>>>,
    /// What ties a client to one part of the split. Default: every request is drawn anew.
    pub sticky: Option<Spanned<Sticky>>,
    /// An answer that the gateway gives itself.
    pub respond: Option<Spanned<Respond>>,
    /// A redirect.
    pub redirect: Option<Spanned<Redirect>>,
    /// Where the table stands.
    #[serde(skip)]
    pub span: Range<usize>,
    /// Where the table begins.
    #[serde(skip)]
    pub place: Place,
    /// Its position in the file, from 0.
    #[serde(skip)]
    pub position: usize,
}

/// What answers a route.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// A service, or a name that comes out of the path.
    Service(&'a Spanned<String>),
    /// Services by weight.
    Split(&'a [Split]),
    /// The gateway itself.
    Respond(&'a Respond),
    /// A redirect.
    Redirect(&'a Redirect),
}

impl Route {
    /// Whether it is for requests to this listener.
    pub fn serves(&self, listener: &str) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|it| it.value == listener)
    }

    /// What answers it.
    ///
    /// # Panics
    ///
    /// Never for a route of a [`File`](super::File): one without an answer makes no file.
    pub fn answer(&self) -> Answer<'_> {
        if let Some(service) = &self.service {
            return Answer::Service(service);
        }
        if let Some(split) = &self.split {
            return Answer::Split(split);
        }
        if let Some(respond) = &self.respond {
            return Answer::Respond(respond);
        }
        let redirect = self.redirect.as_ref();
        Answer::Redirect(redirect.expect("a route of a file has an answer"))
    }

    pub(crate) fn has_answer(&self) -> bool {
        self.service.is_some() || self.split.is_some() || self.respond.is_some() || self.redirect.is_some()
    }

    /// Its name, or its position: `#3`.
    pub fn label(&self) -> Cow<'_, str> {
        match &self.name {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("#{}", self.position + 1)),
        }
    }

    pub(crate) fn settle(&mut self, document: &Document, span: Range<usize>, position: usize) {
        self.place = document.place(&span);
        self.span = span;
        self.position = position;
        let splits = self.split.iter_mut().flat_map(|split| &mut split.value);
        let chains = splits.map(|split| &mut split.chain);
        for item in chains.chain([&mut self.chain]).flatten() {
            item.settle(document);
        }
    }
}

/// One middleware of a chain.
#[derive(Clone, Debug)]
pub enum ChainItem {
    /// The name of a `[middleware.*]`, or a type that needs no settings.
    Named(Spanned<String>),
    /// Its settings, written where it is used.
    Inline(Raw),
}

impl ChainItem {
    /// Where it stands.
    pub fn span(&self) -> Range<usize> {
        match self {
            Self::Named(name) => name.span.clone(),
            Self::Inline(raw) => raw.span.clone(),
        }
    }

    pub(crate) fn settle(&mut self, document: &Document) {
        if let Self::Inline(raw) = self {
            raw.settle(document);
        }
    }

    /// A chain that is left out is written nowhere: it stands where its owner does.
    pub(crate) fn or_at(&mut self, owner: &Range<usize>) {
        if let Self::Named(name) = self
            && name.span.is_empty()
        {
            name.span = owner.clone();
        }
    }
}

impl<'de> Deserialize<'de> for ChainItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ChainItem;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a middleware, or a table with a `type`")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<ChainItem, E> {
                Ok(ChainItem::Named(Spanned::new(name.to_owned(), 0..0)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ChainItem, A::Error> {
                Raw::from_map(map).map(ChainItem::Inline)
            }
        }

        struct Unplaced(ChainItem);

        impl<'de> Deserialize<'de> for Unplaced {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Either).map(Unplaced)
            }
        }

        let Spanned { value, span } = Spanned::<Unplaced>::deserialize(deserializer)?;
        Ok(match value.0 {
            Self::Named(name) => Self::Named(Spanned::new(name.value, span)),
            Self::Inline(raw) => Self::Inline(raw.placed(span)),
        })
    }
}

impl JsonSchema for ChainItem {
    fn schema_name() -> Cow<'static, str> {
        "ChainItem".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<Raw>();
        json_schema!({
            "title": "Middleware",
            "anyOf": [
                { "type": "string", "description": "The name of a middleware, or a type that needs no settings." },
                table,
            ],
        })
    }
}

/// Clocks of a route's requests; `"0s"` turns one off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteTimeouts {
    /// To the last byte of the answer, all attempts included. Default: off.
    pub total: Option<Duration>,
    /// To the head of the answer, for each attempt. Default: the service's own clocks.
    pub attempt: Option<Duration>,
}

/// One part of a split.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The service that gets this part.
    pub service: Spanned<String>,
    /// Its share of the requests, relative to the others'. 0 gets none.
    #[serde(default = "one")]
    pub weight: u32,
    /// The middlewares that only these requests pass.
    #[serde(default)]
    pub chain: Vec<ChainItem>,
}

fn one() -> u32 {
    1
}

/// What ties a client to one part of a split.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// The value of this cookie, which the client brings. Requests without it are drawn anew.
    Cookie(String),
    /// The value of this header. Requests without it are drawn anew.
    Header(HeaderName),
    /// The client's address, with `true`.
    Client(bool),
}

/// A status that can be said to a client once and for all.
fn status_of_an_answer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spanned<u16>, D::Error> {
    struct Status(u16);

    impl<'de> Deserialize<'de> for Status {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_u16(StatusVisitor)
        }
    }

    struct StatusVisitor;

    impl Visitor<'_> for StatusVisitor {
        type Value = Status;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a status from 200 to 599")
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<Status, E> {
            match u16::try_from(number) {
                Ok(status @ 200..=599) => Ok(Status(status)),
                _ => Err(E::invalid_value(Unexpected::Signed(number), &self)),
            }
        }
    }

    let Spanned { value, span } = Spanned::<Status>::deserialize(deserializer)?;
    Ok(Spanned::new(value.0, span))
}

/// An answer that the gateway gives itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Respond {
    /// Its status, from 200 to 599.
    #[serde(deserialize_with = "status_of_an_answer")]
    pub status: Spanned<u16>,
    /// Its headers: each a string, or a list of strings.
    pub headers: Pairs<Spanned<HeaderName>, OneOrMany<HeaderText>>,
    /// Its body.
    pub body: String,
}

impl Default for Respond {
    fn default() -> Self {
        Self { status: Spanned::new(200, 0..0), headers: Pairs::default(), body: String::new() }
    }
}

/// A redirect: the request's own address with these parts replaced. The query is kept unless `path`
/// brings one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    /// The scheme. Default: the request's.
    pub scheme: Option<Scheme>,
    /// The host. Default: the request's.
    pub host: Option<Spanned<String>>,
    /// The port. Default: the scheme's own if `scheme` is given, else the listener's.
    pub port: Option<Spanned<NonZeroU16>>,
    /// The whole path. Default: the request's.
    pub path: Option<Spanned<String>>,
    /// Replaces the prefix that was matched.
    pub prefix: Option<Spanned<String>>,
    /// Its status: 301, 302, 303, 307 or 308.
    #[serde(deserialize_with = "status_of_an_answer")]
    pub status: Spanned<u16>,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { scheme: None, host: None, port: None, path: None, prefix: None, status: Spanned::new(302, 0..0) }
    }
}

/// The scheme of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}
