//! The one form of a path: what routes are compared with, and how text of the file stands in it.
//!
//! Who puts the paths of requests into this form is the middleware crate; here is what `check` must know of it, so that a
//! path or an expression that no request can have is a fault and not a route that waits in vain.

use std::borrow::Cow;

use crate::units::{Regex, TooMany};

/// Text of the file as it stands in a path in its one form: `é` is `%C3%A9`, `%41` is `A`.
///
/// Slashes are not in it, nor are dot segments; what is no escape is the escape of `%`.
pub fn literal(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    if bytes.iter().all(|&byte| is_pchar(byte)) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, escape(bytes, at - 1)) {
            (b'%', Some(value)) => {
                at += 2;
                if is_unreserved(value) { out.push(value) } else { push_escape(&mut out, value) }
            }
            // A slash that does get here stays one.
            (byte, _) if is_pchar(byte) || byte == b'/' => out.push(byte),
            (byte, _) => push_escape(&mut out, byte),
        }
    }
    Cow::Owned(String::from_utf8(out).expect("nothing but ASCII was written"))
}

/// A whole path of the file in its one form. Its segments are no dot segments; that is checked elsewhere.
pub fn in_one_form(path: &str) -> String {
    path.split('/').map(literal).collect::<Vec<_>>().join("/")
}

/// RFC 3986 §2.3.
pub const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §3.3: what a segment may hold as it is.
pub const fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&'..=b',' | b':' | b';' | b'=' | b'@')
}

/// The byte that an escape at this place stands for.
pub fn escape(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at| (*bytes.get(at)? as char).to_digit(16);
    if bytes.get(at) != Some(&b'%') {
        return None;
    }
    u8::try_from(digit(at + 1)? << 4 | digit(at + 2)?).ok()
}

/// Writes the escape of a byte.
pub fn push_escape(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// What a policy leaves in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Several slashes in a row.
    pub slashes: bool,
    /// Escapes of slashes and backslashes.
    pub encoded_slashes: bool,
}

/// A shortest path in its one form that an expression matches, or `None` if there is none.
pub fn example(regex: &Regex, left: Left) -> Result<Option<String>, TooMany> {
    regex.shortest(At::Begin, |at, byte| at.step(byte, left), At::may_end)
}

/// How far a path in its one form was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Begin,
    /// Behind a slash.
    Slash,
    /// In a segment that is `.` so far.
    Dot,
    /// In a segment that is `..` so far.
    Dots,
    Segment,
    Percent,
    /// Behind the first digit of an escape.
    Digit(u8),
}

impl At {
    fn step(self, byte: u8, left: Left) -> Option<Self> {
        match (self, byte) {
            (Self::Begin, byte) => (byte == b'/').then_some(Self::Slash),
            (Self::Percent, b'0'..=b'9') => Some(Self::Digit(byte - b'0')),
            (Self::Percent, b'A'..=b'F') => Some(Self::Digit(byte - b'A' + 10)),
            (Self::Percent, _) => None,
            (Self::Digit(high), b'0'..=b'9' | b'A'..=b'F') => {
                let low = if byte <= b'9' { byte - b'0' } else { byte - b'A' + 10 };
                let value = high << 4 | low;
                let slash = matches!(value, b'/' | b'\\');
                (value != 0 && !is_unreserved(value) && (left.encoded_slashes || !slash)).then_some(Self::Segment)
            }
            (Self::Digit(_), _) => None,
            (Self::Slash, b'/') => left.slashes.then_some(Self::Slash),
            (Self::Segment, b'/') => Some(Self::Slash),
            (Self::Dot | Self::Dots, b'/') => None,
            (_, b'%') => Some(Self::Percent),
            (Self::Slash, b'.') => Some(Self::Dot),
            (Self::Dot, b'.') => Some(Self::Dots),
            (_, byte) => is_pchar(byte).then_some(Self::Segment),
        }
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Slash | Self::Segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(regex: &str, left: Left) -> Option<String> {
        example(&regex.parse().expect(regex), left).expect("a small expression")
    }

    #[test]
    fn an_expression_has_an_example_if_some_path_in_its_one_form_matches() {
        for (regex, wanted) in [
            ("/", "/"),
            (".*", "/"),
            ("/admin(/.*)?", "/admin"),
            ("/api/v[0-9]+/x", "/api/v0/x"),
            ("(?i)/ADMIN", "/admin"),
            ("/x/../y", "/x/a0/y"),
            ("/caf%C3%A9", "/caf%C3%A9"),
            ("/[^a]", "/b"),
            (r"/(?-u:\b)word(?-u:\b)", "/word"),
            ("/%2525?", "/%252"),
            ("(?x) /a # a comment", "/a"),
        ] {
            let found = found(regex, Left::default()).expect(regex);
            assert_eq!(found.len(), wanted.len(), "{regex}: {found}");
        }
        for regex in [
            "admin(/.*)?",
            "/café",
            "/a b",
            r"/x/\.\./y",
            "/x/%2f",
            "/x/%2F",
            "/a//b",
            "/%41",
            r"/\\",
            "/%00",
            "/a/[.]",
            "a^/b",
            "/[éè]+",
            "/%c3%a9",
            r"/a\?b",
        ] {
            assert_eq!(found(regex, Left::default()), None, "{regex}");
        }
    }

    #[test]
    fn a_policy_leaves_more_in_a_path() {
        let left = Left { slashes: true, encoded_slashes: true };
        assert_eq!(found("/a//b", left).as_deref(), Some("/a//b"));
        assert_eq!(found("/x%2Fy", left).as_deref(), Some("/x%2Fy"));
        assert_eq!(found("/x%2fy", left), None);
    }
}
