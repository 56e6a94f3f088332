//! One request as one line of JSON.
//!
//! ```json
//! {"time":"2026-11-22T08:30:00.123Z","request_id":"7f…","client":"203.0.113.9","client_origin":"peer",
//!  "peer":"203.0.113.9:50000","listener":"web","method":"GET","scheme":"http","host":"shop.example","path":"/cart",
//!  "protocol":"HTTP/1.1","route":"cart","service":"orders","instance":"10.0.0.7:9001","attempts":1,"status":200,
//!  "bytes_in":0,"bytes_out":512,"ms":{"total":4.120,"chain":0.031,"connect":0.002,"first_byte":3.640,"body":0.310}}
//! ```
//!
//! What is not known is left out; `grpc_status` is what a call of gRPC ended with. `time` is when the request arrived. `cause` is there if the gateway answered itself or
//! the answer broke off, `note` if whoever refused left one, `trace_id` if the request is traced. `host` and `path` are
//! what the client asked for; the query is left out, because it may hold what no log should. `bytes_in` and
//! `bytes_out` count bodies, or what passed through a tunnel. Of the times, `chain` ends where the first attempt began; `connect`, `first_byte` (from the
//! begin of an attempt to the head of its answer) and `body` are the last attempt's. If there was more than one attempt,
//! or it failed, `tries` lists them all.
//!
//! Whatever a request contains, its line is one line: nothing in it ends a line, a string or a terminal's patience.

use std::cell::Cell;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::Version;
use portcullis_middleware::{Attempt, Exchange, Origin};

use super::watch::End;

/// Writes a request's line, with its line feed, to the end of `out`.
pub(super) fn write(out: &mut Vec<u8>, exchange: &Exchange, attempts: &[Attempt], end: &End<'_>) {
    request(&mut Object::begin(out), exchange, attempts, end);
    out.push(b'\n');
}

/// What comes before a value in an object: a comma, and the key in its quotes.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

fn request(line: &mut Object<'_>, exchange: &Exchange, attempts: &[Attempt], end: &End<'_>) {
    line.raw(key!("time"), |out| timestamp(out, exchange.started_at()));
    line.text(key!("request_id"), exchange.request_id());
    if let Ok(client) = exchange.client() {
        line.raw(key!("client"), |out| quoted(out, |out| address(out, client.ip)));
        line.raw(key!("client_origin"), |out| quoted(out, |out| origin(out, client.origin)));
        if let Some(peer) = client.peer {
            line.raw(key!("peer"), |out| quoted(out, |out| socket(out, peer)));
        }
    }
    line.text(key!("listener"), exchange.listener());
    line.text(key!("method"), exchange.method().as_str());
    line.text(key!("scheme"), exchange.scheme());
    if let Some(host) = exchange.host() {
        line.text(key!("host"), &String::from_utf8_lossy(host.as_bytes()));
    }
    line.text(key!("path"), exchange.target().path());
    line.text(key!("protocol"), protocol(end.protocol));
    if let Some(route) = exchange.route() {
        line.text(key!("route"), &route.name);
    }
    if let Some(service) = exchange.service() {
        line.text(key!("service"), service);
    }
    if let Some(last) = attempts.last() {
        line.text(key!("instance"), &last.instance);
    }
    line.number(key!("attempts"), attempts.len() as u64);
    if attempts.len() > 1 || attempts.iter().any(|attempt| attempt.cause.is_some()) {
        line.raw(key!("tries"), |out| tries(out, attempts));
    }
    line.number(key!("status"), u64::from(end.status.as_u16()));
    if let Some(status) = end.grpc_status {
        line.number(key!("grpc_status"), u64::from(status));
    }
    if let Some(cause) = end.cause {
        line.text(key!("cause"), cause.name());
    }
    if let Some(note) = end.note {
        line.text(key!("note"), note);
    }
    line.number(key!("bytes_in"), end.bytes_in);
    line.number(key!("bytes_out"), end.bytes_out);
    if let Some(trace_id) = exchange.trace_id() {
        line.text(key!("trace_id"), trace_id);
    }
    line.raw(key!("ms"), |out| times(out, exchange, attempts, end.took));
}

fn times(out: &mut Vec<u8>, exchange: &Exchange, attempts: &[Attempt], took: Duration) {
    let mut times = Object::begin(out);
    times.milliseconds(key!("total"), took);
    if let (Some(first), Some(last)) = (attempts.first(), attempts.last()) {
        times.milliseconds(key!("chain"), first.started.saturating_duration_since(exchange.started()));
        steps(&mut times, last);
    }
}

