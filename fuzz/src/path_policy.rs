//! Any path under any policy: what comes of it has one form and nothing that its policy forbids, whoever reads it finds
//! no dot segment, and where no doubt is told, all find the same segments.

use http::Uri;
use percent_encoding::percent_decode;
use portcullis_config::{DotSegments, EncodedSlashes, Paths, Slashes};
use portcullis_middleware::paths::{Settled, Trait, literal, readings, settle, settle_request};
use portcullis_middleware::testing;

/// A letter for the policy, and a path.
pub fn path_policy(input: &[u8]) {
    let Some((choice, path)) = input.split_first() else { return };
    let Ok(path) = std::str::from_utf8(path) else { return };
    let choice = usize::from(choice.wrapping_sub(b'a'));
    let policy = Paths {
        dot_segments: [DotSegments::Remove, DotSegments::Reject][choice % 2],
        slashes: [Slashes::Merge, Slashes::Keep, Slashes::Reject][choice / 2 % 3],
        encoded_slashes: [EncodedSlashes::Reject, EncodedSlashes::Keep, EncodedSlashes::Decode][choice / 6 % 3],
    };
    expect_literal(path);
    let settled = match settle(path, policy) {
        Ok(settled) => settled,
        Err(refusal) => return assert!(refusal.at <= path.len(), "{refusal}"),
    };
    expect_one_form(&settled, policy);
    expect_one_reading(&settled);
    expect_forwarded(path, &settled, policy);
}

fn expect_one_form(Settled { path, traits }: &Settled<'_>, policy: Paths) {
    assert!(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'), "{path}");
    assert!(path.split('/').all(|segment| !matches!(segment, "." | "..")), "{path}");
    assert!(policy.slashes == Slashes::Keep || !path.contains("//"), "{path}");
    assert!(policy.dot_segments == DotSegments::Remove || !traits.has(Trait::Dots), "{path}");
    let escapes = |escape| path.match_indices(escape).any(|(at, _)| !path[..at].ends_with("%25"));
    assert!(policy.encoded_slashes == EncodedSlashes::Keep || !escapes("%2F") && !escapes("%5C"), "{path}");
    let again = settle(path, policy).expect("it is settled");
    assert_eq!(again.path, *path);
    assert_eq!(again.traits.has(Trait::Doubtful), traits.has(Trait::Doubtful) && !readings(path).is_empty(), "{path}");
    if !traits.has(Trait::Doubtful) {
        assert!(readings(path).is_empty(), "{path}");
    }
}

/// Those who decode once or twice, and cut parameters off before that, after it or not at all.
fn expect_one_reading(Settled { path, traits }: &Settled<'_>) {
    let usual = segments(path, 1, Cut::Never);
    for decodes in 0..3 {
        for cut in [Cut::Never, Cut::Before, Cut::After] {
            let found = segments(path, decodes, cut);
            assert!(!found.iter().any(|segment| matches!(&**segment, b"." | b"..")), "{path}: {decodes} {cut:?}");
            if !traits.has(Trait::Doubtful) && decodes > 0 {
                assert_eq!(found, usual, "{path}: {decodes} {cut:?}");
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Never,
    Before,
    After,
}

fn segments(path: &str, decodes: usize, cut: Cut) -> Vec<Vec<u8>> {
    let without = |segment: &[u8]| segment.split(|byte| *byte == b';').next().unwrap_or_default().to_vec();
    let mut text = path.as_bytes().to_vec();
    if cut == Cut::Before {
        text = text.split(|byte| *byte == b'/').map(without).collect::<Vec<_>>().join(&b'/');
    }
    for _ in 0..decodes {
        text = percent_decode(&text).collect();
    }
    let segments = text.split(|byte| matches!(byte, b'/' | b'\\'));
    segments.map(|segment| if cut == Cut::After { without(segment) } else { segment.to_vec() }).collect()
}

/// A request gets the very path that was settled, and keeps its query.
fn expect_forwarded(path: &str, settled: &Settled<'_>, policy: Paths) {
    let Ok(uri) = format!("{path}?a=/../%2f;b").parse::<Uri>() else { return };
    if uri.path() != path {
        return;
    }
    let mut request = testing::request("GET", "/");
    *request.uri_mut() = uri;
    match settle_request(&mut request, policy) {
        Ok(traits) => {
            assert_eq!((request.uri().path(), traits), (&*settled.path, settled.traits));
            assert_eq!(request.uri().query(), Some("a=/../%2f;b"));
        }
        // What a request can hold has a length.
        Err(_) => assert!(settled.path.len() > 60_000, "{path}"),
    }
}

/// Text of the file is written as the paths are that it is compared with.
fn expect_literal(path: &str) {
    let kept =
        Paths { dot_segments: DotSegments::Reject, slashes: Slashes::Keep, encoded_slashes: EncodedSlashes::Keep };
    for segment in path.split('/') {
        let whole = format!("/{segment}");
        if let Ok(settled) = settle(&whole, kept) {
            assert_eq!(settled.path[1..], *literal(segment));
        }
    }
}
