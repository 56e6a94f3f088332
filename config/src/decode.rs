//! Reads a table as a type, and finds all that does not fit in one run.
//!
//! serde stops at the first misfit. So a misfit is reported, cut out of the tree, and the rest is
//! read again, until it fits or nothing is left to cut.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::node::{Kind, Misfit, Node, Reader, What};
use crate::raw::Step;
use crate::{Document, Faults, did_you_mean};

/// How many faults of one table are worth finding; the reader has enough to do by then.
const MOST: usize = 64;

/// What could be read.
pub(crate) struct Decoded<T> {
    /// The value, without what did not fit.
    pub(crate) value: Option<T>,
    /// Nothing had to be left out.
    pub(crate) whole: bool,
}

/// Reads `node` as a `T`. `whom` says whose keys these are.
pub(crate) fn decode<T: DeserializeOwned>(
    node: &Node,
    whom: &str,
    document: &Document,
    faults: &mut Faults,
) -> Decoded<T> {
    let mut node = Cow::Borrowed(node);
    for _ in 0..MOST {
        let misfit = match T::deserialize(Reader(&node)) {
            Ok(value) => {
                let whole = matches!(node, Cow::Borrowed(_));
                let value = Some(value);
                return Decoded { value, whole };
            }
            Err(misfit) => misfit,
        };
        let path = misfit.path();
        if !follows_from_a_cut(&misfit, &path, &node) {
            report(&misfit, &path, &node, whom, document, faults);
        }
        if path.is_empty() || !node.to_mut().prune(&path) {
            break;
        }
    }
    Decoded {
        value: None,
        whole: false,
    }
}

/// A key is missing because it was cut out: its fault is known already.
fn follows_from_a_cut(misfit: &Misfit, path: &[Step], node: &Node) -> bool {
    let What::Missing { key } = misfit.what else {
        return false;
    };
    let hole = node.find(path).and_then(|table| table.get(key));
    hole.is_some_and(|node| matches!(node.kind, Kind::Hole))
}

fn report(
    misfit: &Misfit,
    path: &[Step],
    root: &Node,
    whom: &str,
    document: &Document,
    faults: &mut Faults,
) {
    let node = root.find(path).unwrap_or(root);
    let span = match (misfit.on_key, path.split_last()) {
        (true, Some((Step::Key(key), parents))) => {
            let parent = root.find(parents).unwrap_or(root);
            let found = parent.entries().iter().find(|(name, _)| name.value == *key);
            found.map_or(node.span.clone(), |(name, _)| name.span.clone())
        }
        _ => node.span.clone(),
    };
    let subject = subject(path, whom);
    match &misfit.what {
        What::Said(said) => {
            faults.error(document, span, said);
        }
        What::WrongType { expected } => {
            let said = format!("{subject} must be {}, not {}", plain(expected), node.noun());
            faults.error(document, span, said);
        }
        What::WrongValue { expected } => {
            faults.error(
                document,
                span,
                format!("{subject} must be {}", plain(expected)),
            );
        }
        What::WrongLength { expected } => {
            faults.error(
                document,
                span,
                format!("{subject} must be {}", plain(expected)),
            );
        }
        What::UnknownKey { key, known } => {
            let parents = path.split_last().map_or(path, |(_, parents)| parents);
            let owner = owner(parents, whom);
            let mut known: Vec<&str> = known.to_vec();
            known.sort_unstable();
            let guess = did_you_mean(key, known.iter().copied());
            let guess = guess.map(|guess| format!("; did you mean `{guess}`?"));
            let said = format!("unknown key `{key}`{}", guess.unwrap_or_default());
            let label = match known.as_slice() {
                [] => format!("{owner} takes no keys"),
                known => format!("{owner} takes: {}", known.join(", ")),
            };
            faults.error(document, span, said).label(label);
        }
        What::UnknownWord { word, known } => {
            let guess = did_you_mean(word, known.iter().copied());
            let guess = guess.map(|guess| format!("; did you mean `{guess}`?"));
            let said = format!("{subject} cannot be `{word}`{}", guess.unwrap_or_default());
            let label = format!("one of: {}", known.join(", "));
            faults.error(document, span, said).label(label);
        }
        What::Missing { key } => {
            let owner = owner(path, whom);
            faults
                .error(document, span, format!("`{key}` is missing"))
                .label(format!("{owner} needs `{key}`"));
        }
    }
}

/// The value at the end of a path, as a sentence calls it.
fn subject(path: &[Step], whom: &str) -> String {
    match path {
        [] => whom.to_owned(),
        [.., Step::Key(key)] => format!("`{key}`"),
        [.., Step::Key(key), Step::Index(_)] => format!("an item of `{key}`"),
        [.., Step::Index(_)] => format!("an item of {whom}"),
    }
}

/// The table at the end of a path, as a sentence calls it.
fn owner(path: &[Step], whom: &str) -> String {
    let keys: Vec<&str> = path
        .iter()
        .filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
        .collect();
    match keys.as_slice() {
        [] => whom.to_owned(),
        keys => format!("`{}` of {whom}", keys.join(".")),
    }
}

/// serde's name for what it expected, in the words of this file.
fn plain(expected: &str) -> Cow<'_, str> {
    let word = match expected {
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        "a map" => "a table",
        "a string" | "a borrowed string" | "path string" => "a string",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        _ if expected.starts_with("a nonzero u") => "a whole number, 1 or more",
        _ if expected.starts_with("struct ") => "a table",
        _ if expected.starts_with("tuple ") => "a list",
        _ => return Cow::Borrowed(expected),
    };
    Cow::Borrowed(word)
}