fn steps(times: &mut Object<'_>, attempt: &Attempt) {
    if let Some(connect) = attempt.connect {
        times.milliseconds(key!("connect"), connect);
    }
    if let Some(first_byte) = attempt.first_byte {
        times.milliseconds(key!("first_byte"), first_byte);
        if let Some(end) = attempt.end {
            times.milliseconds(key!("body"), end.saturating_sub(first_byte));
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
        line.text(key!("instance"), &attempt.instance);
        line.raw(key!("reused"), |out| out.extend_from_slice(if attempt.reused { b"true" } else { b"false" }));
        if let Some(status) = attempt.status {
            line.number(key!("status"), u64::from(status.as_u16()));
        }
        if let Some(cause) = attempt.cause {
            line.text(key!("cause"), cause.name());
        }
        line.raw(key!("ms"), |out| {
            let mut times = Object::begin(out);
            if let Some(end) = attempt.end {
                times.milliseconds(key!("total"), end);
            }
            steps(&mut times, attempt);
        });
    }
    out.push(b']');
}

/// What a version of HTTP is called.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

fn origin(out: &mut Vec<u8>, origin: Origin) {
    match origin {
        Origin::Peer => out.extend_from_slice(b"peer"),
        other => drop(write!(out, "{other}")),
    }
}

fn socket(out: &mut Vec<u8>, peer: SocketAddr) {
    match peer {
        SocketAddr::V4(peer) => {
            address(out, (*peer.ip()).into());
            out.push(b':');
            decimal(out, u64::from(peer.port()));
        }
        SocketAddr::V6(peer) => drop(write!(out, "{peer}")),
    }
}

fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                decimal(out, u64::from(octet));
            }
        }
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// A JSON object being written. It ends when dropped.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        Self { begin: out.len(), out }
    }

    /// A [`key!`], and a value that is written as JSON.
    fn raw(&mut self, key: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(key);
        value(self.out);
    }

    fn text(&mut self, key: &[u8], text: &str) {
        self.raw(key, |out| quoted(out, |out| escape(out, text)));
    }

    fn number(&mut self, key: &[u8], number: u64) {
        self.raw(key, |out| decimal(out, number));
    }

    fn milliseconds(&mut self, key: &[u8], time: Duration) {
        let micros = time.as_micros() as u64;
        self.raw(key, |out| {
            decimal(out, micros / 1000);
            thousandths(out, micros % 1000);
        });
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        // Every key brought a comma with it. The first one stands where the object begins.
        match self.out.get_mut(self.begin) {
            Some(comma) => *comma = b'{',
            None => self.out.push(b'{'),
        }
        self.out.push(b'}');
    }
}

/// Writes a number in as many digits as it has.
fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Writes a point and three digits.
fn thousandths(out: &mut Vec<u8>, number: u64) {
    let digit = |value: u64| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[b'.', digit(number / 100), digit(number / 10), digit(number)]);
}

fn quoted(out: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    text(out);
    out.push(b'"');
}

/// Writes text as part of a JSON string. All control characters are escaped, and whatever else some reader takes for
/// the end of a line.
fn escape(out: &mut Vec<u8>, text: &str) {
    // Looked at as a whole, and not up to the first one: that way many bytes are looked at at once.
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') & (*byte != b'"') & (*byte != b'\\');
    if text.as_bytes().iter().fold(true, |all, byte| all & plain(byte)) {
        return out.extend_from_slice(text.as_bytes());
    }
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

/// A moment down to the second, as text with its opening quote.
type Second = [u8; 20];

/// RFC 3339, in UTC, to the millisecond.
fn timestamp(out: &mut Vec<u8>, time: SystemTime) {
    thread_local! {
        /// Most requests arrive in the same second as the one before.
        static LAST: Cell<(u64, Second)> = Cell::new((0, second(0)));
    }
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mut number, mut text) = LAST.get();
    if number != since.as_secs() {
        number = since.as_secs();
        text = second(number);
        LAST.set((number, text));
    }
    out.extend_from_slice(&text);
    thousandths(out, u64::from(since.subsec_millis()));
    out.extend_from_slice(b"Z\"");
}

fn second(number: u64) -> Second {
    let (year, month, day) = civil(number / 86_400);
    let (hour, minute, second) = (number / 3600 % 24, number / 60 % 60, number % 60);
    let mut text = *b"\"0000-00-00T00:00:00";
    let parts = [(1, year / 100), (3, year), (6, month), (9, day), (12, hour), (15, minute), (18, second)];
    for (at, value) in parts {
        text[at] += (value / 10 % 10) as u8;
        text[at + 1] += (value % 10) as u8;
    }
    text
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
            for (millis, want) in [(0, want.to_owned()), (47, want.replace(".000", ".047"))] {
                let mut out = Vec::new();
                timestamp(&mut out, SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis));
                assert_eq!(String::from_utf8(out).unwrap(), format!("\"{want}\""));
            }
        }
    }

    #[test]
    fn numbers_times_and_addresses_are_written_as_display_writes_them() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        for number in [0, 9, 10, 999, 1000, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(written(&|out| decimal(out, number)), number.to_string());
        }
        for (micros, want) in [(0, "0.000"), (7, "0.007"), (4120, "4.120"), (1_234_567, "1234.567")] {
            let line = written(&|out| Object::begin(out).milliseconds(key!("total"), Duration::from_micros(micros)));
            assert_eq!(line, format!("{{\"total\":{want}}}"));
        }
        for text in ["0.0.0.0:0", "203.0.113.9:50000", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:80"] {
            let peer: SocketAddr = text.parse().unwrap();
            assert_eq!(written(&|out| socket(out, peer)), text);
            assert_eq!(written(&|out| address(out, peer.ip())), peer.ip().to_string());
        }
        for from in [Origin::Peer, Origin::ProxyProtocol, Origin::Forwarded(3)] {
            assert_eq!(written(&|out| origin(out, from)), from.to_string());
        }
        assert_eq!(written(&|out| drop(Object::begin(out))), "{}");
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
