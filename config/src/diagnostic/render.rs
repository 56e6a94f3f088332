//! The look of a fault: rustc's, by the same renderer.
//!
//! The text may be anything that calls itself TOML, and a span may be wrong, so both are made safe
//! before the renderer sees them.

use std::borrow::Cow;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level as Title, Origin, Renderer, Snippet};

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
        group = match snippet(fault, document) {
            Some(snippet) => group.element(snippet),
            None => group.element(Origin::path(printable(&document.name)).line(1).char_column(1)),
        };
    }
    if let Some(help) = &fault.help {
        group = group.element(Title::HELP.message(printable(help)));
    }
    renderer.render(&[group])
}

/// The lines from the first to the last place that the fault names; `None` for an empty text.
fn snippet<'a>(
    fault: &'a Diagnostic,
    document: &'a Document,
) -> Option<Snippet<'a, annotate_snippets::Annotation<'a>>> {
    let text = document.visible_text();
    let skipped = document.text.len() - text.len();
    let safe = |span: &Range<usize>| within_a_line(text, span, skipped);
    let main = safe(&fault.span);
    let also: Vec<_> = fault.also.iter().map(|(span, label)| (safe(span), label)).collect();
    let places = || also.iter().map(|(span, _)| span).chain([&main]);
    let first = places().map(|span| span.start).min()?;
    let last = places().map(|span| span.end).max()?;
    let begin = text[..first].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[last..].find('\n').map_or(text.len(), |newline| last + newline);
    // A line break is no part of the line, and the carriage return of one neither.
    let end = begin + text[begin..end].trim_end_matches('\r').len().max(last - begin);
    if text.is_empty() {
        return None;
    }
    let local = |span: &Range<usize>| span.start - begin..span.end - begin;
    let mut primary = AnnotationKind::Primary.span(local(&main));
    if let Some(label) = &fault.label {
        primary = primary.label(printable(label));
    }
    let others = also.iter().map(|(span, label)| {
        let label = printable(label);
        AnnotationKind::Context.span(local(span)).label(label)
    });
    let lines_before = text[..begin].matches('\n').count();
    Some(
        Snippet::source(shown(&text[begin..end]))
            .line_start(lines_before + 1)
            .path(printable(&document.name))
            .annotation(primary)
            .annotations(others),
    )
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
