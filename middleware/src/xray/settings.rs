//! The settings, and what is wrong with them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use portcullis_config::units::Pairs;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use crate::plugin::IntoKeyPath;
use crate::prelude::*;

use super::address::DaemonAddress;
use super::document::{MAX_ANNOTATION, MAX_ANNOTATIONS};
use super::naming::{MAX_NAME, illegal_character, is_annotation_key};
use super::record::Value;
use super::sampling::Rate;
use super::{HostPattern, Limits};

/// Traces requests with AWS X-Ray.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct XRay {
    /// The segments' name: a node of the service map. The environment's `AWS_XRAY_TRACING_NAME` wins.
    pub name: String,
    /// Hosts that name their segments themselves, such as `*.example.com`; any other host's have `name`.
    pub dynamic_name: Vec<String>,
    /// Where segments go.
    pub exporter: ExporterKind,
    /// The daemon: `host:port`, or `tcp:host:port udp:host:port`. The environment's `AWS_XRAY_DAEMON_ADDRESS` wins.
    pub daemon: String,
    /// The AWS region, for `exporter = "api"`. Not in this version.
    pub region: Option<String>,
    /// Which platform's facts are recorded.
    pub platform: Platform,
    /// Which trace headers are read and written.
    pub propagation: Propagation,
    /// Whose trace ids and sampling decisions are believed.
    pub trust: Trust,
    /// When the answer to the client names the trace.
    pub response_header: ResponseHeader,
    /// Which requests are recorded, where the caller does not say.
    pub sampling: Sampling,
    /// The OTLP endpoint, for `exporter = "otlp"`. Not in this version.
    pub otlp: Option<serde_json::Map<String, serde_json::Value>>,
    /// How many segments may wait to be sent, and how long.
    pub queue: Queue,
    /// Annotations on every segment: strings, numbers or booleans. X-Ray finds traces by them.
    pub annotations: Pairs<String, Value>,
    /// Annotations from the request's headers: the annotation's key, and the header.
    pub annotate_headers: Pairs<String, HeaderName>,
    /// Headers of the request that are kept as metadata, which is shown and not searched.
    pub metadata_headers: Vec<HeaderName>,
    /// Which parts of a request have subsegments.
    pub subsegments: Subsegments,
    /// After how long an unfinished request is shown. Not in this version.
    pub in_progress_after: Option<Duration>,
    /// How many faults a second are recorded although they were not sampled. Not in this version, which records none.
    pub capture_errors_per_second: u32,
}

impl Default for XRay {
    fn default() -> Self {
        Self {
            name: "edge-gateway".to_owned(),
            dynamic_name: Vec::new(),
            exporter: ExporterKind::Daemon,
            daemon: "127.0.0.1:2000".to_owned(),
            region: None,
            platform: Platform::None,
            propagation: Propagation::Xray,
            trust: Trust::TrustedProxies,
            response_header: ResponseHeader::OnRequest,
            sampling: Sampling::default(),
            otlp: None,
            queue: Queue::default(),
            annotations: Pairs::default(),
            annotate_headers: Pairs::default(),
            metadata_headers: Vec::new(),
            subsegments: Subsegments::Attempts,
            in_progress_after: None,
            capture_errors_per_second: 0,
        }
    }
}

/// Where segments go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExporterKind {
    /// To the X-Ray daemon, the CloudWatch agent or a collector, by UDP.
    Daemon,
    /// To standard output, a document a line.
    Stdout,
    /// Nowhere: headers are continued and nothing is recorded.
    Off,
    /// To AWS, by its API. Not in this version.
    Api,
    /// To an OTLP endpoint. Not in this version.
    Otlp,
}

/// Which platform's facts are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// None.
    None,
    /// What the environment tells. Not in this version.
    Auto,
    /// An EC2 instance. Not in this version.
    Ec2,
    /// An ECS task. Not in this version.
    Ecs,
    /// A pod of EKS. Not in this version.
    Eks,
}

/// Which trace headers are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// `X-Amzn-Trace-Id`.
    Xray,
    /// None: they pass untouched.
    None,
    /// `traceparent`. Not in this version.
    W3c,
    /// Either. Not in this version.
    Both,
}

/// Whose trace ids and sampling decisions are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Those of `trusted_proxies`.
    TrustedProxies,
    /// Everybody's.
    Always,
    /// Nobody's.
    Never,
    /// Those of `trusted_proxies`; what others claim is recorded as a link.
    Link,
}

