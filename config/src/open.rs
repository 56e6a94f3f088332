//! The open tables of a file, even of one that has faults elsewhere.
//!
//! A file with a fault is no [`File`](crate::File), but its plugins' tables can be read all the same,
//! so that their faults show in the same run.

use std::fmt;
use std::ops::Range;

use serde::Deserialize as _;

use crate::node::{Node, Reader};
use crate::{Document, Faults, Raw, Spanned, did_you_mean};

/// What an open table declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `[middleware.x]`, or an inline table in a chain.
    Middleware,
    /// `[registry.x]`
    Registry,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Middleware => "middleware",
            Self::Registry => "registry",
        })
    }
}

/// A table whose type is open, and what it declares.
#[derive(Clone, Debug)]
pub struct OpenTable {
    /// What it declares.
    pub kind: Kind,
    /// Its name; an inline table has none.
    pub name: Option<String>,
    /// The table.
    pub raw: Raw,
}

impl OpenTable {
    /// How a report calls it: ``middleware `office` (ip_whitelist)``.
    pub fn whom(&self) -> String {
        match &self.name {
            Some(name) => format!("{} `{name}` ({})", self.kind, self.raw.type_name),
            None => format!("{} ({})", self.kind, self.raw.type_name),
        }
    }
}

/// All open tables of a document that can be read as such. What cannot be read is reported by
/// [`File::of`](crate::File::of).
pub fn open_tables(document: &Document) -> Vec<OpenTable> {
    let mut tables = Vec::new();
    if !document.sound {
        return tables;
    }
    let root = &document.root;
    for (section, kind) in [("registry", Kind::Registry), ("middleware", Kind::Middleware)] {
        for (name, node) in root.get(section).into_iter().flat_map(Node::entries) {
            let name = Some(name.value.clone());
            tables.extend(read(node, document).map(|raw| OpenTable { kind, name, raw }));
        }
    }
    let listeners = root.get("listener").into_iter().flat_map(Node::entries);
    let listeners = listeners.map(|(_, listener)| listener);
    let routes = root.get("route").into_iter().flat_map(Node::items);
    for owner in listeners.chain(routes) {
        let parts = owner.get("split").into_iter().flat_map(Node::items);
        for chain in parts.chain([owner]).filter_map(|owner| owner.get("chain")) {
            let inline = chain.items().iter().filter_map(|item| read(item, document));
            tables.extend(inline.map(|raw| OpenTable { kind: Kind::Middleware, name: None, raw }));
        }
    }
    tables
}

fn read(node: &Node, document: &Document) -> Option<Raw> {
    let mut raw = Raw::deserialize(Reader(node)).ok()?;
    raw.settle(document);
    Some(raw)
}

/// Reports a `type` that this binary does not carry.
pub fn unknown_type<'a>(
    kind: Kind,
    type_name: &Spanned<String>,
    types: impl IntoIterator<Item = &'a str>,
    document: &Document,
    faults: &mut Faults,
) {
    let types: Vec<&str> = types.into_iter().collect();
    let guess = did_you_mean(type_name, types.iter().copied());
    let guess = guess.map(|guess| format!("; did you mean `{guess}`?"));
    let said = format!("unknown {kind} type `{type_name}`{}", guess.unwrap_or_default());
    let span: Range<usize> = type_name.span.clone();
    faults.error(document, span, said).label(format!("this binary carries: {}", types.join(", ")));
}
