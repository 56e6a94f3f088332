//! `[service.*]`: a name that a route sends to, with its upstream policy.

use std::borrow::Cow;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::TlsVersion;
use crate::Spanned;
use crate::units::{Duration, InstanceAddress};

/// Where a service's instances come from and how they are treated. A service that only the registry
/// knows needs no table.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// The registry that knows its instances. Default: `default`, if there is one.
    pub registry: Option<Spanned<String>>,
    /// Its name in the registry. Default: the name of this table.
    pub name: Option<Spanned<String>>,
    /// Its instances, instead of a registry. An empty list answers 503.
    pub instances: Option<Spanned<Vec<Spanned<Instance>>>>,
    /// The protocol that its instances speak: `http1`, `h2` (with `tls`), `h2c` (without), or `auto`, which is what TLS
    /// agrees on. Many requests share a connection of HTTP/2; gRPC needs it.
    pub protocol: Spanned<Protocol>,
    /// The version of the PROXY protocol header that tells its instances who the client is, if they want one. Every
    /// request then has a connection of its own.
    pub proxy_protocol: Option<Spanned<ProxyProtocol>>,
    /// Settings of TLS, if its instances speak it.
    pub tls: Option<Spanned<ServiceTls>>,
    /// How an instance is picked for a request.
    pub balance: Spanned<Balance>,
    /// Active checks of its instances.
    pub health: Option<Spanned<Health>>,
    /// How many connections to each instance there may be, and how long they live.
    pub connections: ServiceConnections,
    /// How long an attempt may take.
    pub timeouts: ServiceTimeouts,
    /// When a request is tried again, on another instance if there is one. Default: three tries in all, where no connection
    /// came about, or where one broke before the answer and the method may be sent twice (`GET`, `HEAD`, `OPTIONS`, `TRACE`,
    /// `PUT`, `DELETE`).
    pub retry: Option<Retry>,
    /// Whether instances see the `Host` that the client sent, or their own address. Default `true`.
    #[serde(default = "yes")]
    pub keep_host: bool,
}

fn yes() -> bool {
    true
}

/// One address of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Where it answers.
    pub address: InstanceAddress,
    /// Its share of the requests, relative to the others'. Default 1; 0 gets none.
    pub weight: u32,
}

/// An instance in its long form.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Instance", deny_unknown_fields)]
struct InstanceTable {
    /// Where it answers.
    address: InstanceAddress,
    /// Its share of the requests, relative to the others'. 0 gets none.
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

impl<'de> Deserialize<'de> for Instance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Instance;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as \"10.0.0.7:9001\", or a table with `address` and `weight`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Instance, E> {
                let address = text.parse().map_err(E::custom)?;
                Ok(Instance { address, weight: 1 })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Instance, A::Error> {
                let table = InstanceTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Instance { address: table.address, weight: table.weight })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Instance {
    fn schema_name() -> Cow<'static, str> {
        "Instance".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<InstanceAddress>();
        let long = InstanceTable::json_schema(generator);
        json_schema!({ "anyOf": [short, long] })
    }
}

/// The protocol that instances speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, with or without `tls`.
    #[default]
    Http1,
    /// HTTP/2 over `tls`. An instance that does not agree to it in the handshake gets no request.
    H2,
    /// HTTP/2 without TLS, known beforehand.
    H2c,
    /// With `tls` what the handshake agrees on: HTTP/2 if the instance speaks it, else HTTP/1.1. Without, HTTP/1.1; and
    /// HTTP/2 for gRPC, which there is over nothing else.
    Auto,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// Version 1: a line of text.
    V1,
    /// Version 2: binary.
    V2,
}

/// How an instance is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// At random, by weight.
    Random,
    /// The one with fewer requests in flight, of two picked at random.
    LeastLoaded,
    /// The one with the lower recent latency, of two picked at random.
    PeakEwma,
    /// The same one for the same client.
    Hash,
}

/// TLS towards instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceTls {
    /// A PEM file of authorities to trust instead of the system's.
    pub ca: Option<Spanned<PathBuf>>,
    /// The name that is asked for and that the certificate must carry. Default: the host of the instance.
    pub server_name: Option<Spanned<String>>,
    /// The oldest protocol version that is accepted.
    pub min_version: TlsVersion,
    /// A certificate to present to instances that ask for one.
    pub client: Option<super::Certificate>,
}

