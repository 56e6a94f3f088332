//! The X-Ray header as anybody may write it: what is read can be sent on, and reads back as the same.
#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use portcullis_middleware::xray::header::{read, upstream};

fuzz_target!(|lines: Vec<Vec<u8>>| {
    let values: Vec<_> = lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let Some(header) = read(&values, |_| ()) else { return };

    let sent = upstream(header.root, header.parent, true, &header.extras);
    assert!(sent.to_str().is_ok(), "what is sent on is printable: {sent:?}");
    if sent.len() <= 1024 {
        let again = read([&sent], |bad| panic!("{bad:?} in {sent:?}")).expect("what is sent on can be read");
        assert_eq!((again.root, again.parent), (header.root, header.parent));
        assert_eq!((again.sampled.decision(), &again.extras), (Some(true), &header.extras));
    }
});
