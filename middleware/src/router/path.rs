//! What a path may look like: exact, a pattern with captures, a prefix of whole segments, or a regex.
//!
//! Paths are compared in their [one form](crate::paths), segment by segment, and text of the file is brought into it.

use std::sync::Arc;

use super::trie::{between, first_segment};
use crate::paths::literal;

/// A path as the trie sees it: segments, and what may follow them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Shape {
    pub(super) segments: Vec<Segment>,
    pub(super) end: End,
}

/// One segment of a [`Shape`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    /// Exactly this text.
    Literal(Box<str>),
    /// At least one byte between fixed text, which may be empty.
    Capture { before: Box<str>, name: Arc<str>, after: Box<str> },
}

/// What may follow the segments of a [`Shape`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) enum End {
    /// Nothing.
    Here,
    /// A `/` and at least one byte, captured.
    Rest(Arc<str>),
    /// Nothing, or a `/` and anything.
    #[default]
    Prefix,
}

impl Shape {
    /// Reads axum's syntax: `/a`, `/a/{id}`, `/a/v{n}.json`, `/a/{*rest}`; `{{` and `}}` are braces.
    ///
    /// `None` for a text that the file's own check refuses, with a better sentence than could be said here.
    pub(super) fn pattern(text: &str) -> Option<Self> {
        let mut shape = Self { segments: Vec::new(), end: End::Here };
        let mut rest = Some(text.strip_prefix('/')?);
        while let Some(text) = rest {
            let segment;
            (segment, rest) = first_segment(text);
            match parse(segment)? {
                Parsed::Segment(segment) => shape.segments.push(segment),
                Parsed::Rest(name) => shape.end = End::Rest(name),
            }
            if shape.end != End::Here && rest.is_some() {
                return None;
            }
        }
        Some(shape)
    }

    /// Reads a prefix of whole segments; a trailing slash says nothing.
    pub(super) fn prefix(text: &str) -> Option<Self> {
        let rest = text.strip_prefix('/')?;
        let segments = match rest.strip_suffix('/').unwrap_or(rest) {
            "" => Vec::new(),
            rest => rest.split('/').map(|segment| Segment::Literal(literal(segment).into())).collect(),
        };
        Some(Self { segments, end: End::Prefix })
    }

    /// The whole segments that every match of a regex begins with; a superset of what it matches.
    pub(super) fn before_regex(regex: &str) -> Self {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-');
        let mut length = regex.bytes().take_while(|byte| plain(byte)).count();
        // What follows may repeat or remove the last byte, and an alternative may remove it all.
        if matches!(regex.as_bytes().get(length), Some(b'?' | b'*' | b'+' | b'{')) {
            length = length.saturating_sub(1);
        }
        if regex.contains('|') {
            length = 0;
        }
        match regex[..length].rsplit_once('/') {
            Some((head, _)) if !head.is_empty() => Self::prefix(head).unwrap_or_default(),
            _ => Self::default(),
        }
    }

    /// The path itself if there is only one that matches.
    pub(super) fn only_path(&self) -> Option<String> {
        let mut path = String::new();
        for segment in &self.segments {
            let Segment::Literal(text) = segment else { return None };
            path.push('/');
            path.push_str(text);
        }
        (self.end == End::Here).then_some(path)
    }

    /// How many segments are fixed text as a whole.
    pub(super) fn literals(&self) -> usize {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(text) if !text.is_empty())).count()
    }

    /// How many bytes of a path the prefix takes; 0 for what is no prefix.
    pub(super) fn prefix_length(&self) -> usize {
        if self.end != End::Prefix {
            return 0;
        }
        let segment = |segment: &Segment| if let Segment::Literal(text) = segment { 1 + text.len() } else { 0 };
        self.segments.iter().map(segment).sum()
    }

    /// The captures' names, in order.
    pub(super) fn captures(&self) -> impl Iterator<Item = &Arc<str>> {
        let last = if let End::Rest(name) = &self.end { Some(name) } else { None };
        let named = self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture { name, .. } => Some(name),
            Segment::Literal(_) => None,
        });
        named.chain(last)
    }

    /// What the captures stand for in a path that matches.
    pub(super) fn capture<'a>(&'a self, path: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut captured = Vec::new();
        let mut rest = path.strip_prefix('/');
        for segment in &self.segments {
            let Some(text) = rest else { return captured };
            let found;
            (found, rest) = first_segment(text);
            if let Segment::Capture { before, name, after } = segment {
                captured.push((&**name, between(found, before, after).unwrap_or_default()));
            }
        }
        if let (End::Rest(name), Some(rest)) = (&self.end, rest) {
            captured.push((name, rest));
        }
        captured
    }

    /// The same shape with captures that have no names: equal for two that match the same paths.
    pub(super) fn nameless(&self) -> Self {
        let segment = |segment: &Segment| match segment {
            Segment::Literal(text) => Segment::Literal(text.clone()),
            Segment::Capture { before, after, .. } => {
                Segment::Capture { before: before.clone(), name: "".into(), after: after.clone() }
            }
        };
        let end = if let End::Rest(_) = &self.end { End::Rest("".into()) } else { self.end.clone() };
        Self { segments: self.segments.iter().map(segment).collect(), end }
    }

    /// A path that matches, with `value` for every capture.
    pub(super) fn example(&self, value: impl Fn(&str) -> String) -> String {
        let mut path = String::new();
        for segment in &self.segments {
            path.push('/');
            match segment {
                Segment::Literal(text) => path.push_str(text),
                Segment::Capture { before, name, after } => path.extend([&**before, &value(name), &**after]),
            }
        }
        if let End::Rest(name) = &self.end {
            path.push('/');
            path.push_str(&value(name));
        }
        if path.is_empty() {
            path.push('/');
        }
        path
    }
}

