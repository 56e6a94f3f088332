//! A daemon that believes nothing: every datagram is checked against what X-Ray documents of its segment documents.

use std::collections::HashSet;

use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Checks a datagram and returns its document.
///
/// # Panics
/// If anything about it is not as documented; the message has the document.
pub(crate) fn check(datagram: &[u8]) -> Value {
    let text = std::str::from_utf8(datagram).expect("a document is UTF-8");
    let (header, document) = text.split_once('\n').expect("a header line comes first");
    assert_eq!(header, r#"{"format":"json","version":1}"#);
    assert!(datagram.len() <= 65_507, "{} bytes fit into no datagram", datagram.len());
    check_document(document)
}

/// Checks a document without its header line.
pub(crate) fn check_document(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
    let checker = Checker { text };
    checker.document(value.as_object().unwrap_or_else(|| panic!("no object: {text}")));
    value
}

struct Checker<'a> {
    text: &'a str,
}

impl Checker<'_> {
    #[track_caller]
    fn ensure(&self, holds: bool, what: &str) {
        assert!(holds, "{what}\n{}", self.text);
    }

    fn document(&self, document: &Object) {
        self.ensure(self.text.len() <= 65_536, "64 KiB at most");
        self.ensure(!self.text.contains('\n'), "one line");
        self.ensure(is_compact(self.text), "no blanks between tokens");
        self.no_empty_texts(&Value::Object(document.clone()));
        // The daemon finds both by the first match of a pattern.
        self.ensure(first(self.text, "id") == document["id"].as_str(), "the first id is the document's");
        self.ensure(first(self.text, "trace_id") == document["trace_id"].as_str(), "so is the first trace id");
        self.ensure(is_trace_id(text(&document["trace_id"])), "trace_id");

        let mut ids = HashSet::new();
        if document.get("type").is_some() {
            self.known(document, &[SUBSEGMENT, &["type", "trace_id", "parent_id"]].concat());
            self.ensure(document["type"] == "subsegment", "type");
            self.ensure(is_id(text(&document["parent_id"])), "a subsegment has a parent");
            self.subsegment(document, &mut ids);
        } else {
            self.known(document, SEGMENT);
            self.segment(document, &mut ids);
        }
    }

    fn segment(&self, segment: &Object, ids: &mut HashSet<String>) {
        self.common(segment, ids);
        self.ensure(segment.get("parent_id").is_none_or(|id| is_id(text(id))), "parent_id");
        self.each(segment, "http", |checker, http| checker.http(http, true));
        self.each(segment, "service", |checker, service| {
            checker.known(service, &["version"]);
            checker.short(service, "version", 250);
        });
        self.each(segment, "aws", |checker, aws| {
            checker.known(aws, &["xray"]);
            checker.each(aws, "xray", |checker, xray| {
                checker.known(xray, &["sdk", "sdk_version", "auto_instrumentation", "sampling_rule_name"]);
                checker.ensure(xray["auto_instrumentation"].is_boolean(), "auto_instrumentation");
            });
        });
        for link in segment.get("links").map_or(&[][..], list) {
            let link = object(link);
            self.known(link, &["trace_id", "id", "attributes"]);
            self.ensure(is_trace_id(text(&link["trace_id"])) && is_id(text(&link["id"])), "a link");
        }
        self.ensure(segment.get("links").is_none_or(|links| list(links).len() <= 20), "20 links at most");

        let mut earlier: Vec<&Object> = Vec::new();
        for subsegment in segment.get("subsegments").map_or(&[][..], list) {
            let subsegment = object(subsegment);
            self.known(subsegment, SUBSEGMENT);
            self.subsegment(subsegment, ids);
            self.ensure(time(subsegment, "start_time") >= time(segment, "start_time"), "begins within its segment");
            self.ensure(time(subsegment, "end_time") <= time(segment, "end_time"), "ends within its segment");
            for id in subsegment.get("precursor_ids").map_or(&[][..], list) {
                let precursor = earlier.iter().find(|sibling| sibling["id"] == *id);
                self.ensure(
                    precursor.is_some_and(|sibling| time(sibling, "end_time") <= time(subsegment, "start_time")),
                    "a precursor is a sibling that was over before",
                );
            }
            earlier.push(subsegment);
        }
        self.ensure(segment.get("subsegments").is_none_or(|list| list != &Value::Array(vec![])), "no empty list");
    }

    fn subsegment(&self, subsegment: &Object, ids: &mut HashSet<String>) {
        self.common(subsegment, ids);
        self.ensure(subsegment["namespace"] == "remote", "an attempt is remote");
        self.each(subsegment, "http", |checker, http| checker.http(http, false));
    }

    /// What segments and subsegments have in common.
    fn common(&self, it: &Object, ids: &mut HashSet<String>) {
        let id = text(&it["id"]);
        self.ensure(is_id(id), "id");
        self.ensure(ids.insert(id.to_owned()), "an id occurs once");
        let name = text(&it["name"]);
        self.ensure((1..=200).contains(&name.chars().count()), "a name has 1 to 200 characters");
        self.ensure(name.chars().all(is_name_character), "a name's characters");
        self.ensure(time(it, "start_time") <= time(it, "end_time"), "begins before it ends");
        self.times_are_exact();

        let flag = |key| match it.get(key) {
            None => false,
            Some(Value::Bool(true)) => true,
            Some(other) => panic!("{key} is true or absent, not {other}"),
        };
        let (error, throttle, fault) = (flag("error"), flag("throttle"), flag("fault"));
        let status = it.get("http").and_then(|http| http.get("response")?.get("status")?.as_u64()).unwrap_or(0);
        self.ensure(error || !(400..500).contains(&status), "4xx is an error");
        self.ensure(fault || !(500..600).contains(&status), "5xx is a fault");
        self.ensure(throttle || status != 429, "429 is throttled");
        self.ensure(error || !throttle, "what is throttled is an error as well");

        self.each(it, "cause", |checker, cause| {
            checker.known(cause, &["exceptions"]);
            checker.ensure(error || fault, "a cause has an effect");
            for exception in list(&cause["exceptions"]) {
                let exception = object(exception);
                checker.known(exception, &["id", "type", "message", "remote"]);
                checker.ensure(is_id(text(&exception["id"])), "an exception's id");
                checker.short(exception, "message", 250);
            }
        });
        self.each(it, "annotations", |checker, annotations| {
            checker.ensure(annotations.len() <= 50, "50 annotations at most");
            for (key, value) in annotations {
                let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                checker.ensure(plain && (1..=500).contains(&key.len()), "an annotation's key");
                let fits = match value {
                    Value::String(text) => text.chars().count() <= 1000,
                    Value::Number(_) | Value::Bool(_) => true,
                    _ => false,
                };
                checker.ensure(fits, "an annotation's value");
            }
        });
        self.each(it, "metadata", |checker, metadata| {
            for (namespace, value) in metadata {
                checker.ensure(value.is_object() && !namespace.starts_with("AWS."), "metadata is in namespaces");
            }
        });
    }

    fn http(&self, http: &Object, segment: bool) {
        self.known(http, &["request", "response"]);
        self.each(http, "request", |checker, request| {
            let mine: &[&str] = if segment { &["user_agent", "client_ip", "x_forwarded_for"] } else { &["traced"] };
            checker.known(request, &[&["method", "url"], mine].concat());
            for key in ["method", "url", "user_agent", "client_ip"] {
                checker.short(request, key, 250);
            }
            let url = request.get("url").map_or("", text);
            checker.ensure(!url.contains('?') && !url.contains('@'), "a url has no query and no user");
            checker.ensure(request.get("x_forwarded_for").is_none_or(Value::is_boolean), "x_forwarded_for");
        });
        self.each(http, "response", |checker, response| {
            checker.known(response, &["status", "content_length"]);
            for (key, value) in response {
                checker.ensure(value.is_u64(), key);
            }
        });
    }

    /// Every time is written with six decimals and without an exponent.
    fn times_are_exact(&self) {
        for key in ["start_time", "end_time"] {
            for (at, found) in self.text.match_indices(&format!("\"{key}\":")) {
                let number = self.text[at + found.len()..].split([',', '}']).next().unwrap();
                let exact = number.split_once('.').is_some_and(|(seconds, micros)| {
                    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
                    seconds.len() == 10 && micros.len() == 6 && digits(seconds) && digits(micros)
                });
                self.ensure(exact, "a time is seconds and microseconds");
            }
        }
    }

    fn known(&self, it: &Object, keys: &[&str]) {
        for key in it.keys() {
            self.ensure(keys.contains(&key.as_str()), &format!("unknown key {key}"));
        }
    }

    /// Checks the object under a key, if there is one. It is not empty.
    fn each(&self, it: &Object, key: &str, check: impl FnOnce(&Self, &Object)) {
        if let Some(value) = it.get(key) {
            let inner = value.as_object().unwrap_or_else(|| panic!("{key} is an object in {}", self.text));
            self.ensure(!inner.is_empty(), &format!("{key} is not empty"));
            check(self, inner);
        }
    }

    fn short(&self, it: &Object, key: &str, limit: usize) {
        if let Some(value) = it.get(key) {
            self.ensure((1..=limit).contains(&text(value).chars().count()), &format!("the length of {key}"));
        }
    }

    fn no_empty_texts(&self, value: &Value) {
        match value {
            Value::String(text) => self.ensure(!text.is_empty(), "no empty texts"),
            Value::Array(items) => items.iter().for_each(|item| self.no_empty_texts(item)),
            Value::Object(entries) => entries.values().for_each(|value| self.no_empty_texts(value)),
            _ => {}
        }
    }
}

