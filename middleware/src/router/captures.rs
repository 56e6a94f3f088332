//! What a path captured, found when somebody asks: most routes have captures for the reader's sake only.

use std::sync::Arc;

use http::uri::PathAndQuery;
use portcullis_config::units::Regex;

use super::path::Shape;

/// How a path that matches is taken apart.
#[derive(Debug)]
pub(super) enum Parts {
    /// Segment by segment.
    Segments(Shape),
    /// By the named groups of a regex.
    Groups(Regex),
}

/// What the captures of a match stand for: a path, and how it is taken apart when somebody asks.
#[derive(Debug, Clone, Default)]
pub struct Captures(Option<(Arc<Parts>, PathAndQuery)>);

impl Captures {
    pub(super) fn new(parts: &Arc<Parts>, path: &PathAndQuery) -> Self {
        Self(Some((parts.clone(), path.clone())))
    }

    /// What a pattern captures of a path that matches it.
    #[cfg(test)]
    pub(crate) fn of(pattern: &str, path: &str) -> Self {
        let path = path.parse().expect("a path");
        let shape = Shape::pattern(pattern).expect("a pattern");
        Self(Some((Arc::new(Parts::Segments(shape)), path)))
    }

    /// Names and values in the pattern's order, values still percent-encoded.
    pub fn list(&self) -> Vec<(&str, &str)> {
        let Some((parts, path)) = &self.0 else { return Vec::new() };
        match &**parts {
            Parts::Segments(shape) => shape.capture(path.path()),
            Parts::Groups(regex) => groups(regex, path.path()),
        }
    }

    /// What one of them stands for, still percent-encoded.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.list().into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

fn groups<'a>(regex: &'a Regex, path: &'a str) -> Vec<(&'a str, &'a str)> {
    let regex = regex.compiled();
    let mut groups = regex.create_captures();
    regex.captures(path, &mut groups);
    let Some(pattern) = groups.pattern() else { return Vec::new() };
    let names = regex.group_info().pattern_names(pattern).enumerate();
    names.filter_map(|(index, name)| Some((name?, &path[groups.get_group(index)?.range()]))).collect()
}
