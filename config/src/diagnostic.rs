//! What is wrong with a file, said where it is wrong.

use std::ops::Range;

use crate::{Document, Place};

/// How bad a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
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
    pub fn error(
        &mut self,
        document: &Document,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.note(Level::Error, Some(document), span, message.into())
    }

    /// Notes a warning at a place.
    pub fn warning(
        &mut self,
        document: &Document,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.note(Level::Warning, Some(document), span, message.into())
    }

    /// Notes an error that stands in no text: a file that cannot be read.
    pub fn error_without_place(&mut self, message: impl Into<String>) -> &mut Diagnostic {
        self.note(Level::Error, None, 0..0, message.into())
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

    /// Takes over the faults of another run.
    pub fn append(&mut self, other: Faults) {
        self.list.extend(other.list);
    }

    /// Whether there is anything to say at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the file must be refused.
    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }

    /// The errors, in the order found.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter().filter(|fault| fault.level == Level::Error)
    }

    /// The warnings, in the order found.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list
            .iter()
            .filter(|fault| fault.level == Level::Warning)
    }

    /// All of them as text for a terminal.
    pub fn render(&self, _colour: bool) -> String {
        let mut out = String::new();
        for fault in &self.list {
            out.push_str(&fault.message);
            out.push('\n');
        }
        out
    }
}
