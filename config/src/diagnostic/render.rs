//! The look of a fault: rustc's, by the same renderer.
//!
//! The text may be anything that calls itself TOML, and a span may be wrong, so both are made safe
//! before the renderer sees them.

use std::borrow::Cow;
use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level as Title, Origin, Renderer, Snippet};

use super::{Diagnostic, Level};
use crate::Document;

/// One fault, without a line break at its end.
pub(super) fn fault(fault: &Diagnostic, colour: bool) -> String {
    let renderer = match colour {
        true => Renderer::styled().hyperlink(false),
        false => Renderer::plain(),
    };
    let level = match fault.level {
        Level::Error => Title::ERROR,
        Level::Warning => Title::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(printable(&fault.message)));
    if let Some(document) = &fault.document {
        group = match document.visible_text() {
            "" => group.element(Origin::path(printable(&document.name)).line(1).char_column(1)),
            text => group.elements(snippets(fault, document, text)),
        };
    }
    if let Some(help) = &fault.help {
        group = group.element(Title::HELP.message(printable(help)));
    }
    renderer.render(&[group])
}

/// Drawings with more lines than this between two places of a fault are two drawings.
const FAR: usize = 100;

struct Mark<'a> {
    span: Range<usize>,
    label: Option<&'a str>,
    kind: AnnotationKind,
}

/// The lines with the places that the fault names: the main one first, with those that are near it.
fn snippets<'a>(fault: &'a Diagnostic, document: &'a Document, text: &'a str) -> Vec<Snippet<'a, Annotation<'a>>> {
    let skipped = document.text.len() - text.len();
    let main = Mark {
        span: within_a_line(text, &fault.span, skipped),
        label: fault.label.as_deref(),
        kind: AnnotationKind::Primary,
    };
    let also = fault.also.iter().map(|(span, label)| Mark {
        span: within_a_line(text, span, skipped),
        label: Some(label),
        kind: AnnotationKind::Context,
    });
    let line = |span: &Range<usize>| document.place(&(span.start + skipped..0)).line;
    let main_line = line(&main.span);
    let (near, far): (Vec<_>, Vec<_>) = also.partition(|mark| line(&mark.span).abs_diff(main_line) <= FAR);
    let near: Vec<_> = near.into_iter().chain([main]).collect();
    let mut drawings = vec![near];
    drawings.extend(far.into_iter().map(|mark| vec![mark]));
    let snippet = |marks: Vec<Mark<'a>>| {
        let first = marks.iter().map(|mark| mark.span.start).min().unwrap_or_default();
        let last = marks.iter().map(|mark| mark.span.end).max().unwrap_or_default();
        let begin = text[..first].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[last..].find('\n').map_or(text.len(), |newline| last + newline);
        // A line break is no part of the line, and the carriage return of one neither.
        let end = begin + text[begin..end].trim_end_matches('\r').len().max(last - begin);
        let annotations = marks.into_iter().map(|mark| {
            let annotation = mark.kind.span(mark.span.start - begin..mark.span.end - begin);
            annotation.label(mark.label.map(printable))
        });
        Snippet::source(shown(&text[begin..end]))
            .line_start(line(&(begin..begin)))
            .path(printable(&document.name))
            .annotations(annotations)
    };
    drawings.into_iter().map(snippet).collect()
}

/// The part of a span that lies in its first line, on character boundaries. A table's span covers many
/// lines, and its first says enough.
fn within_a_line(text: &str, span: &Range<usize>, skipped: usize) -> Range<usize> {
    let start = span.start.saturating_sub(skipped).min(text.len());
    let start = text.floor_char_boundary(start);
    let end = span.end.saturating_sub(skipped).clamp(start, text.len());
    let end = text.ceil_char_boundary(end);
    let line_end = text[start..end].find(['\n', '\r']);
    start..line_end.map_or(end, |at| start + at)
}

/// The renderer draws the controls of ASCII as symbols, but not those above it. A dot takes their place:
/// it is as long, so the spans hold.
fn shown(text: &str) -> Cow<'_, str> {
    let is_c1 = |c: char| matches!(c, '\u{80}'..='\u{9f}');
    match text.contains(is_c1) {
        true => Cow::Owned(text.replace(is_c1, "\u{b7}")),
        false => Cow::Borrowed(text),
    }
}

/// Text that cannot move the cursor: control characters are written as escapes.
fn printable(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() && !is_bidi(c);
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| match harmless(c) {
        true => c.to_string(),
        false => c.escape_default().to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Characters that reorder what stands around them.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// How many of which kind: `2 errors, 1 warning`.
pub(super) fn summary(list: &[&Diagnostic]) -> String {
    let count = |level: Level, noun: &str| {
        let count = list.iter().filter(|fault| fault.level == level).count();
        let plural = if count == 1 { "" } else { "s" };
        (count > 0).then(|| format!("{count} {noun}{plural}"))
    };
    let counts = [count(Level::Error, "error"), count(Level::Warning, "warning")];
    counts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
