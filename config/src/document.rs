//! A file's text, and where in it things stand.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use toml::de::DeTable;

use crate::Faults;
use crate::node::Node;

/// A text that was read, its name, and its tree. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Document {
    /// What the file is called in reports: the path as it was given.
    pub name: Arc<str>,
    /// The text as it was written.
    pub text: Arc<str>,
    pub(crate) root: Arc<Node>,
}

impl Document {
    /// Reads TOML as far as it can be read; every syntax error becomes a fault.
    pub fn parse(name: &str, text: &str, faults: &mut Faults) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let document =
            Self { name: name.into(), text: text.into(), root: Arc::new(Node::table(table.get_ref(), 0..text.len())) };
        for error in errors {
            let span = error.span().unwrap_or_default();
            faults.error(&document, span, error.message());
        }
        document
    }

    /// The place that a span begins at.
    pub fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..self.floor(span.start)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].trim_start_matches('\u{feff}').chars().count() + 1,
        }
    }

    /// The text without a byte order mark, which is no character of the first line.
    pub(crate) fn visible_text(&self) -> &str {
        self.text.strip_prefix('\u{feff}').unwrap_or(&self.text)
    }

    /// The nearest character boundary at or before `offset`.
    fn floor(&self, offset: usize) -> usize {
        self.text.floor_char_boundary(offset.min(self.text.len()))
    }
}

/// A line and a column, both counted from one; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
