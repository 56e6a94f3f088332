//! Fields of the gateway's own log, each on the line of its event.
//!
//! Names in an instance's certificate, a registry's answer, a library's words about either: what comes from outside ends
//! up in fields, and a line feed in it must not begin a line. What the gateway itself says, the message, is left alone:
//! faults of a file take many lines.

use std::error::Error;
use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};

/// The fields as tracing writes them, without control characters.
#[derive(Debug)]
pub(crate) struct Escaped;

impl<'writer> FormatFields<'writer> for Escaped {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Escaping(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

struct Escaping<'a>(DefaultVisitor<'a>);

impl Visit for Escaping<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.0.record_debug(field, value),
            _ => self.0.record_debug(field, &Value(value)),
        }
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let mut said = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            let _ = write!(said, ": {source}");
            next = source.source();
        }
        self.record_debug(field, &format_args!("{said}"));
    }
}

struct Value<'a>(&'a dyn Debug);

impl Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(f), "{:?}", self.0)
    }
}

/// Passes text on, with control characters as Rust writes them. So are the separators of lines and paragraphs, which
/// some readers take for line feeds.
struct Escape<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.split_inclusive(is_odd).try_for_each(|part| {
            let Some(odd) = part.chars().next_back().filter(|last| is_odd(*last)) else {
                return self.0.write_str(part);
            };
            self.0.write_str(&part[..part.len() - odd.len_utf8()])?;
            write!(self.0, "{}", odd.escape_default())
        })
    }
}

fn is_odd(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')
}
