//! One request as one line of JSON.
//!
//! ```json
//! {"time":"2026-11-22T08:30:00.123Z","request_id":"7f…","client":"203.0.113.9","client_origin":"peer",
//!  "peer":"203.0.113.9:50000","listener":"web","method":"GET","scheme":"http","host":"shop.example","path":"/cart",
//!  "protocol":"HTTP/1.1","route":"cart","service":"orders","instance":"10.0.0.7:9001","attempts":1,"status":200,
//!  "bytes_in":0,"bytes_out":512,"ms":{"total":4.120,"chain":0.031,"connect":0.002,"first_byte":3.640,"body":0.310}}
//! ```
//!
//! What is not known is left out. `time` is when the request arrived. `cause` is there if the gateway answered itself or
//! the answer broke off, `note` if whoever refused left one, `trace_id` if the request is traced. `host` and `path` are
//! what the client asked for; the query is left out, because it may hold what no log should. `bytes_in` and
//! `bytes_out` count bodies. Of the times, `chain` ends where the first attempt began; `connect`, `first_byte` (from the
//! begin of an attempt to the head of its answer) and `body` are the last attempt's. If there was more than one attempt,
//! or it failed, `tries` lists them all.
//!
//! Whatever a request contains, its line is one line: nothing in it ends a line, a string or a terminal's patience.

use std::cell::RefCell;
use std::fmt;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use http::Version;
use portcullis_middleware::{Attempt, Exchange};

use super::watch::End;

/// Writes a request's line, and hands it over.
pub(super) fn write(exchange: &Exchange, end: &End<'_>, hand_over: impl FnOnce(&[u8])) {
    thread_local! {
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LINE.with_borrow_mut(|line| {
        line.clear();
        request(&mut Object::begin(line), exchange, end);
        line.push(b'\n');
        hand_over(line);
    });
}

fn request(line: &mut Object<'_>, exchange: &Exchange, end: &End<'_>) {
    line.raw("time", |out| timestamp(out, exchange.started_at()));
    line.plain("request_id", exchange.request_id());
    if let Ok(client) = exchange.client() {
        line.display("client", client.ip);
        line.display("client_origin", client.origin);
        line.display("peer", client.peer);
    }
    line.plain("listener", exchange.listener());
    line.plain("method", exchange.method().as_str());
    line.plain("scheme", exchange.scheme());
    if let Some(host) = exchange.host() {
        line.bytes("host", host.as_bytes());
    }
    line.plain("path", exchange.target().path());
    line.plain("protocol", protocol(end.protocol));
    if let Some(route) = exchange.route() {
        line.plain("route", &route.name);
    }
    if let Some(service) = exchange.service() {
        line.plain("service", service);
    }
    exchange.with_attempts(|attempts| {
        if let Some(last) = attempts.last() {
            line.plain("instance", &last.instance);
        }
        line.number("attempts", attempts.len() as u64);
        if attempts.len() > 1 || attempts.iter().any(|attempt| attempt.cause.is_some()) {
            line.raw("tries", |out| tries(out, attempts));
        }
    });
    line.number("status", u64::from(end.status.as_u16()));
    if let Some(cause) = end.cause {
        line.plain("cause", cause.name());
    }
    if let Some(note) = end.note {
        line.plain("note", note);
    }
    line.number("bytes_in", end.bytes_in);
    line.number("bytes_out", end.bytes_out);
    if let Some(trace_id) = exchange.trace_id() {
        line.plain("trace_id", trace_id);
    }
    line.raw("ms", |out| times(out, exchange, end.took));
}

fn times(out: &mut Vec<u8>, exchange: &Exchange, took: Duration) {
    let mut times = Object::begin(out);
    times.milliseconds("total", took);
    exchange.with_attempts(|attempts| {
        let (Some(first), Some(last)) = (attempts.first(), attempts.last()) else { return };
        times.milliseconds("chain", first.started.saturating_duration_since(exchange.started()));
        steps(&mut times, last);
    });
}

fn steps(times: &mut Object<'_>, attempt: &Attempt) {
    if let Some(connect) = attempt.connect {
        times.milliseconds("connect", connect);
    }
    if let Some(first_byte) = attempt.first_byte {
        times.milliseconds("first_byte", first_byte);
        if let Some(end) = attempt.end {
            times.milliseconds("body", end.saturating_sub(first_byte));
        }
    }
}

fn tries(out: &mut Vec<u8>, attempts: &[Attempt]) {
    out.push(b'[');
    for (index, attempt) in attempts.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let mut line = Object::begin(out);
        line.plain("instance", &attempt.instance);
        line.raw("reused", |out| out.extend_from_slice(if attempt.reused { b"true" } else { b"false" }));
        if let Some(status) = attempt.status {
            line.number("status", u64::from(status.as_u16()));
        }
        if let Some(cause) = attempt.cause {
            line.plain("cause", cause.name());
        }
        line.raw("ms", |out| {
            let mut times = Object::begin(out);
            if let Some(end) = attempt.end {
                times.milliseconds("total", end);
            }
            steps(&mut times, attempt);
        });
    }
    out.push(b']');
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// A JSON object being written. It ends when dropped.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// A key, and a value that is written as JSON.
    fn raw(&mut self, key: &'static str, value: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(if self.empty { b"\"" } else { b",\"" });
        self.empty = false;
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        value(self.out);
    }

    fn plain(&mut self, key: &'static str, text: &str) {
        self.raw(key, |out| quoted(out, |out| escape(out, text)));
    }

    fn bytes(&mut self, key: &'static str, bytes: &[u8]) {
        self.plain(key, &String::from_utf8_lossy(bytes));
    }

    /// Addresses and their like, which have no need to be escaped.
    fn display(&mut self, key: &'static str, value: impl fmt::Display) {
        self.raw(key, |out| quoted(out, |out| drop(write!(out, "{value}"))));
    }

    fn number(&mut self, key: &'static str, number: u64) {
        self.raw(key, |out| drop(write!(out, "{number}")));
    }

    fn milliseconds(&mut self, key: &'static str, time: Duration) {
        let micros = time.as_micros();
        self.raw(key, |out| drop(write!(out, "{}.{:03}", micros / 1000, micros % 1000)));
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        self.out.push(b'}');
    }
}

