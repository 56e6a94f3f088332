//! A table whose type is open: its keys belong to a plugin that this crate does not know.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::node::{Kind, Node, Table};
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
            node: Node { kind: Kind::Table(Vec::new()), span },
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
    pub fn decode<T: DeserializeOwned>(&self, whom: &str, document: &Document, faults: &mut Faults) -> Option<T> {
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

    /// Reads a table whose own place is not known here.
    pub(crate) fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut type_name = None;
        let mut entries = Table::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if key.value == "type" {
                type_name = Some(map.next_value::<Spanned<String>>()?);
            } else {
                entries.push((key, map.next_value()?));
            }
        }
        let Some(type_name) = type_name else {
            return Err(A::Error::missing_field("type"));
        };
        let node = Node { kind: Kind::Table(entries), span: 0..0 };
        Ok(Self { type_name, span: 0..0, place: Place::default(), node })
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
        struct Unplaced(Raw);

        impl<'de> Deserialize<'de> for Unplaced {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_map(OpenTable)
            }
        }

        struct OpenTable;

        impl<'de> Visitor<'de> for OpenTable {
            type Value = Unplaced;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table with a `type`")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Unplaced, A::Error> {
                Raw::from_map(map).map(Unplaced)
            }
        }

        let Spanned { value, span } = Spanned::<Unplaced>::deserialize(deserializer)?;
        Ok(value.0.placed(span))
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
