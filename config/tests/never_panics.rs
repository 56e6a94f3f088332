//! Whatever a file holds, reading it and drawing its faults ends with an answer.

use portcullis_config::{Document, Faults, File, open_tables};
use proptest::prelude::*;

/// A file that uses every key.
const FULL: &str = include_str!("full.toml");

fn read(text: &str) {
    let (file, faults) = File::parse("gateway.toml", text);
    let plain = faults.render(false);
    faults.render(true);
    serde_json::to_string(&faults).expect("faults are plain data");
    assert_eq!(plain.is_empty(), faults.is_empty());
    assert!(file.is_some() || faults.has_errors(), "a file that is refused without a word:\n{text}");
    let unseen = |c: char| c.is_control() && c != '\n';
    assert!(!plain.contains(unseen), "a control character reaches the terminal: {plain:?}");
    let mut again = Faults::new();
    let document = Document::parse("gateway.toml", text, &mut again);
    for table in open_tables(&document) {
        table.raw.canonical();
        let _ = document.place(&table.raw.span_of(&["a".into(), 3.into()]));
    }
}

/// One edit of a text, as a slipping hand makes it.
#[derive(Clone, Debug)]
enum Slip {
    Delete(usize, usize),
    Insert(usize, String),
    SwapLines(usize, usize),
    Cut(usize),
}

fn slip() -> impl Strategy<Value = Slip> {
    let odd = prop_oneof![
        "[\\[\\]{}=\"'#.,\\\\ \n\r\t]{1,3}",
        "\\PC{1,4}",
        "[0-9]{1,40}",
        Just("\u{0}".to_owned()),
        Just("\u{feff}".to_owned()),
        Just("\u{202e}".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("[[[[[[[[[[[[[[[[".to_owned()),
        Just("nan".to_owned()),
    ];
    prop_oneof![
        (any::<usize>(), 1..20_usize).prop_map(|(at, length)| Slip::Delete(at, length)),
        (any::<usize>(), odd).prop_map(|(at, text)| Slip::Insert(at, text)),
        (any::<usize>(), any::<usize>()).prop_map(|(one, other)| Slip::SwapLines(one, other)),
        any::<usize>().prop_map(Slip::Cut),
    ]
}

impl Slip {
    fn apply(&self, text: &mut String) {
        let boundary = |text: &str, at: usize| text.floor_char_boundary(at % (text.len() + 1));
        match self {
            Self::Delete(at, length) => {
                let start = boundary(text, *at);
                let end = text.ceil_char_boundary((start + length).min(text.len()));
                text.replace_range(start..end, "");
            }
            Self::Insert(at, piece) => text.insert_str(boundary(text, *at), piece),
            Self::SwapLines(one, other) => {
                let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
                if !lines.is_empty() {
                    let count = lines.len();
                    lines.swap(one % count, other % count);
                    *text = lines.concat();
                }
            }
            Self::Cut(at) => text.truncate(boundary(text, *at)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_any_text(text in "(?s).{0,300}") {
        read(&text);
    }

    #[test]
    fn on_text_that_looks_like_toml(text in "([a-z]{1,5} ?= ?[\"'\\[{}\\]0-9a-z.,\r\t é世]{0,9}\n|\\[\\[?(route|listener\\.a|x)\\]\\]?\n){0,20}") {
        read(&text);
    }

    #[test]
    fn on_a_good_file_after_some_slips(slips in prop::collection::vec(slip(), 1..6)) {
        let mut text = FULL.to_owned();
        for slip in &slips {
            slip.apply(&mut text);
        }
        read(&text);
    }

    #[test]
    fn on_spans_that_lie(text in "(?s).{0,60}", start in 0..200_usize, end in 0..200_usize, also in 0..200_usize) {
        let mut faults = Faults::new();
        let document = Document::parse("x\u{1b}.toml", &text, &mut Faults::new());
        faults.error(&document, start..end, "wrong\nhere").label("a\tb").also(also..start, "there").help("c\u{7}");
        faults.warning(&document, end..start, "");
        faults.render(false);
        faults.render(true);
    }
}

#[test]
fn the_full_file_is_fine() {
    let (file, faults) = File::parse("gateway.toml", FULL);
    assert!(file.is_some() && faults.is_empty(), "{}", faults.render(false));
}