/// When the answer to the client names the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseHeader {
    /// Never; an upstream's own header passes.
    Off,
    /// When a trusted caller asked for the decision (`Sampled=?`).
    OnRequest,
    /// Always.
    Always,
}

/// Which parts of a request have subsegments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Subsegments {
    /// Nothing.
    Off,
    /// Every attempt upstream.
    Attempts,
    /// Attempts with their phases, and slow middlewares. Not in this version.
    Full,
}

/// Which requests are recorded, where the caller does not say.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// What decides.
    pub mode: SamplingMode,
    /// A file with rules. Not in this version.
    pub local_rules: Option<std::path::PathBuf>,
    /// How many requests a second are recorded for sure; 1 unless given.
    pub reservoir: Option<u32>,
    /// Which share of the rest is recorded, from 0 to 1; 0.05 unless given.
    pub rate: Option<f64>,
    /// Whether AWS may raise the rate when things go wrong. Not in this version.
    pub adaptive: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { mode: SamplingMode::Local, local_rules: None, reservoir: None, rate: None, adaptive: false }
    }
}

/// What decides where the caller did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SamplingMode {
    /// `reservoir` and `rate`.
    Local,
    /// The caller; without its word, `reservoir` and `rate`.
    Parent,
    /// Every request is recorded.
    Always,
    /// No request is recorded.
    Never,
    /// The rules of the AWS account. Not in this version.
    Central,
}

/// How many segments may wait to be sent, and how long.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// How many segments. 256 faults have room besides.
    pub documents: usize,
    /// How much memory they may take, about.
    pub bytes: Size,
    /// How long a segment waits for others to be sent with.
    pub flush: Duration,
    /// How long a stopping gateway goes on sending.
    pub shutdown_flush: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            documents: 2048,
            bytes: Size::from_kib(8 * 1024),
            flush: Duration::from_millis(200),
            shutdown_flush: Duration::from_secs(2),
        }
    }
}

/// Settings that cannot be wrong any more.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) name: String,
    pub(super) dynamic_name: Vec<HostPattern>,
    pub(super) daemon: DaemonAddress,
    pub(super) sampling: SamplingMode,
    pub(super) local_rule: (u32, Rate),
    pub(super) limits: Limits,
    pub(super) annotations: Vec<(String, Value)>,
    pub(super) annotate_headers: Vec<(Arc<str>, http::HeaderName)>,
    pub(super) metadata_headers: Vec<http::HeaderName>,
}

/// The most that a queue's lane is made for.
const MAX_DOCUMENTS: usize = 1 << 20;
/// A plan's tasks are given this long to stop.
const STOP_WITHIN: StdDuration = StdDuration::from_secs(2);
/// CloudFront's id of a request; AWS asks for it in support cases.
const CLOUDFRONT_ID: http::HeaderName = http::HeaderName::from_static("x-amz-cf-id");