const SEGMENT: &[&str] = &[
    "name",
    "id",
    "trace_id",
    "parent_id",
    "start_time",
    "end_time",
    "error",
    "throttle",
    "fault",
    "cause",
    "http",
    "service",
    "aws",
    "annotations",
    "metadata",
    "links",
    "subsegments",
];

const SUBSEGMENT: &[&str] = &[
    "name",
    "id",
    "namespace",
    "start_time",
    "end_time",
    "error",
    "throttle",
    "fault",
    "cause",
    "http",
    "metadata",
    "precursor_ids",
];

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is text"))
}

fn object(value: &Value) -> &Object {
    value.as_object().unwrap_or_else(|| panic!("{value} is an object"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is a list"))
}

fn time(it: &Object, key: &str) -> f64 {
    it[key].as_f64().unwrap_or_else(|| panic!("{key} is a number"))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_id(text: &str) -> bool {
    is_hex(text, 16) && text != "0000000000000000"
}

fn is_trace_id(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    matches!(parts.as_slice(), ["1", time, rest] if is_hex(time, 8) && is_hex(rest, 24))
}

/// Close to the schema's classes, without tables of our own: no test uses combining marks.
fn is_name_character(c: char) -> bool {
    c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "_.:/%&#=+-@".contains(c)
}

fn first<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\"{key}\":\""))?;
    rest.split('"').next()
}

fn is_compact(text: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => return false,
            _ => {}
        }
    }
    true
}
