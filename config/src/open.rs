//! The open tables of a file, even of one that has faults elsewhere.
//!
//! A file with a fault is no [`File`](crate::File), but its plugins' tables can be read all the same,
//! so that their faults show in the same run.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize as _;

use crate::names::listed;
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

/// All open tables of a document that can be read as such. What cannot be read is reported by
/// [`File::of`](crate::File::of).
pub fn open_tables(document: &Document) -> Vec<OpenTable> {
    let mut tables = Vec::new();
    for (section, kind) in [("registry", Kind::Registry), ("middleware", Kind::Middleware)] {
        for (name, node) in declared(document, section) {
            let name = Some(name.value.clone());
            tables.extend(read(node, document).map(|raw| OpenTable { kind, name, raw }));
        }
    }
    let inline = chain_items(document).filter_map(|item| read(item, document));
    tables.extend(inline.map(|raw| OpenTable { kind: Kind::Middleware, name: None, raw }));
    tables
}

/// The names in all chains of a document that are neither declared in it nor among `types`.
pub fn unknown_names(document: &Document, types: &[&str], faults: &mut Faults) {
    let declared: Vec<&str> = declared(document, "middleware").map(|(name, _)| name.value.as_str()).collect();
    for item in chain_items(document) {
        let Ok(name) = Spanned::<String>::deserialize(Reader(item, Path::new(""))) else { continue };
        if !declared.contains(&name.as_str()) && !types.contains(&name.as_str()) {
            unknown_middleware(&name, &declared, types, document, faults);
        }
    }
}

fn declared<'a>(document: &'a Document, section: &str) -> impl Iterator<Item = &'a (Spanned<String>, Node)> {
    let root = document.sound.then_some(&*document.root);
    root.and_then(|root| root.get(section)).into_iter().flat_map(Node::entries)
}

/// The items of all chains: of listeners, of routes, and of the parts of splits.
fn chain_items(document: &Document) -> impl Iterator<Item = &Node> {
    let listeners = declared(document, "listener").map(|(_, listener)| listener);
    let root = document.sound.then_some(&*document.root);
    let routes = root.and_then(|root| root.get("route")).into_iter().flat_map(Node::items);
    let owners = listeners.chain(routes).flat_map(|owner| {
        let parts = owner.get("split").into_iter().flat_map(Node::items);
        [owner].into_iter().chain(parts)
    });
    owners.filter_map(|owner| owner.get("chain")).flat_map(Node::items)
}

fn read(node: &Node, document: &Document) -> Option<Raw> {
    let mut raw = Raw::deserialize(Reader(node, Path::new(""))).ok()?;
    raw.settle(document);
    Some(raw)
}

/// Reports a name in a chain that leads nowhere. `types` are the plugins, any of which may stand in a
/// chain by its type if it needs no settings.
pub fn unknown_middleware(
    name: &Spanned<String>,
    declared: &[&str],
    types: &[&str],
    document: &Document,
    faults: &mut Faults,
) {
    let guess = did_you_mean(name, declared.iter().chain(types).copied());
    let guess = guess.map(|guess| format!("; did you mean `{guess}`?"));
    let said = format!("unknown middleware `{name}`{}", guess.unwrap_or_default());
    let label = match declared {
        [] => "no middleware is declared".to_owned(),
        declared => format!("declared: {}", listed(declared.iter().copied())),
    };
    let help = format!("a type may stand here too, if it needs no settings: {}", types.join(", "));
    faults.error(document, name.span.clone(), said).label(label).help(help);
}

/// Reports a `type` that this binary does not carry.
pub fn unknown_type(kind: Kind, type_name: &Spanned<String>, types: &[&str], document: &Document, faults: &mut Faults) {
    let guess = did_you_mean(type_name, types.iter().copied());
    let guess = guess.map(|guess| format!("; did you mean `{guess}`?"));
    let said = format!("unknown {kind} type `{type_name}`{}", guess.unwrap_or_default());
    let span: Range<usize> = type_name.span.clone();
    faults.error(document, span, said).label(format!("this binary carries: {}", types.join(", ")));
}
