//! A [`Record`] becomes segment documents, each a datagram for X-Ray's daemon: a header line and one line of JSON.
//!
//! Usually that is one document, the attempts embedded. One that is too large for the way it must go loses detail
//! step by step, and what cannot be left out goes alone, so that a trace is poorer rather than gone.

use std::fmt;

use super::ids::SpanId;
use super::json::Object;
use super::naming::{cut, is_annotation_key, segment_name, text};
use super::record::{Call, Failure, Flags, Record, Value};

/// What the daemon wants to see before a document.
pub const HEADER: &[u8] = b"{\"format\":\"json\",\"version\":1}\n";

/// The largest datagram that IPv4 can carry; IPv6 carries a little more.
pub const MAX_DATAGRAM: usize = 65_507;

/// A document has this many annotations at most: X-Ray indexes no more in a trace.
pub const MAX_ANNOTATIONS: usize = 50;

/// X-Ray's limit for texts that have none of their own. It counts characters.
const MAX_TEXT: usize = 250;
/// For an annotation's text.
pub const MAX_ANNOTATION: usize = 1000;
/// For an annotation that comes from a header: what strangers write should not fill a trace.
const MAX_HEADER_ANNOTATION: usize = 200;
/// For texts in a document that is too large.
const TRIMMED: usize = 60;

/// Datagrams, one after the other in memory that is used again and again.
#[derive(Debug, Default)]
pub struct Datagrams {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// How many documents did not fit in their smallest form.
    pub too_large: u64,
}

impl Datagrams {
    /// Each datagram, in the order they must be sent.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Makes datagrams of at most `limit` bytes out of a record; what was here before is gone.
    ///
    /// The steps, until it fits: everything · no metadata · short texts · attempts as documents of their own, which
    /// go first · the bare segment.
    pub fn fill(&mut self, record: &Record, limit: usize) {
        self.bytes.clear();
        self.ends.clear();
        self.too_large = 0;
        let whole = Detail { metadata: true, text: usize::MAX, attempts: true, bare: false };
        let poorer = Detail { metadata: false, ..whole };
        let trimmed = Detail { text: TRIMMED, ..poorer };
        if [whole, poorer, trimmed].into_iter().any(|detail| self.push(limit, |out| segment(out, record, detail))) {
            return;
        }
        for (index, call) in record.attempts.iter().enumerate() {
            let fits =
                self.push(limit, |out| Object::write(out, |object| lone_subsegment(object, record, index, call)));
            self.too_large += u64::from(!fits);
        }
        let alone = Detail { attempts: false, ..trimmed };
        let bare = Detail { bare: true, ..alone };
        let fits = [alone, bare].into_iter().any(|detail| self.push(limit, |out| segment(out, record, detail)));
        self.too_large += u64::from(!fits);
    }

    /// Writes one datagram, and takes it back if it is too large.
    fn push(&mut self, limit: usize, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(HEADER);
        write(&mut self.bytes);
        let fits = self.bytes.len() - start <= limit;
        if fits {
            self.ends.push(self.bytes.len());
        } else {
            self.bytes.truncate(start);
        }
        fits
    }
}

/// How much a segment tells.
#[derive(Clone, Copy)]
struct Detail {
    metadata: bool,
    /// The longest text, below X-Ray's own limits.
    text: usize,
    /// Whether the attempts are in it.
    attempts: bool,
    /// Only what X-Ray requires and what the trace map shows.
    bare: bool,
}

impl Detail {
    fn cut<'a>(&self, text: &'a str, limit: usize) -> &'a str {
        cut(text, limit.min(self.text))
    }
}

