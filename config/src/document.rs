//! A file's text, and where in it things stand.

use std::fmt;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use toml::de::DeTable;

use crate::Faults;
use crate::node::Node;

/// A file of routes is written by people or generated; either way it is smaller than this.
const MOST_BYTES: u64 = 16 << 20;

/// A text that was read, its name, and its tree. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Document {
    /// What the file is called in reports: the path as it was given.
    pub name: Arc<str>,
    /// The text as it was written.
    pub text: Arc<str>,
    /// What relative paths in it start from.
    pub(crate) directory: Arc<Path>,
    /// Where each line begins.
    lines: Arc<[usize]>,
    pub(crate) root: Arc<Node>,
    /// Whether the tree says all that the text says.
    pub(crate) sound: bool,
}

impl Document {
    /// Reads TOML; every syntax error becomes a fault.
    pub fn parse(name: &str, text: &str, faults: &mut Faults) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let root = Node::table(table.get_ref(), 0..text.len());
        let document = Self::new(name, text, root, errors.is_empty());
        for error in first_of_each_line(text, &errors) {
            let span = error.span().unwrap_or_default();
            faults.error(&document, span, error.message());
        }
        document
    }

    /// Reads a file of TOML. A file that cannot be read is a fault, and so is one that is no text.
    pub fn read(path: &Path, faults: &mut Faults) -> Option<Self> {
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            faults.error_without_place(format!("cannot read `{name}`: {error}"));
            return None;
        }
        if bytes.len() as u64 > MOST_BYTES {
            faults.error_without_place(format!("`{name}` is larger than {} MiB", MOST_BYTES >> 20));
            return None;
        }
        match String::from_utf8(bytes) {
            Ok(text) => {
                let directory = path.parent().unwrap_or(Path::new(""));
                Some(Self { directory: directory.into(), ..Self::parse(&name, &text, faults) })
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let document = Self::new(&name, &text, Node::table(&DeTable::new(), 0..0), false);
                let span = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
                faults.error(&document, span, "this is not UTF-8, and TOML is");
                None
            }
        }
    }

    fn new(name: &str, text: &str, root: Node, sound: bool) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self {
            name: name.into(),
            text: text.into(),
            directory: Path::new("").into(),
            lines: std::iter::once(0).chain(after_breaks).collect(),
            root: Arc::new(root),
            sound,
        }
    }

    /// The place that a span begins at.
    pub fn place(&self, span: &Range<usize>) -> Place {
        let offset = self.floor(span.start);
        let line = self.lines.partition_point(|start| *start <= offset);
        let before = &self.text[self.lines[line - 1]..offset];
        Place { line, column: before.trim_start_matches('\u{feff}').chars().count() + 1 }
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

/// After one syntax error the rest of its line is guesswork.
fn first_of_each_line<'a>(text: &str, errors: &'a [toml::de::Error]) -> impl Iterator<Item = &'a toml::de::Error> {
    let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start.min(text.len()));
    let mut last: Option<usize> = None;
    errors.iter().filter(move |error| {
        let at = start(error);
        let same_line = last.is_some_and(|last| last <= at && !text.as_bytes()[last..at].contains(&b'\n'));
        last = Some(at);
        !same_line
    })
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
