use proptest::prelude::*;

use super::*;

const STRICT: Paths =
    Paths { dot_segments: DotSegments::Reject, slashes: Slashes::Reject, encoded_slashes: EncodedSlashes::Reject };
const KEEPS: Paths =
    Paths { dot_segments: DotSegments::Remove, slashes: Slashes::Keep, encoded_slashes: EncodedSlashes::Keep };
const DECODES: Paths =
    Paths { dot_segments: DotSegments::Remove, slashes: Slashes::Merge, encoded_slashes: EncodedSlashes::Decode };

#[track_caller]
fn becomes(policy: Paths, table: &[(&str, &str)]) {
    for (path, wanted) in table {
        let settled = settle(path, policy).unwrap_or_else(|refusal| panic!("{path}: {refusal}"));
        assert_eq!(settled.path, *wanted, "{path}");
    }
}

#[track_caller]
fn refused(policy: Paths, table: &[(&str, Fault)]) {
    for (path, fault) in table {
        assert_eq!(settle(path, policy).expect_err(path).fault, *fault, "{path}");
    }
}

#[test]
fn ordinary_paths_stay_as_they_are_and_are_not_copied() {
    for path in
        ["/", "/a", "/a/", "/a/b.txt", "/.well-known/x", "/@scope/pkg", "/a%20b", "/%C3%A9", "/...", "/a:b/c,d=e"]
    {
        let settled = settle(path, Paths::default()).expect(path);
        assert!(matches!(settled.path, Cow::Borrowed(_)), "{path} became {}", settled.path);
        assert!(settled.traits.is_empty(), "{path}");
    }
}