fn segment(out: &mut Vec<u8>, record: &Record, detail: Detail) {
    Object::write(out, |segment| {
        // The id comes before anything that could hold another: the daemon takes the first it finds.
        segment.plain("id", &record.id.text());
        segment.plain("trace_id", &record.trace.text());
        if let Some(parent) = record.parent {
            segment.plain("parent_id", &parent.text());
        }
        segment.text("name", cut(record.name.as_deref().unwrap_or(&record.profile.name), MAX_TEXT));
        segment.seconds("start_time", record.span.start);
        segment.seconds("end_time", record.span.end());
        flags(segment, record.flags());
        segment.object("http", |http| {
            http.object("request", |request| {
                request.text("method", detail.cut(record.method.as_str(), MAX_TEXT));
                if !detail.bare {
                    request.text("url", detail.cut(&record.url, MAX_TEXT));
                    if let Some(agent) = &record.user_agent {
                        request.text("user_agent", detail.cut(&text(agent.as_bytes()), MAX_TEXT));
                    }
                }
                if let Some(client) = record.client {
                    request.address("client_ip", client);
                    request.flag("x_forwarded_for", record.forwarded);
                }
            });
            http.object("response", |response| answer(response, record.status, record.bytes));
        });
        if detail.bare {
            segment.object("annotations", |annotations| annotations.flag("truncated", true));
            return;
        }
        // An answer of our own that is no error has no cause to show.
        let failure = record.failure.filter(|_| record.flags().any());
        cause(segment, failure, detail, false);
        segment.object("service", |service| service.text("version", env!("CARGO_PKG_VERSION")));
        segment.object("aws", |aws| {
            aws.object("xray", |xray| {
                xray.text("sdk", "Portcullis for Rust");
                xray.text("sdk_version", env!("CARGO_PKG_VERSION"));
                xray.truth("auto_instrumentation", false);
            });
        });
        segment.object("annotations", |annotations| annotate(annotations, record, detail));
        if detail.metadata {
            segment.object("metadata", |metadata| metadata.object("gateway", |gateway| remember(gateway, record)));
        }
        if let Some((trace, Some(parent))) = record.claimed {
            segment.list("links", [(trace, parent)], |link, (trace, parent)| {
                link.plain("trace_id", &trace.text());
                link.plain("id", &parent.text());
            });
        }
        if detail.attempts {
            segment.list("subsegments", record.attempts.iter().enumerate(), |object, (index, call)| {
                object.plain("id", &call.id.text());
                subsegment(object, record, index, call, detail);
            });
        }
    });
}

/// An attempt as a document of its own.
fn lone_subsegment(object: &mut Object<'_>, record: &Record, index: usize, call: &Call) {
    object.plain("id", &call.id.text());
    object.plain("trace_id", &record.trace.text());
    object.plain("parent_id", &record.id.text());
    object.text("type", "subsegment");
    subsegment(object, record, index, call, Detail { metadata: false, text: TRIMMED, attempts: false, bare: false });
}

fn subsegment(object: &mut Object<'_>, record: &Record, index: usize, call: &Call, detail: Detail) {
    object.text("name", &segment_name(&call.service));
    object.text("namespace", "remote");
    object.seconds("start_time", call.span.start);
    object.seconds("end_time", call.span.end());
    flags(object, call.flags());
    object.object("http", |http| {
        http.object("request", |request| {
            request.text("method", detail.cut(record.method.as_str(), MAX_TEXT));
            request.text("url", detail.cut(&call.url, MAX_TEXT));
        });
        http.object("response", |response| answer(response, call.status, call.bytes));
    });
    cause(object, call.failure, detail, true);
    let (earlier, _) = record.attempts.split_at(index);
    if detail.attempts {
        object.plain_list("precursor_ids", earlier.iter().map(|earlier| earlier.id.text()));
    }
    if !detail.metadata {
        return;
    }
    object.object("metadata", |metadata| {
        metadata.object("gateway", |gateway| {
            gateway.number("attempt", index + 1);
            gateway.text("address", &call.instance);
            // Why there is a second attempt: how the one before it ended.
            if let Some(failure) = earlier.last().and_then(|earlier| earlier.failure) {
                gateway.text("reason", failure.kind);
            } else if let Some(status) = earlier.last().and_then(|earlier| earlier.status) {
                gateway.number("reason", status);
            }
            gateway.truth("reused_connection", call.reused);
            if let Some(connect) = call.connect {
                gateway.seconds("connect_seconds", connect);
            }
            if let Some(head) = call.head {
                gateway.seconds("first_byte_seconds", head);
            }
        });
    });
}