fn quoted(out: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    text(out);
    out.push(b'"');
}

/// Writes text as part of a JSON string. All control characters are escaped, and whatever else some reader takes for
/// the end of a line.
fn escape(out: &mut Vec<u8>, text: &str) {
    let mut clean = 0;
    for (at, c) in text.char_indices() {
        let width = c.len_utf8();
        match c {
            '"' | '\\' => {
                out.extend_from_slice(&text.as_bytes()[clean..at]);
                out.extend_from_slice(&[b'\\', c as u8]);
            }
            '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(&text.as_bytes()[clean..at]);
                drop(write!(out, "\\u{:04x}", c as u32));
            }
            _ => continue,
        }
        clean = at + width;
    }
    out.extend_from_slice(&text.as_bytes()[clean..]);
}

/// RFC 3339, in UTC, to the millisecond.
fn timestamp(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second, millisecond) = (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    drop(write!(out, "\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z\""));
}

/// The date so many days after 1970-01-01, in the calendar whose years begin in March: Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms".
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339_says() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_336_200, "2026-11-22T08:30:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut out = Vec::new();
            timestamp(&mut out, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{want}\""));
        }
    }

    #[test]
    fn nothing_in_a_text_ends_the_line_or_the_string() {
        let nasty = "a\"b\\c\nd\re\tf\0g\u{1b}[31m\u{7f}\u{85}\u{9b}\u{2028}\u{2029}ü€😀";
        let mut out = Vec::new();
        quoted(&mut out, |out| escape(out, nasty));
        let written = String::from_utf8(out).unwrap();
        assert!(!written.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')), "{written}");
        assert!(written.ends_with("ü€😀\""), "{written}");
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), nasty);
    }

    proptest::proptest! {
        #[test]
        fn any_text_reads_back_as_it_was(text: String) {
            let mut out = Vec::new();
            quoted(&mut out, |out| escape(out, &text));
            let written = String::from_utf8(out).unwrap();
            proptest::prop_assert!(!written.contains('\n'));
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }
    }
}
