//! A writer of compact JSON: no spaces, one line, and keys in the order they are written.
//!
//! X-Ray's daemon looks for `"id":"…"` by a pattern, so both matter. Empty texts and empty objects are left out:
//! the service refuses some of them. Keys are words of ours, [such as X-Ray
//! takes](super::naming::is_annotation_key), or names of headers. None of them has anything to escape, so they are copied as
//! they are.

use std::io::Write;
use std::net::IpAddr;

/// An object that is being written.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Writes one object at the end of `out`.
    pub(super) fn write(out: &'a mut Vec<u8>, fill: impl FnOnce(&mut Object<'_>)) {
        out.push(b'{');
        let mut object = Object { out, empty: true };
        fill(&mut object);
        object.out.push(b'}');
    }

    /// A text; nothing at all if it is empty.
    pub(super) fn text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.key(key);
            quote(self.out, text);
        }
    }

    /// A text of bytes that need no escaping, such as an id.
    pub(super) fn plain(&mut self, key: &str, text: &[u8]) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(text);
        self.out.push(b'"');
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &str, value: impl itoa::Integer) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A number with decimals. It must be finite.
    pub(super) fn decimal(&mut self, key: &str, value: f64) {
        self.key(key);
        write!(self.out, "{value}").expect("memory takes everything");
    }

    /// An address.
    pub(super) fn address(&mut self, key: &str, address: IpAddr) {
        self.key(key);
        write!(self.out, "\"{address}\"").expect("memory takes everything");
    }

    /// Microseconds, as seconds with six decimals.
    pub(super) fn seconds(&mut self, key: &str, micros: u64) {
        self.number(key, micros / 1_000_000);
        // A digit more than is wanted, so that it has its zeros. It gives its place to the point.
        let point = self.out.len();
        self.out.extend_from_slice(itoa::Buffer::new().format(1_000_000 + micros % 1_000_000).as_bytes());
        self.out[point] = b'.';
    }

    /// `true` or `false`.
    pub(super) fn truth(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// `true`, or nothing at all.
    pub(super) fn flag(&mut self, key: &str, set: bool) {
        if set {
            self.truth(key, true);
        }
    }

    /// An object; nothing at all if it stays empty.
    pub(super) fn object(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>)) {
        let (before, was_empty) = (self.out.len(), self.empty);
        self.key(key);
        self.out.push(b'{');
        let mut inner = Object { out: self.out, empty: true };
        fill(&mut inner);
        if inner.empty {
            self.out.truncate(before);
            self.empty = was_empty;
        } else {
            self.out.push(b'}');
        }
    }

    /// A list of objects, one for each item; nothing at all if there is none.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Object<'_>, T),
    ) {
        self.elements(key, items, |out, item| Object::write(out, |object| fill(object, item)));
    }

    /// A list of texts that need no escaping; nothing at all if there is none.
    pub(super) fn plain_list<T: AsRef<[u8]>>(&mut self, key: &str, items: impl IntoIterator<Item = T>) {
        self.elements(key, items, |out, item| {
            out.push(b'"');
            out.extend_from_slice(item.as_ref());
            out.push(b'"');
        });
    }

    fn elements<T>(&mut self, key: &str, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_none() {
            return;
        }
        self.key(key);
        for (index, item) in items.enumerate() {
            self.out.push(if index == 0 { b'[' } else { b',' });
            write(self.out, item);
        }
        self.out.push(b']');
    }

    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        debug_assert!(key.bytes().all(is_plain), "`{key}` would have to be escaped");
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// Writes a text in quotes. RFC 8259 §7: quotes, backslashes and control characters are escaped.
fn quote(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    // Nearly all are plain as a whole, and many bytes are looked at in one step if nothing stops it.
    if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        out.extend_from_slice(text.as_bytes());
        return out.push(b'"');
    }
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if is_plain(byte) {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[from..at]);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            _ => write!(out, "\\u{byte:04x}").expect("memory takes everything"),
        }
        from = at + 1;
    }
    out.extend_from_slice(&text.as_bytes()[from..]);
    out.push(b'"');
}

/// Whether a byte stands for itself in a text.
fn is_plain(byte: u8) -> bool {
    (byte >= b' ') & (byte != b'"') & (byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(fill: impl FnOnce(&mut Object<'_>)) -> String {
        let mut out = Vec::new();
        Object::write(&mut out, fill);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn objects_are_compact_and_leave_out_what_is_empty() {
        let text = written(|object| {
            object.object("none", |_| ());
            object.plain("id", b"00ff");
            object.text("empty", "");
            object.flag("no", false);
            object.flag("yes", true);
            object.object("nested", |nested| {
                nested.object("none", |_| ());
                nested.number("n", -3);
                nested.decimal("d", 0.5);
                nested.truth("no", false);
                nested.seconds("t", 1_700_000_000_000_123);
            });
            object.list("list", [1, 2], |item, n| item.number("n", n));
            object.list("empty_list", [0; 0], |item, n| item.number("n", n));
            object.plain_list("ids", [b"a", b"b"]);
        });
        assert_eq!(
            text,
            r#"{"id":"00ff","yes":true,"nested":{"n":-3,"d":0.5,"no":false,"t":1700000000.000123},"list":[{"n":1},{"n":2}],"ids":["a","b"]}"#
        );
    }

    proptest! {
        #[test]
        fn every_text_reads_back(key in "[a-zA-Z0-9_!#$%&'*+.^`|~-]{1,20}", text in ".+") {
            let value: serde_json::Value = serde_json::from_str(&written(|object| object.text(&key, &text))).unwrap();
            prop_assert_eq!(value[&key].as_str(), Some(text.as_str()));
        }
    }
}