#[test]
fn dot_segments_are_resolved_however_they_are_spelled() {
    becomes(
        Paths::default(),
        &[
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/../../c", "/c"),
            ("/../../a", "/a"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/a//../b", "/b"),
            ("/..", "/"),
            ("/.", "/"),
        ],
    );
    becomes(KEEPS, &[("/a//../b", "/a/b"), ("/a//b", "/a//b"), ("//a", "//a")]);
    becomes(DECODES, &[("/a%2F..%5Cb", "/b"), ("/a%2fb", "/a/b"), ("/a%5cb%5C%5Cc", "/a/b/c")]);
    refused(STRICT, &[("/a/../b", Fault::DotSegment), ("/a/%2e", Fault::DotSegment), ("/..", Fault::DotSegment)]);
}

#[test]
fn every_escape_has_one_form() {
    becomes(
        Paths::default(),
        &[
            ("/%61%5A%7e%2D", "/aZ~-"),
            ("/%c3%a9", "/%C3%A9"),
            ("/é", "/%C3%A9"),
            ("/{x}|[y]^\"", "/%7Bx%7D%7C%5By%5D%5E%22"),
            ("/%3a%2b", "/%3A%2B"),
            ("/a//b///", "/a/b/"),
            ("//a", "/a"),
        ],
    );
    becomes(KEEPS, &[("/a%2fb%5cc", "/a%2Fb%5Cc")]);
}

#[test]
fn what_has_no_safe_reading_is_refused_and_said_where() {
    refused(
        Paths::default(),
        &[
            ("/a\\b", Fault::Backslash),
            ("/a%2Fb", Fault::EncodedSlash),
            ("/a%5cb", Fault::EncodedSlash),
            ("/a%00", Fault::Nul),
            ("/a\0", Fault::Nul),
            ("/a%", Fault::Escape),
            ("/a%2", Fault::Escape),
            ("/a%zz", Fault::Escape),
            ("/%u002e", Fault::Escape),
            ("/%+1", Fault::Escape),
            ("/%C0%AE%C0%AE/", Fault::Overlong),
            ("/%c1%9c", Fault::Overlong),
            ("/%E0%80%AF", Fault::Overlong),
            ("/%F0%80%80%AF", Fault::Overlong),
            ("/a/..;/b", Fault::HiddenDotSegment),
            ("/a/..;x=1", Fault::HiddenDotSegment),
            ("/a/%252e%252e/b", Fault::HiddenDotSegment),
            ("/a/.%252e/b", Fault::HiddenDotSegment),
            ("/a/..%3Bx/b", Fault::HiddenDotSegment),
            ("/a/..%252fb", Fault::HiddenDotSegment),
            ("", Fault::Form),
            ("*", Fault::Form),
            ("a", Fault::Form),
        ],
    );
    refused(KEEPS, &[("/a%2F..%2Fb", Fault::HiddenDotSegment), ("/a/..%5Cb", Fault::HiddenDotSegment)]);
    refused(STRICT, &[("/a//b", Fault::Slashes), ("//", Fault::Slashes)]);
    assert_eq!(settle("/abc/%00", Paths::default()).expect_err("a NUL").at, 5);
}

#[test]
fn what_others_may_read_differently_is_marked_and_its_readings_are_known() {
    for (path, policy, wanted) in [
        ("/admin;x", Paths::default(), &["/admin"][..]),
        ("/v1/a%3Acancel", Paths::default(), &["/v1/a:cancel"]),
        ("/%2561dmin", Paths::default(), &["/admin"]),
        ("/x%253By", Paths::default(), &["/x;y", "/x"]),
        ("/a%2Fb", KEEPS, &["/a/b"]),
        ("/a//b", KEEPS, &["/a/b"]),
        ("/;x/a", Paths::default(), &["//a", "/a"]),
    ] {
        let settled = settle(path, policy).expect(path);
        assert!(settled.traits.has(Trait::Doubtful), "{path}");
        let readings = readings(&settled.path);
        for wanted in wanted {
            assert!(readings.iter().any(|reading| reading == wanted), "{path}: {readings:?} lacks {wanted}");
        }
    }
    // For everybody these are one and the same.
    for path in ["/a%20b", "/100%25", "/caf%C3%A9", "/%7Bx%7D"] {
        assert!(!settle(path, Paths::default()).expect(path).traits.has(Trait::Doubtful), "{path}");
        assert_eq!(readings(path), [""; 0], "{path}");
    }
}

#[test]
fn text_of_the_file_is_brought_into_the_same_form() {
    for (text, wanted) in
        [("é", "%C3%A9"), ("%c3%a9", "%C3%A9"), ("%61b", "ab"), ("{x}", "%7Bx%7D"), ("100%", "100%25"), ("a:b", "a:b")]
    {
        assert_eq!(literal(text), wanted, "{text}");
        assert_eq!(literal(&literal(text)), wanted, "{text}");
    }
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "/", "a", "B", ".", "..", ";", "%2e", "%2E", "%2f", "%5C", "\\", "%25", "%252e", "%252F", "%3b",
        "%3A", "%61", "%20", "%", "%0", "%00", "%C0%AF", "é", "{", "|", ":", "%7e", "2e", "x",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn policy() -> impl Strategy<Value = Paths> {
    let dots = prop::sample::select(vec![DotSegments::Remove, DotSegments::Reject]);
    let slashes = prop::sample::select(vec![Slashes::Merge, Slashes::Keep, Slashes::Reject]);
    let encoded = prop::sample::select(vec![EncodedSlashes::Reject, EncodedSlashes::Keep, EncodedSlashes::Decode]);
    (dots, slashes, encoded).prop_map(|(dot_segments, slashes, encoded_slashes)| Paths {
        dot_segments,
        slashes,
        encoded_slashes,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_settled_path_settles_as_itself(path in pieces(), policy in policy()) {
        let Ok(first) = settle(&path, policy) else { return Ok(()) };
        let again = settle(&first.path, policy).expect("it is settled");
        prop_assert_eq!(&again.path, &first.path);
        // What was resolved is gone; what is still doubtful stays so.
        prop_assert!(first.traits.has(Trait::Doubtful) || !again.traits.has(Trait::Doubtful));
        prop_assert!(!again.traits.has(Trait::Dots));
    }

    #[test]
    fn a_settled_path_has_nothing_that_its_policy_forbids(path in pieces(), policy in policy()) {
        let Ok(Settled { path, .. }) = settle(&path, policy) else { return Ok(()) };
        prop_assert!(path.starts_with('/') && path.is_ascii());
        prop_assert!(!path.contains('\\') && !path.contains("%00"));
        prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{}", path);
        prop_assert!(policy.slashes == Slashes::Keep || !path.contains("//"), "{}", path);
        let encoded = path.contains("%2F") || path.contains("%5C");
        prop_assert!(policy.encoded_slashes == EncodedSlashes::Keep || !encoded, "{}", path);
    }

    #[test]
    fn a_path_that_is_not_doubtful_has_no_other_reading(path in pieces(), policy in policy()) {
        let Ok(settled) = settle(&path, policy) else { return Ok(()) };
        if !settled.traits.has(Trait::Doubtful) {
            prop_assert_eq!(readings(&settled.path), Vec::<String>::new());
        }
    }

    #[test]
    fn the_fast_look_sees_what_the_close_one_sees(path in "/[a-z./;%:]{0,12}", policy in policy()) {
        if is_plain(path.as_bytes()) {
            let close = Writer::new(policy, 0).write(path.as_bytes());
            prop_assert_eq!(close, Ok((path, Traits::default())));
        }
    }
}
