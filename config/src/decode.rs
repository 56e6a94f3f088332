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
        let misfit = match T::deserialize(Reader(&node, &document.directory)) {
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
    Decoded { value: None, whole: false }
}

/// What is left of a table or list after a cut may not make sense; that fault is known already.
fn follows_from_a_cut(misfit: &Misfit, path: &[Step], node: &Node) -> bool {
    let Some(node) = node.find(path) else {
        return false;
    };
    let is_hole = |node: &Node| matches!(node.kind, Kind::Hole);
    match (&misfit.what, &node.kind) {
        // Cut out itself, or cut out as a misspelling of this very key.
        (What::Missing { key }, _) => node
            .entries()
            .iter()
            .any(|(name, value)| is_hole(value) && (name.value == *key || did_you_mean(name, [*key]).is_some())),
        (What::UnknownKey { .. } | What::UnknownWord { .. }, _) => false,
        (_, Kind::Table(entries)) => entries.iter().any(|(_, value)| is_hole(value)),
        (_, Kind::List(items)) => items.iter().any(is_hole),
        _ => false,
    }
}

fn report(misfit: &Misfit, path: &[Step], root: &Node, whom: &str, document: &Document, faults: &mut Faults) {
    let node = root.find(path).unwrap_or(root);
    let parents = path.split_last().map_or(path, |(_, parents)| parents);
    let subject = subject(path, whom);
    match &misfit.what {
        What::UnknownKey { key, known } | What::UnknownWord { word: key, known } if misfit.on_key => {
            let mut known = known.to_vec();
            known.sort_unstable();
            let owner = owner(parents, whom);
            let label = match known.as_slice() {
                [] => format!("{owner} takes no keys"),
                known => format!("{owner} takes: {}", known.join(", ")),
            };
            let span = key_span(root, path);
            let said = format!("unknown key `{key}`{}", guess(key, &known));
            faults.error(document, span, said).label(label);
        }
        What::Said(said) if misfit.on_key => {
            faults.error(document, key_span(root, path), said);
        }
        What::Said(said) => {
            faults.error(document, node.span.clone(), said);
        }
        What::WrongType { expected } => {
            let said = format!("{subject} must be {}, not {}", plain(expected), node.noun());
            let fault = faults.error(document, node.span.clone(), said);
            if let Some(help) = brackets(path, node) {
                fault.help(help);
            }
        }
        What::WrongValue { expected } | What::WrongLength { expected } => {
            let not = match &node.kind {
                Kind::Integer(Some(number)) => format!(", not {number}"),
                Kind::Float(number) => format!(", not {number}"),
                _ => String::new(),
            };
            let said = format!("{subject} must be {}{not}", plain(expected));
            faults.error(document, node.span.clone(), said);
        }
        What::UnknownKey { key: word, known } | What::UnknownWord { word, known } => {
            let said = format!("{subject} cannot be `{word}`{}", guess(word, known));
            let label = format!("one of: {}", known.join(", "));
            faults.error(document, node.span.clone(), said).label(label);
        }
        What::NotOneKey { known } => {
            let said = format!("{subject} must have exactly one key, not {}", node.entries().len());
            faults.error(document, node.span.clone(), said).label(format!("one of: {}", known.join(", ")));
        }
        What::Missing { key } => {
            let owner = owner(path, whom);
            let said = format!("`{key}` is missing");
            let fault = faults.error(document, node.span.clone(), said);
            fault.label(format!("{owner} needs `{key}`"));
            let others = node.entries().iter().map(|(name, _)| name.value.as_str());
            if let Some(slip) = did_you_mean(key, others) {
                fault.help(format!("there is a `{slip}`; did you mean `{key}`?"));
            }
        }
    }
}

fn guess(given: &str, known: &[&str]) -> String {
    let guess = did_you_mean(given, known.iter().copied());
    guess.map_or_else(String::new, |guess| format!("; did you mean `{guess}`?"))
}

/// Where the key at the end of a path was written.
fn key_span(root: &Node, path: &[Step]) -> std::ops::Range<usize> {
    let Some((Step::Key(key), parents)) = path.split_last() else {
        return root.span.clone();
    };
    let parent = root.find(parents).unwrap_or(root);
    let mut entries = parent.entries().iter();
    let found = entries.find(|(name, _)| name.value == *key);
    found.map_or_else(|| parent.span.clone(), |(name, _)| name.span.clone())
}

/// `[route]` and `[[route]]` are easily confused, and the words "table" and "list" do not help.
fn brackets(path: &[Step], node: &Node) -> Option<String> {
    let [Step::Key(key)] = path else {
        return None;
    };
    match (&node.kind, key.as_str()) {
        (Kind::Table(_), "route") => Some("write `[[route]]` for every route".into()),
        (Kind::List(_), "listener" | "registry" | "service" | "middleware") => {
            Some(format!("give it a name: `[{key}.NAME]`"))
        }
        _ => None,
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
    let item = match path {
        [.., Step::Index(_)] => "an item of ",
        _ => "",
    };
    match keys.as_slice() {
        [] => format!("{item}{whom}"),
        keys => format!("{item}`{}` of {whom}", keys.join(".")),
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
        "a nonzero u16" => "a whole number from 1 to 65535",
        _ if expected.starts_with("a nonzero u") => "a whole number, 1 or more",
        _ if expected.starts_with("struct ") => "a table",
        _ if expected.starts_with("tuple ") => "a list",
        _ => return Cow::Borrowed(expected),
    };
    Cow::Borrowed(word)
}