impl XRay {
    /// Checks everything, and says all that is wrong at once.
    pub(super) fn check(
        self,
        variable: impl Fn(&str) -> Option<String>,
        context: &Context<'_>,
    ) -> Result<Checked, BuildError> {
        // An empty variable is how compose files say "not set".
        let variable = |name| variable(name).filter(|value| !value.trim().is_empty());
        let mut faults = self.not_yet();

        let name = match variable("AWS_XRAY_TRACING_NAME") {
            Some(name) => {
                faults.check("name", name_fault(&name).map(|fault| format!("from AWS_XRAY_TRACING_NAME {fault}")));
                name
            }
            None => {
                faults.check("name", name_fault(&self.name));
                self.name
            }
        };
        for (index, pattern) in self.dynamic_name.iter().enumerate() {
            if pattern.is_empty() {
                faults.add(("dynamic_name", index), "has an empty pattern");
            }
        }

        let daemon = match variable("AWS_XRAY_DAEMON_ADDRESS") {
            Some(text) => {
                DaemonAddress::from_str(&text).map_err(|fault| format!("from AWS_XRAY_DAEMON_ADDRESS {fault}"))
            }
            None => DaemonAddress::from_str(&self.daemon).map_err(|fault| fault.to_string()),
        };
        let daemon = faults.keep("daemon", daemon);

        let rate = self.sampling.rate.unwrap_or(0.05);
        let rate = Rate::new(rate).ok_or_else(|| format!("is {rate}; a share is 0 to 1, such as 0.05 for 5 %"));
        let rate = faults.keep(["sampling", "rate"], rate);
        if matches!(self.sampling.mode, SamplingMode::Always | SamplingMode::Never) {
            for (key, given) in
                [("reservoir", self.sampling.reservoir.is_some()), ("rate", self.sampling.rate.is_some())]
            {
                if given {
                    context.warn(["sampling", key], "has no effect in this `mode`");
                }
            }
        }

        if !(1..=MAX_DOCUMENTS).contains(&self.queue.documents) {
            faults.add(["queue", "documents"], format!("must be 1 to {MAX_DOCUMENTS}"));
        }
        if self.queue.bytes.bytes() == 0 {
            faults.add(["queue", "bytes"], "leaves no room at all; to record nothing, write `exporter = \"off\"`");
        }
        if *self.queue.shutdown_flush > STOP_WITHIN {
            context.warn(["queue", "shutdown_flush"], "is more than the two seconds that a stopping gateway waits");
        }
        let limits = Limits {
            documents: self.queue.documents,
            bytes: self.queue.bytes.as_usize(),
            flush: *self.queue.flush,
            shutdown_flush: *self.queue.shutdown_flush,
        };

        check_annotations(&self.annotations, &self.annotate_headers, &mut faults);
        for (index, header) in self.metadata_headers.iter().enumerate() {
            faults.check(("metadata_headers", index), secret_fault(header));
        }
        let mut metadata_headers: Vec<http::HeaderName> = self.metadata_headers.into_iter().map(Into::into).collect();
        if !metadata_headers.contains(&CLOUDFRONT_ID) {
            metadata_headers.push(CLOUDFRONT_ID);
        }

        match (daemon, rate) {
            (Some(daemon), Some(rate)) if faults.0.faults.is_empty() => Ok(Checked {
                name,
                dynamic_name: self.dynamic_name.iter().map(|pattern| HostPattern::new(pattern)).collect(),
                daemon,
                sampling: self.sampling.mode,
                local_rule: (self.sampling.reservoir.unwrap_or(1), rate),
                limits,
                annotations: self.annotations.0,
                annotate_headers: self
                    .annotate_headers
                    .into_iter()
                    .map(|(key, name)| (key.into(), name.into()))
                    .collect(),
                metadata_headers,
            }),
            _ => Err(faults.0),
        }
    }

    /// What the settings ask for and this version does not do. Never ignored in silence.
    fn not_yet(&self) -> Faults {
        let mut faults = Faults::default();
        if let ExporterKind::Api | ExporterKind::Otlp = self.exporter {
            faults.add("exporter", "can be `daemon`, `stdout` or `off` in this version");
        }
        if self.region.is_some() {
            faults.add("region", "has no use in this version, which sends to the daemon; the daemon knows its region");
        }
        if self.platform != Platform::None {
            faults.add("platform", "can only be `none` in this version");
        }
        if let Propagation::W3c | Propagation::Both = self.propagation {
            faults.add("propagation", "can be `xray` or `none` in this version");
        }
        if self.sampling.mode == SamplingMode::Central {
            faults.add(["sampling", "mode"], "can be `local`, `parent`, `always` or `never` in this version");
        }
        if self.sampling.local_rules.is_some() {
            faults.add(["sampling", "local_rules"], "cannot be read in this version; write `reservoir` and `rate`");
        }
        if self.sampling.adaptive {
            faults.add(["sampling", "adaptive"], "cannot be on in this version");
        }
        if self.otlp.is_some() {
            faults.add("otlp", "has no use in this version, which sends to the daemon");
        }
        if self.subsegments == Subsegments::Full {
            faults.add("subsegments", "can be `off` or `attempts` in this version");
        }
        if self.in_progress_after.is_some() {
            faults.add("in_progress_after", "cannot be set in this version, which shows requests when they are over");
        }
        if self.capture_errors_per_second != 0 {
            faults.add("capture_errors_per_second", "can only be 0 in this version");
        }
        faults
    }
}

/// Faults as they come up.
#[derive(Default)]
struct Faults(BuildError);

impl Faults {
    fn add(&mut self, key: impl IntoKeyPath, sentence: impl Into<String>) {
        self.0.add(key, sentence);
    }

    fn check(&mut self, key: impl IntoKeyPath, fault: Option<String>) {
        if let Some(sentence) = fault {
            self.add(key, sentence);
        }
    }

    fn keep<T>(&mut self, key: impl IntoKeyPath, value: Result<T, String>) -> Option<T> {
        value.map_err(|sentence| self.add(key, sentence)).ok()
    }
}

fn name_fault(name: &str) -> Option<String> {
    let length = name.chars().count();
    if name.trim().is_empty() {
        return Some("is empty".to_owned());
    }
    if length > MAX_NAME {
        return Some(format!("has {length} characters; X-Ray takes {MAX_NAME}"));
    }
    let character = illegal_character(name)?;
    Some(format!("has {character:?}; X-Ray takes letters, digits, spaces and _ . : / % & # = + - @"))
}

