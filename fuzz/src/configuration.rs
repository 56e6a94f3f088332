//! Any text at all: whoever reads it finds faults and does not panic, every fault can be shown where it is, and there is
//! a plan only of a file without errors.

use std::path::Path;

use portcullis::plan::{self, Carry};
use portcullis_config::{Diagnostic, Document, Faults, File};

/// A file of the gateway.
pub fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (file, faults) = File::parse("fuzz.toml", text);
    assert!(file.is_some() || faults.has_errors(), "there is no file, and nobody says why");
    expect_shown(&faults);
    // Whoever looks up a place later must find it.
    for middleware in file.iter().flat_map(|file| &file.middlewares) {
        let span = middleware.value.span_of(&["allow".into(), 0.into()]);
        assert!(text.get(span).is_some());
    }
    if names_a_device(text) {
        return;
    }
    let mut faults = Faults::new();
    let document = Document::parse("fuzz.toml", text, &mut faults);
    let plan = plan::of(&document, Some(Path::new("/nowhere")), &portcullis::plugins(), &Carry::default(), &mut faults);
    assert_eq!(plan.is_some(), !faults.has_errors(), "{}", faults.render(false));
    expect_shown(&faults);
}

fn expect_shown(faults: &Faults) {
    for fault in faults.errors().chain(faults.warnings()) {
        let Diagnostic { document, span, also, message, .. } = fault;
        let Some(document) = document else { continue };
        for span in also.iter().map(|(span, _)| span).chain([span]) {
            assert!(document.text.get(span.clone()).is_some(), "{message}: {span:?}");
        }
    }
    assert_eq!(faults.render(false).is_empty(), faults.is_empty());
    assert_eq!(faults.render(true).is_empty(), faults.is_empty());
    let list = serde_json::to_value(faults).expect("faults can be told as JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(faults.errors().count() + faults.warnings().count()));
}

/// A plan reads the files that it names, and some of them have no end.
fn names_a_device(text: &str) -> bool {
    ["/dev", "/proc", "/sys", "\\u", "\\U", "\\x"].iter().any(|name| text.contains(name))
}