enum Parsed {
    Segment(Segment),
    Rest(Arc<str>),
}

/// Reads one segment of a pattern.
fn parse(segment: &str) -> Option<Parsed> {
    let (mut before, mut after, mut name) = (String::new(), String::new(), None);
    let mut rest = segment;
    while let Some(at) = rest.find(['{', '}']) {
        let text = if name.is_none() { &mut before } else { &mut after };
        text.push_str(&literal(&rest[..at]));
        let brace = &rest[at..];
        if brace.starts_with("{{") || brace.starts_with("}}") {
            text.push_str(&literal(&brace[..1]));
            rest = &brace[2..];
            continue;
        }
        let (inner, behind) = brace.strip_prefix('{')?.split_once('}')?;
        if name.replace(inner).is_some() {
            return None;
        }
        rest = behind;
    }
    let text = if name.is_none() { &mut before } else { &mut after };
    text.push_str(&literal(rest));
    let (before, after) = (before.into_boxed_str(), after.into_boxed_str());
    Some(match name {
        None => Parsed::Segment(Segment::Literal(before)),
        Some(name) => match name.strip_prefix('*') {
            Some(name) if before.is_empty() && after.is_empty() => Parsed::Rest(name.into()),
            Some(_) => return None,
            None => Parsed::Segment(Segment::Capture { before, name: name.into(), after }),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pattern_is_not_guessed_at() {
        for text in ["", "a", "/a{b", "/a}b", "/{a}{b}", "/{*rest}/b", "/x{*rest}", "/{*rest}x"] {
            assert_eq!(Shape::pattern(text), None, "{text}");
        }
    }

    #[test]
    fn text_of_the_file_matches_what_clients_send() {
        assert_eq!(
            Shape::pattern("/café/{id}").map(|shape| shape.example(|_| "7".into())).as_deref(),
            Some("/caf%C3%A9/7")
        );
        assert_eq!(Shape::prefix("/é").map(|shape| shape.prefix_length()), Some("/%C3%A9".len()));
    }

    #[test]
    fn captures_stand_for_what_the_path_holds() {
        let shape = Shape::pattern("/{tenant}/v{version}.json/{*rest}").expect("a pattern");
        let captured = shape.capture("/acme/v2.json/a//b%20c");
        assert_eq!(captured, [("tenant", "acme"), ("version", "2"), ("rest", "a//b%20c")]);
    }

    #[test]
    fn doubled_braces_are_braces() {
        let shape = Shape::pattern("/{{x}}").expect("a pattern");
        assert_eq!(shape.only_path().as_deref(), Some("/%7Bx%7D"));
    }

    #[test]
    fn a_trailing_slash_counts_in_a_path_and_not_in_a_prefix() {
        assert_ne!(Shape::pattern("/a/").expect("a pattern"), Shape::pattern("/a").expect("a pattern"));
        assert_eq!(Shape::prefix("/a/").expect("a prefix"), Shape::prefix("/a").expect("a prefix"));
    }

    #[test]
    fn the_head_of_a_regex_never_promises_too_much() {
        let head = |regex| Shape::before_regex(regex).example(|_| unreachable!("it has no captures"));
        assert_eq!(head("/api/v[0-9]+/x"), "/api");
        assert_eq!(head("/api/?"), "/");
        assert_eq!(head("/api/x?/y"), "/api");
        assert_eq!(head("/api/a|/b"), "/");
        assert_eq!(head("(?i)/api/x"), "/");
        assert_eq!(head("/api/x"), "/api");
        assert_eq!(head("/api//?x"), "/api");
    }
}
