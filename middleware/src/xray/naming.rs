//! Names that X-Ray accepts: for segments, and for annotations.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex_automata::meta::Regex;

/// A segment's name may have this many characters.
pub(super) const MAX_NAME: usize = 200;

/// What a segment's name must not contain. Names become nodes of the service map, so X-Ray is strict about them.
static ILLEGAL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[^\p{L}\p{N}\p{Z}_.:/%&#=+\-@]").expect("the pattern is valid"));

/// The first character of a name that X-Ray refuses.
pub(super) fn illegal_character(name: &str) -> Option<char> {
    ILLEGAL.find(name).and_then(|found| name[found.start()..].chars().next())
}

/// Makes a name out of data: what is illegal becomes `_`, what is too long is cut, and nothing at all is `gateway`.
pub(super) fn segment_name(data: &str) -> String {
    let data = cut(data, MAX_NAME);
    if data.trim().is_empty() {
        return "gateway".to_owned();
    }
    // What nearly every name consists of is no question for a table of all scripts.
    if data.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:/-".contains(&byte)) {
        return data.to_owned();
    }
    let mut name = String::with_capacity(data.len());
    let mut from = 0;
    for found in ILLEGAL.find_iter(data) {
        name.push_str(&data[from..found.start()]);
        name.push('_');
        from = found.end();
    }
    name.push_str(&data[from..]);
    name
}

/// Whether an annotation can be found under this key.
pub(super) fn is_annotation_key(key: &str) -> bool {
    (1..=500).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The first so many characters. Every limit of X-Ray counts characters, not bytes.
pub(super) fn cut(text: &str, characters: usize) -> &str {
    // A character has at least one byte: most strings are known to fit without looking at them.
    if text.len() <= characters {
        return text;
    }
    match text.char_indices().nth(characters) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Header bytes as text.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Which hosts may name the segment: `*` stands for any characters, `?` for one.
#[derive(Debug, Clone)]
pub(super) struct HostPattern(String);

impl HostPattern {
    /// A pattern; case does not matter.
    pub(super) fn new(pattern: &str) -> Self {
        Self(pattern.to_ascii_lowercase())
    }

    /// Whether a host, in lower case and without its port, matches.
    pub(super) fn matches(&self, host: &str) -> bool {
        // On a mismatch only the latest `*` can help by standing for more: an earlier one never needs to. So the
        // work is bounded by the lengths' product, and there is no stack.
        let (pattern, host) = (self.0.as_bytes(), host.as_bytes());
        let (mut at, mut seen, mut star) = (0, 0, None);
        while seen < host.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at + 1, seen));
                    at += 1;
                }
                Some(byte) if *byte == b'?' || *byte == host[seen] => {
                    at += 1;
                    seen += 1;
                }
                _ => {
                    let Some((after, from)) = star else { return false };
                    star = Some((after, from + 1));
                    (at, seen) = (after, from + 1);
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_every_script_are_legal_and_punctuation_is_not() {
        for name in ["edge-gateway", "Straße 7", "入口", "a.b:c/d%e&f#g=h+i-j@k_l", "٣"] {
            assert_eq!(illegal_character(name), None, "{name}");
        }
        for (name, character) in [("a\\b", '\\'), ("a{b}", '{'), ("*", '*'), ("tab\t", '\t'), ("say \"hi\"", '"')] {
            assert_eq!(illegal_character(name), Some(character));
        }
    }

    #[test]
    fn a_name_made_from_data_is_always_legal() {
        assert_eq!(segment_name("api.example.com"), "api.example.com");
        assert_eq!(segment_name("a{b}*\\c"), "a_b___c");
        assert_eq!(segment_name(""), "gateway");
        assert_eq!(segment_name("  "), "gateway");
        assert_eq!(segment_name(&"ü".repeat(300)).chars().count(), 200);
    }

    #[test]
    fn cutting_counts_characters_and_never_splits_one() {
        assert_eq!(cut("grün", 3), "grü");
        assert_eq!(cut("grün", 4), "grün");
        assert_eq!(cut("grün", 400), "grün");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn annotation_keys_are_plain() {
        assert!(is_annotation_key("tenant_7") && is_annotation_key(&"k".repeat(500)));
        for bad in ["", "a.b", "a-b", "ü", &"k".repeat(501)] {
            assert!(!is_annotation_key(bad), "{bad}");
        }
    }

    #[test]
    fn host_patterns_know_stars_and_question_marks() {
        for (pattern, host, matches) in [
            ("*.example.com", "api.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "api.example.com.evil.org", false),
            ("API.example.com", "api.example.com", true),
            ("api-?.example.com", "api-7.example.com", true),
            ("api-?.example.com", "api-.example.com", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(HostPattern::new(pattern).matches(host), matches, "{pattern} {host}");
        }
    }
}
