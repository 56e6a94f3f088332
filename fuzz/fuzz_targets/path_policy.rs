//! Any path under any policy: what comes of it has one form, and nothing that its policy forbids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_config::{DotSegments, EncodedSlashes, Paths, Slashes};
use portcullis_middleware::paths::{Trait, readings, settle};

fuzz_target!(|input: (u8, &str)| {
    let (choice, path) = input;
    let policy = Paths {
        dot_segments: [DotSegments::Remove, DotSegments::Reject][usize::from(choice) % 2],
        slashes: [Slashes::Merge, Slashes::Keep, Slashes::Reject][usize::from(choice) / 2 % 3],
        encoded_slashes: [EncodedSlashes::Reject, EncodedSlashes::Keep, EncodedSlashes::Decode]
            [usize::from(choice) / 6 % 3],
    };
    let settled = match settle(path, policy) {
        Ok(settled) => settled,
        Err(refusal) => return assert!(refusal.at <= path.len(), "{refusal}"),
    };
    let (path, traits) = (settled.path, settled.traits);
    assert!(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'), "{path}");
    assert!(path.split('/').all(|segment| !matches!(segment, "." | "..")), "{path}");
    assert!(policy.slashes == Slashes::Keep || !path.contains("//"), "{path}");
    assert!(path.parse::<http::uri::PathAndQuery>().is_ok_and(|target| target.path() == path) || path.len() > 65_000);
    assert_eq!(settle(&path, policy).expect("it is settled").path, path);
    if !traits.has(Trait::Doubtful) {
        assert!(readings(&path).is_empty(), "{path}");
    }
    for reading in readings(&path).iter().filter(|_| path.len() < 200) {
        assert!(reading.starts_with('/') && !reading.contains("/../"), "{path}: {reading}");
    }
});