fn check_annotations(fixed: &Pairs<String, Value>, headers: &Pairs<String, HeaderName>, faults: &mut Faults) {
    const PLAIN: &str = "cannot be an annotation's key: 1 to 500 letters, digits and _";
    for (key, value) in fixed {
        if !is_annotation_key(key) {
            faults.add(["annotations", key.as_str()], PLAIN);
        }
        faults.check(["annotations", key.as_str()], value_fault(value));
    }
    for (key, header) in headers {
        if !is_annotation_key(key) {
            faults.add(["annotate_headers", key.as_str()], PLAIN);
        }
        if fixed.iter().any(|(other, _)| other == key) {
            faults.add(["annotate_headers", key.as_str()], "is in `annotations` as well; one of them must go");
        }
        faults.check(["annotate_headers", key.as_str()], secret_fault(header));
    }
    let count = fixed.len() + headers.len();
    if count > MAX_ANNOTATIONS {
        let key = if headers.is_empty() { "annotations" } else { "annotate_headers" };
        faults.add(key, format!("makes {count} annotations in all; X-Ray takes {MAX_ANNOTATIONS} in a trace"));
    }
}

fn value_fault(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) if text.is_empty() => Some("is empty".to_owned()),
        Value::Text(text) if text.chars().count() > MAX_ANNOTATION => {
            Some(format!("is too long: X-Ray takes {MAX_ANNOTATION} characters"))
        }
        Value::Number(number) if !number.is_finite() => Some("must be a number that can be written down".to_owned()),
        _ => None,
    }
}

/// Traces are read by many people: credentials have no place in them.
fn secret_fault(header: &http::HeaderName) -> Option<String> {
    let secret = ["authorization", "proxy-authorization", "cookie", "set-cookie"].contains(&header.as_str());
    secret.then(|| format!("would record `{header}`, which holds credentials"))
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyOfThem;

        impl Visitor<'_> for AnyOfThem {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number or a boolean")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Integer(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
                i64::try_from(number).map(Value::Integer).map_err(|_| E::custom(format!("{number} is too large")))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
                Ok(Value::Number(number))
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
                Ok(Value::Flag(flag))
            }
        }

        deserializer.deserialize_any(AnyOfThem)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Number(number) => serializer.serialize_f64(*number),
            Value::Flag(flag) => serializer.serialize_bool(*flag),
        }
    }
}

impl JsonSchema for Value {
    fn schema_name() -> Cow<'static, str> {
        "Annotation".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Shared;

    fn check(settings: XRay, environment: &[(&str, &str)]) -> Result<Checked, BuildError> {
        let variable =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        settings.check(variable, &Context::new("trace", &Shared::default()))
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let settings = || XRay { name: "file".into(), daemon: "file:1".into(), ..XRay::default() };
        let environment = [("AWS_XRAY_TRACING_NAME", "sky"), ("AWS_XRAY_DAEMON_ADDRESS", "tcp:sky:2 udp:sky:3")];
        let checked = check(settings(), &environment).unwrap();
        assert_eq!((checked.name.as_str(), checked.daemon.udp.to_string().as_str()), ("sky", "sky:3"));

        let checked = check(settings(), &[("AWS_XRAY_TRACING_NAME", ""), ("AWS_XRAY_DAEMON_ADDRESS", " ")]).unwrap();
        assert_eq!((checked.name.as_str(), checked.daemon.to_string().as_str()), ("file", "file:1"));
    }

    #[test]
    fn a_fault_in_the_environment_says_where_it_comes_from() {
        let environment = [("AWS_XRAY_TRACING_NAME", "a*b"), ("AWS_XRAY_DAEMON_ADDRESS", "nowhere")];
        let faults = check(XRay::default(), &environment).unwrap_err().to_string();
        assert!(faults.contains("`name` from AWS_XRAY_TRACING_NAME has '*'"), "{faults}");
        assert!(faults.contains("`daemon` from AWS_XRAY_DAEMON_ADDRESS has no `host:port`"), "{faults}");
    }

    #[test]
    fn the_defaults_are_one_a_second_and_five_percent() {
        let checked = check(XRay::default(), &[]).unwrap();
        assert_eq!(checked.local_rule, (1, Rate::new(0.05).unwrap()));
        assert_eq!((checked.sampling, checked.daemon.to_string().as_str()), (SamplingMode::Local, "127.0.0.1:2000"));
    }
}