/// Active checks: a request to every instance now and then.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// The path that is asked for.
    pub path: String,
    /// The time between two checks of an instance.
    #[serde(default = "five_seconds")]
    pub interval: Duration,
    /// How long a check may take.
    #[serde(default = "one_second")]
    pub timeout: Duration,
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

/// Connections to an instance, of all workers together unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConnections {
    /// The most that are open at once. With fewer than there are workers, they take them from each other.
    pub open: NonZeroUsize,
    /// How many requests may wait for one when all are in use; any more are refused at once, with the cause `queue_full`.
    pub waiting: usize,
    /// How long a request waits for one before it is refused. `"0s"`: as long as it takes.
    pub wait: Duration,
    /// The most that a worker keeps when nobody uses them.
    pub idle: usize,
    /// How long one is kept that nobody uses. `"0s"`: for ever.
    pub keep: Duration,
    /// How old one becomes before it takes no further request. `"0s"`: as old as it likes.
    pub age: Duration,
    /// How many requests one takes. Default: as many as come.
    pub requests: Option<NonZeroU64>,
}

impl Default for ServiceConnections {
    fn default() -> Self {
        Self {
            open: NonZeroUsize::new(10_000).expect("it is more than 0"),
            waiting: 1_000,
            wait: Duration::from_secs(1),
            idle: 256,
            keep: Duration::from_secs(60),
            age: Duration::from_secs(0),
            requests: None,
        }
    }
}

/// Clocks of an attempt; `"0s"` turns one off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceTimeouts {
    /// To open a connection.
    pub connect: Duration,
    /// From the end of the request to the head of the answer.
    pub first_byte: Duration,
    /// Between two pieces of a body, either way; and in a tunnel, once one side has said that nothing more comes from it.
    pub idle: Duration,
    /// Between two pieces of what is sent, either way, once another protocol is spoken (WebSocket).
    pub tunnel: Duration,
}

impl Default for ServiceTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            tunnel: Duration::from_secs(60 * 60),
        }
    }
}

/// When a request is tried again, on another instance if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How many tries in all, the first included.
    pub attempts: NonZeroU32,
    /// What is tried again.
    #[serde(default = "connect_and_reset")]
    pub on: Vec<RetryOn>,
    /// The pause before the second try; it doubles with every further one, with jitter.
    #[serde(default = "twenty_five_milliseconds")]
    pub backoff: Duration,
}

fn connect_and_reset() -> Vec<RetryOn> {
    vec![RetryOn::Connect, RetryOn::Reset]
}

fn twenty_five_milliseconds() -> Duration {
    Duration::from_millis(25)
}

/// A reason to try again: `"connect"`, `"reset"`, or a status such as `503`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// No connection came about.
    Connect,
    /// The connection broke before the head of the answer.
    Reset,
    /// The answer had this status.
    Status(http::StatusCode),
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = RetryOn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"connect\", \"reset\" or a status from 400 to 599")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<RetryOn, E> {
                match word {
                    "connect" => Ok(RetryOn::Connect),
                    "reset" => Ok(RetryOn::Reset),
                    _ if word.parse::<u16>().is_ok() => {
                        Err(E::custom(format!("a status is a number: write {word} without quotes")))
                    }
                    _ => Err(E::custom(format!(
                        "`{word}` is no reason to try again; write \"connect\", \"reset\" or a status such as 503"
                    ))),
                }
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<RetryOn, E> {
                u16::try_from(number)
                    .ok()
                    .filter(|code| (400..600).contains(code))
                    .and_then(|code| http::StatusCode::from_u16(code).ok())
                    .map(RetryOn::Status)
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Serialize for RetryOn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Connect => serializer.serialize_str("connect"),
            Self::Reset => serializer.serialize_str("reset"),
            Self::Status(status) => serializer.serialize_u16(status.as_u16()),
        }
    }
}

impl JsonSchema for RetryOn {
    fn schema_name() -> Cow<'static, str> {
        "RetryOn".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "Reason to try again",
            "anyOf": [
                { "enum": ["connect", "reset"] },
                { "type": "integer", "minimum": 400, "maximum": 599 },
            ],
        })
    }
}
