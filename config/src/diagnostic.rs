//! What is wrong with a file, said where it is wrong.

mod render;

use std::ops::Range;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::{Document, Place};

/// How many faults are printed; whoever has more starts with these.
const MOST_SHOWN: usize = 100;

/// How bad a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The file cannot be used.
    Error,
    /// The file can be used, and probably says something that was not meant.
    Warning,
}

/// One fault: a sentence, and the characters it is about.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub level: Level,
    /// What is wrong: one sentence, lowercase, no full stop.
    pub message: String,
    /// The text it is about; `None` if there is no text (a file that cannot be read).
    pub document: Option<Document>,
    /// Which bytes of that text.
    pub span: Range<usize>,
    /// What to say beside the underlined characters.
    pub label: Option<String>,
    /// Other places that belong to it.
    pub also: Vec<(Range<usize>, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Says something beside the underlined characters.
    pub fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    /// Shows another place of the same document.
    pub fn also(&mut self, span: Range<usize>, label: impl Into<String>) -> &mut Self {
        self.also.push((span, label.into()));
        self
    }

    /// Says what to do.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Where it is, if it is in a text.
    pub fn place(&self) -> Option<Place> {
        let document = self.document.as_ref()?;
        Some(document.place(&self.span))
    }
}

/// All faults of a run.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    list: Vec<Diagnostic>,
}

impl Faults {
    /// No faults yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes an error at a place.
    pub fn error(&mut self, document: &Document, span: Range<usize>, message: impl Into<String>) -> &mut Diagnostic {
        self.note(Level::Error, Some(document), span, message.into())
    }

    /// Notes a warning at a place.
    pub fn warning(&mut self, document: &Document, span: Range<usize>, message: impl Into<String>) -> &mut Diagnostic {
        self.note(Level::Warning, Some(document), span, message.into())
    }

    /// Notes an error that stands in no text: a file that cannot be read, or lacks something.
    pub fn error_without_place(&mut self, message: impl Into<String>) -> &mut Diagnostic {
        self.note(Level::Error, None, 0..0, message.into())
    }

    /// Notes a warning that stands in no text: something that a whole file lacks.
    pub fn warning_without_place(&mut self, message: impl Into<String>) -> &mut Diagnostic {
        self.note(Level::Warning, None, 0..0, message.into())
    }

    fn note(
        &mut self,
        level: Level,
        document: Option<&Document>,
        span: Range<usize>,
        message: String,
    ) -> &mut Diagnostic {
        self.list.push(Diagnostic {
            level,
            message,
            document: document.cloned(),
            span,
            label: None,
            also: Vec::new(),
            help: None,
        });
        self.list.last_mut().expect("it was just pushed")
    }

    /// Whether there is anything to say at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the file must be refused.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|fault| fault.level == Level::Error)
    }

    /// The errors, by document and position.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.of(Level::Error)
    }

    /// The warnings, by document and position.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.of(Level::Warning)
    }

    /// Whether one is about a part of this text. What has faults inside was not read, and looks as if it were not there.
    pub(crate) fn is_any_within(&self, span: &Range<usize>) -> bool {
        self.errors().any(|error| span.start <= error.span.start && error.span.end <= span.end)
    }

    fn of(&self, level: Level) -> impl Iterator<Item = &Diagnostic> {
        let all = self.ordered().into_iter();
        all.filter(move |fault| fault.level == level)
    }

    /// As a reader goes through them: what has no place first, then document by document, each from
    /// top to bottom. What was found twice is said once.
    fn ordered(&self) -> Vec<&Diagnostic> {
        let mut documents: Vec<&str> = Vec::new();
        let mut keyed: Vec<((usize, usize), &Diagnostic)> = Vec::new();
        for fault in &self.list {
            let Some(document) = &fault.document else {
                keyed.push(((0, 0), fault));
                continue;
            };
            let known = documents.iter().position(|name| **name == *document.name);
            let nth = known.unwrap_or_else(|| {
                documents.push(&document.name);
                documents.len() - 1
            });
            keyed.push(((nth + 1, fault.span.start), fault));
        }
        keyed.sort_by_key(|(key, _)| *key);
        let mut list: Vec<_> = keyed.into_iter().map(|(_, fault)| fault).collect();
        list.dedup_by(|one, other| one.message == other.message && one.span == other.span && one.level == other.level);
        list
    }

    /// All of them as text for a terminal, the way a compiler prints them, with the count at the end.
    pub fn render(&self, colour: bool) -> String {
        let list = self.ordered();
        let mut out = String::new();
        for fault in list.iter().take(MOST_SHOWN) {
            out.push_str(&render::fault(fault, colour));
            out.push_str("\n\n");
        }
        if let Some(more) = list.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
            out.push_str(&format!("… and {more} more\n\n"));
        }
        if !list.is_empty() {
            out.push_str(&render::summary(&list));
            out.push('\n');
        }
        out
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = self.place();
        let file = self.document.as_ref().map(|document| &document.name);
        let mut object = serializer.serialize_struct("Diagnostic", 7)?;
        object.serialize_field("level", &self.level)?;
        object.serialize_field("message", &self.message)?;
        object.serialize_field("file", &file)?;
        object.serialize_field("line", &place.map(|place| place.line))?;
        object.serialize_field("column", &place.map(|place| place.column))?;
        object.serialize_field("label", &self.label)?;
        object.serialize_field("help", &self.help)?;
        object.end()
    }
}

impl Serialize for Faults {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.ordered())
    }
}