fn flags(object: &mut Object<'_>, flags: Flags) {
    object.flag("error", flags.error);
    object.flag("throttle", flags.throttle);
    object.flag("fault", flags.fault);
}

fn answer(response: &mut Object<'_>, status: Option<u16>, bytes: Option<u64>) {
    if let Some(status) = status {
        response.number("status", status);
    }
    if let Some(bytes) = bytes {
        response.number("content_length", bytes);
    }
}

fn cause(object: &mut Object<'_>, failure: Option<Failure>, detail: Detail, upstream: bool) {
    let Some(failure) = failure else { return };
    object.object("cause", |cause| {
        cause.list("exceptions", [failure], |exception, failure| {
            exception.plain("id", &SpanId::mint().text());
            exception.text("type", failure.kind);
            exception.text("message", detail.cut(failure.message, MAX_TEXT));
            // A client that leaves is not the upstream's doing, whichever attempt it cut short.
            exception.flag("remote", upstream && failure != Failure::CLIENT_GONE);
        });
    });
}

/// Writes the annotations: those of the settings, those from headers, then what the gateway knows by itself, as many
/// as X-Ray takes. A key that was set by hand is not set again.
fn annotate(annotations: &mut Object<'_>, record: &Record, detail: Detail) {
    let mut keys: Vec<&str> = Vec::with_capacity(MAX_ANNOTATIONS);
    let mut new = |key| {
        let new = keys.len() < MAX_ANNOTATIONS && !keys.contains(&key);
        if new {
            keys.push(key);
        }
        new
    };
    for (key, value) in &record.profile.annotations {
        debug_assert!(is_annotation_key(key), "checked when the middleware was built");
        if !new(key) {
            continue;
        }
        match value {
            Value::Text(text) => annotations.text(key, detail.cut(text, MAX_ANNOTATION)),
            Value::Integer(number) => annotations.number(key, *number),
            Value::Number(number) => annotations.decimal(key, *number),
            Value::Flag(flag) => annotations.truth(key, *flag),
        }
    }
    for (key, value) in &record.annotations {
        if !value.is_empty() && new(key) {
            annotations.text(key, detail.cut(&text(value.as_bytes()), MAX_HEADER_ANNOTATION));
        }
    }
    let route = record.route.as_ref().map(|route| route.name.as_str());
    for (key, known) in [("route", route), ("upstream", record.service.as_deref())] {
        if let Some(known) = known.filter(|known| !known.is_empty() && new(key)) {
            annotations.text(key, detail.cut(known, MAX_ANNOTATION));
        }
    }
    if new("attempts") {
        annotations.number("attempts", record.tries);
    }
    if let Some(status) = record.grpc_status.filter(|_| new("grpc_status")) {
        annotations.number("grpc_status", status);
    }
}

/// Writes what is worth keeping and not worth indexing.
fn remember(gateway: &mut Object<'_>, record: &Record) {
    if let Some(head) = record.head {
        gateway.seconds("first_byte_seconds", head);
    }
    if let Some(balancer) = &record.balancer {
        gateway.text("self", balancer);
    }
    if let Some((trace, parent)) = record.claimed {
        let parent = parent.map_or_else(String::new, |parent| format!(";Parent={parent}"));
        gateway.text("claimed_trace", &format!("Root={trace}{parent}"));
    }
    for (name, value) in &record.headers {
        gateway.text(name.as_str(), cut(&text(value.as_bytes()), MAX_ANNOTATION));
    }
}

impl fmt::Display for Datagrams {
    /// The documents without their header lines, one a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|datagram| {
            let document = datagram.strip_prefix(HEADER).unwrap_or(datagram);
            writeln!(f, "{}", text(document))
        })
    }
}
