//! A table whose type is open: its keys belong to a plugin that this crate does not know.

use std::borrow::Cow;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, MapAccess};
use serde::{Deserialize, Deserializer};

use crate::node::{Kind, Node};
use crate::{Document, Faults, Place, Spanned, decode};

/// A `[middleware.x]`, a `[registry.x]` or an inline table in a chain, kept as it was written.
#[derive(Clone, Debug)]
pub struct Raw {
    /// What its `type` says.
    pub type_name: Spanned<String>,
    /// The whole table.
    pub span: Range<usize>,
    /// Where the table begins.
    pub place: Place,
    /// Everything but `type`.
    node: Node,
}

impl Raw {
    /// A plugin that is listed by its type name alone: a table without keys.
    pub fn bare(name: &str, span: Range<usize>, place: Place) -> Self {
        Self {
            type_name: Spanned::new(name.to_owned(), span.clone()),
            span: span.clone(),
            place,
            node: Node {
                kind: Kind::Table(Vec::new()),
                span,
            },
        }
    }

    /// A whole document as the settings of one plugin, for tests and examples: there is no `type` in it.
    pub fn whole(name: &str, document: &Document) -> Self {
        Self { node: (*document.root).clone(), ..Self::bare(name, 0..document.text.len(), document.place(&(0..0))) }
    }

    /// Reads the table as the plugin's own type.
    ///
    /// `whom` names the table in the reports: ``middleware `office` (ip_whitelist)``. Every key that
    /// does not fit becomes a fault, and then there is no value.
    pub fn decode<T: DeserializeOwned>(
        &self,
        whom: &str,
        document: &Document,
        faults: &mut Faults,
    ) -> Option<T> {
        let decoded = decode::decode(&self.node, whom, document, faults);
        decoded.value.filter(|_| decoded.whole)
    }

    /// Where the value at `path` was written, or the nearest table or list around it.
    ///
    /// ```
    /// # use portcullis_config::{File, Faults};
    /// # let text = "[listener.web]\naddress = \"127.0.0.1:80\"\n[middleware.office]\ntype = \"ip_whitelist\"\nallow = [\"a\", \"b\"]\n";
    /// # let (file, _) = File::parse("gateway.toml", text);
    /// # let file = file.unwrap();
    /// # let raw = &file.middlewares[0].value;
    /// let span = raw.span_of(&["allow".into(), 1.into()]);
    /// assert_eq!(&file.document.text[span], "\"b\"");
    /// ```
    pub fn span_of(&self, path: &[Step]) -> Range<usize> {
        let mut node = &self.node;
        for step in path {
            match node.step(step) {
                Some(inner) => node = inner,
                None => break,
            }
        }
        node.span.clone()
    }

    /// The contents in one notation, `type` included: equal for two tables that say the same.
    pub fn canonical(&self) -> String {
        let mut out = format!("{:?}", self.type_name.value);
        self.node.canonical(&mut out);
        out
    }

    fn from_node<E: Error>(mut node: Node) -> Result<Self, E> {
        let Kind::Table(entries) = &mut node.kind else {
            return Err(E::custom("this must be a table with a `type`"));
        };
        let Some(at) = entries.iter().position(|(key, _)| key.value == "type") else {
            return Err(E::missing_field("type"));
        };
        let (_, value) = entries.remove(at);
        let Kind::String(name) = value.kind else {
            return Err(E::custom(format!(
                "`type` must be a string, not {}",
                value.noun()
            )));
        };
        Ok(Self {
            type_name: Spanned::new(name, value.span),
            span: node.span.clone(),
            place: Place::default(),
            node,
        })
    }

    /// Reads the rest of a table whose place is not known yet.
    pub(crate) fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let kind = Kind::deserialize(MapAccessDeserializer::new(map))?;
        Self::from_node(Node { kind, span: 0..0 })
    }

    pub(crate) fn placed(mut self, span: Range<usize>) -> Self {
        self.node.span = span.clone();
        self.span = span;
        self
    }

    pub(crate) fn settle(&mut self, document: &Document) {
        self.place = document.place(&self.span);
    }
}

/// One step of the way to a value: into a table by its key, or into a list by its position.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The value of a key.
    Key(String),
    /// An item of a list, from 0.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<String> for Step {
    fn from(key: String) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_node(Node::deserialize(deserializer)?)
    }
}

impl JsonSchema for Raw {
    fn schema_name() -> Cow<'static, str> {
        "Plugin".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "required": ["type"],
            "properties": { "type": { "type": "string" } },
        })
    }
}
