//! Any text at all: the reader finds faults, it does not panic, and every fault can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_config::File;

fuzz_target!(|text: &str| {
    let (file, faults) = File::parse("fuzz.toml", text);
    if !faults.is_empty() {
        assert!(!faults.render(false).is_empty());
    }
    // Whoever looks up a place later must find it.
    for middleware in file.iter().flat_map(|file| &file.middlewares) {
        let span = middleware.value.span_of(&["allow".into(), 0.into()]);
        assert!(text.get(span).is_some());
    }
});
