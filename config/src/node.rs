//! The tree of a document: every key and value with its place, in the order written.
//!
//! It is our own rather than `toml::de::DeTable` for three reasons: it is owned without a copy of the
//! text kept alive by lifetimes, it keeps the order of keys, and its errors stay structured (which
//! key, what was expected) until they are put into a sentence.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use serde::de::{self, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_spanned::de::{SpannedDeserializer, is_spanned};
use toml::de::{DeTable, DeValue};

use crate::Spanned;
use crate::raw::Step;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) span: Range<usize>,
}

pub(crate) type Table = Vec<(Spanned<String>, Node)>;

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    String(String),
    /// `None` does not fit any integer of ours.
    Integer(Option<i128>),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    List(Vec<Node>),
    Table(Table),
    /// Taken out because it was faulty: readers skip it, and its neighbours keep their positions.
    Hole,
}

impl Node {
    pub(crate) fn table(table: &DeTable<'_>, span: Range<usize>) -> Self {
        let mut entries: Table = table
            .iter()
            .map(|(key, value)| {
                let key = Spanned::new(key.get_ref().to_string(), key.span());
                let value = Node::value(value.get_ref(), value.span());
                (key, value)
            })
            .collect();
        // toml hands the keys out sorted by name.
        entries.sort_by_key(|(key, _)| key.span.start);
        Self { kind: Kind::Table(entries), span }
    }

    fn value(value: &DeValue<'_>, span: Range<usize>) -> Self {
        let kind = match value {
            DeValue::String(text) => Kind::String(text.to_string()),
            DeValue::Integer(number) => Kind::Integer(i128::from_str_radix(number.as_str(), number.radix()).ok()),
            DeValue::Float(number) => Kind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(yes) => Kind::Boolean(*yes),
            DeValue::Datetime(moment) => Kind::Datetime(moment.to_string()),
            DeValue::Array(items) => {
                Kind::List(items.iter().map(|item| Node::value(item.get_ref(), item.span())).collect())
            }
            DeValue::Table(table) => return Node::table(table, span),
        };
        Self { kind, span }
    }

    pub(crate) fn entries(&self) -> &[(Spanned<String>, Node)] {
        match &self.kind {
            Kind::Table(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let (_, value) = self.entries().iter().find(|(name, _)| name.value == key)?;
        Some(value)
    }

    /// The node that a step leads to.
    pub(crate) fn step(&self, step: &Step) -> Option<&Node> {
        match (&self.kind, step) {
            (Kind::Table(_), Step::Key(key)) => self.get(key),
            (Kind::List(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    pub(crate) fn find(&self, path: &[Step]) -> Option<&Node> {
        path.iter().try_fold(self, |node, step| node.step(step))
    }

    fn find_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, step| match (&mut node.kind, step) {
            (Kind::Table(entries), Step::Key(key)) => {
                entries.iter_mut().find_map(|(name, value)| (name.value == *key).then_some(value))
            }
            (Kind::List(items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        })
    }

    /// Leaves a hole where `path` leads. False if it was one already, or leads nowhere.
    pub(crate) fn prune(&mut self, path: &[Step]) -> bool {
        match self.find_mut(path) {
            Some(node) if !matches!(node.kind, Kind::Hole) => {
                node.kind = Kind::Hole;
                true
            }
            _ => false,
        }
    }

    /// What a reader would call this value.
    pub(crate) fn noun(&self) -> &'static str {
        match self.kind {
            Kind::String(_) => "a string",
            Kind::Integer(_) => "a number",
            Kind::Float(_) => "a number with a fraction",
            Kind::Boolean(true) => "`true`",
            Kind::Boolean(false) => "`false`",
            Kind::Datetime(_) => "a date",
            Kind::List(_) => "a list",
            Kind::Table(_) => "a table",
            Kind::Hole => "nothing",
        }
    }

    /// The value in one notation: keys sorted, no comments, no places.
    pub(crate) fn canonical(&self, out: &mut String) {
        match &self.kind {
            Kind::String(text) => drop(write!(out, "{text:?}")),
            Kind::Integer(number) => drop(write!(out, "{}", number.unwrap_or(i128::MAX))),
            Kind::Float(number) => drop(write!(out, "{number:?}")),
            Kind::Boolean(yes) => drop(write!(out, "{yes}")),
            Kind::Datetime(moment) => out.push_str(moment),
            Kind::List(items) => {
                out.push('[');
                for item in items {
                    item.canonical(out);
                    out.push(',');
                }
                out.push(']');
            }
            Kind::Table(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by_key(|(key, _)| key.value.as_str());
                out.push('{');
                for (key, value) in entries {
                    let _ = write!(out, "{:?}=", key.value);
                    value.canonical(out);
                    out.push(',');
                }
                out.push('}');
            }
            Kind::Hole => {}
        }
    }
}

impl Node {
    /// The value as JSON, which has no dates: they become text.
    pub(crate) fn json(&self) -> Value {
        match &self.kind {
            Kind::String(text) | Kind::Datetime(text) => Value::from(text.as_str()),
            Kind::Integer(number) => match number.map(i64::try_from) {
                Some(Ok(number)) => Value::from(number),
                _ => Value::Null,
            },
            Kind::Float(number) => Value::from(*number),
            Kind::Boolean(yes) => Value::from(*yes),
            Kind::List(items) => items.iter().map(Node::json).collect(),
            Kind::Table(entries) => {
                let entries = entries.iter();
                let entries = entries.map(|(key, value)| (key.value.clone(), value.json()));
                Value::Object(entries.collect())
            }
            Kind::Hole => Value::Null,
        }
    }
}

/// Why a value could not be read, and the way to it.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) what: What,
    /// The way from the node that was read to the one that did not fit, last step first.
    steps: Vec<Step>,
    /// The key itself is at fault, not its value.
    pub(crate) on_key: bool,
}

#[derive(Debug)]
pub(crate) enum What {
    /// A sentence by the type that was read.
    Said(String),
    WrongType {
        expected: String,
    },
    WrongValue {
        expected: String,
    },
    WrongLength {
        expected: String,
    },
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    UnknownWord {
        word: String,
        known: &'static [&'static str],
    },
    Missing {
        key: &'static str,
    },
    /// A table that is a choice holds none of these keys, or several.
    NotOneKey {
        known: &'static [&'static str],
    },
}

impl Misfit {
    fn new(what: What) -> Self {
        Self { what, steps: Vec::new(), on_key: false }
    }

    fn under(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    fn on_key(mut self, key: &str) -> Self {
        self.on_key = self.steps.is_empty();
        self.under(Step::Key(key.into()))
    }

    pub(crate) fn path(&self) -> Vec<Step> {
        self.steps.iter().rev().cloned().collect()
    }
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: std::fmt::Display>(said: T) -> Self {
        Self::new(What::Said(said.to_string()))
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        Self::new(What::WrongType { expected })
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        Self::new(What::WrongValue { expected })
    }

    fn invalid_length(_: usize, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        Self::new(What::WrongLength { expected })
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        let word = word.to_owned();
        Self::new(What::UnknownWord { word, known })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        let key = key.to_owned();
        Self::new(What::UnknownKey { key, known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(What::Missing { key })
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::new(What::Said(format!("`{key}` is given twice")))
    }
}

/// Reads a node with serde. The paths in it are relative to a directory.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'de>(pub(crate) &'de Node, pub(crate) &'de Path);

/// By this name a newtype asks for text as a path from the directory; it gets its bytes.
pub(crate) const FILE_PATH: &str = "$portcullis::FilePath";

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.0.kind {
            Kind::String(text) | Kind::Datetime(text) => visitor.visit_borrowed_str(text),
            Kind::Integer(number) => {
                let number = number.unwrap_or(i128::MAX);
                if let Ok(small) = i64::try_from(number) {
                    visitor.visit_i64(small)
                } else if let Ok(large) = u64::try_from(number) {
                    visitor.visit_u64(large)
                } else {
                    visitor.visit_i128(number)
                }
            }
            Kind::Float(number) => visitor.visit_f64(*number),
            Kind::Boolean(yes) => visitor.visit_bool(*yes),
            Kind::List(items) => {
                let mut walk = Items { items: items.iter().enumerate(), directory: self.1 };
                let value = visitor.visit_seq(&mut walk)?;
                if walk.next().is_some() {
                    return Err(de::Error::invalid_length(items.len(), &"fewer items"));
                }
                Ok(value)
            }
            Kind::Table(entries) => {
                visitor.visit_map(Entries { entries: entries.iter(), value: None, directory: self.1 })
            }
            Kind::Hole => visitor.visit_unit(),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        match &self.0.kind {
            Kind::String(text) if name == FILE_PATH => {
                visitor.visit_byte_buf(self.1.join(text).into_os_string().into_encoded_bytes())
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        if is_spanned(name) {
            let span = self.0.span.clone();
            return visitor.visit_map(SpannedDeserializer::<_, Misfit>::new(self, span));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match &self.0.kind {
            Kind::String(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            Kind::Table(entries) => {
                let mut entries = entries.iter().filter(|(_, value)| !matches!(value.kind, Kind::Hole));
                match (entries.next(), entries.next()) {
                    (Some((key, value)), None) => visitor.visit_enum(Choice { key, value, directory: self.1 }),
                    _ => Err(Misfit::new(What::NotOneKey { known: variants })),
                }
            }
            _ => Err(Misfit::new(What::WrongType { expected: "a string".into() })),
        }
    }

    serde::forward_to_deserialize_any! {
        bool u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 char str string seq bytes byte_buf map
        unit ignored_any unit_struct tuple_struct tuple identifier
    }
}

impl<'de> IntoDeserializer<'de, Misfit> for Reader<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Items<'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
    directory: &'de Path,
}

impl<'de> Items<'de> {
    fn next(&mut self) -> Option<(usize, &'de Node)> {
        self.items.find(|(_, item)| !matches!(item.kind, Kind::Hole))
    }
}

impl<'de> de::SeqAccess<'de> for &mut Items<'de> {
    type Error = Misfit;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some((index, item)) = self.next() else {
            return Ok(None);
        };
        seed.deserialize(Reader(item, self.directory)).map(Some).map_err(|misfit| misfit.under(Step::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        self.items.size_hint().1
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, (Spanned<String>, Node)>,
    value: Option<&'de (Spanned<String>, Node)>,
    directory: &'de Path,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Misfit;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        self.value = self.entries.find(|(_, value)| !matches!(value.kind, Kind::Hole));
        let Some((key, _)) = self.value else {
            return Ok(None);
        };
        seed.deserialize(KeyReader(key)).map(Some).map_err(|misfit| misfit.on_key(key))
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (key, value) = self.value.expect("a value is asked for after its key");
        seed.deserialize(Reader(value, self.directory)).map_err(|misfit| misfit.under(Step::Key(key.value.clone())))
    }
}

/// Reads a key: a string, or whatever a string can become.
#[derive(Clone, Copy)]
struct KeyReader<'de>(&'de Spanned<String>);

impl<'de> Deserializer<'de> for KeyReader<'de> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_borrowed_str(&self.0.value)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        if is_spanned(name) {
            let span = self.0.span.clone();
            return visitor.visit_map(SpannedDeserializer::<_, Misfit>::new(self, span));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_enum(self.0.value.as_str().into_deserializer())
    }

    serde::forward_to_deserialize_any! {
        bool u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 char str string seq bytes byte_buf map
        option unit ignored_any unit_struct tuple_struct tuple identifier
    }
}

impl<'de> IntoDeserializer<'de, Misfit> for KeyReader<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A variant written as a table with one key: `{ prefix = "/shop" }`.
struct Choice<'de> {
    key: &'de Spanned<String>,
    value: &'de Node,
    directory: &'de Path,
}

impl<'de> de::EnumAccess<'de> for Choice<'de> {
    type Error = Misfit;
    type Variant = Self;

    fn variant_seed<V: de::DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Misfit> {
        let variant = seed.deserialize(KeyReader(self.key)).map_err(|misfit| misfit.on_key(self.key))?;
        Ok((variant, self))
    }
}

impl<'de> Choice<'de> {
    fn inside<T>(&self, result: Result<T, Misfit>) -> Result<T, Misfit> {
        result.map_err(|misfit| misfit.under(Step::Key(self.key.value.clone())))
    }
}

impl<'de> de::VariantAccess<'de> for Choice<'de> {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        let said = format!("write \"{}\" alone, it takes nothing", self.key.value);
        Err(de::Error::custom(said))
    }

    fn newtype_variant_seed<T: de::DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Misfit> {
        let value = seed.deserialize(Reader(self.value, self.directory));
        self.inside(value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Misfit> {
        let value = Reader(self.value, self.directory).deserialize_seq(visitor);
        self.inside(value)
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], visitor: V) -> Result<V::Value, Misfit> {
        let value = Reader(self.value, self.directory).deserialize_map(visitor);
        self.inside(value)
    }
}

/// A node is itself readable, so that an open table can be a field of a typed one.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<Kind>::deserialize(deserializer)?;
        let span = spanned.span();
        let kind = spanned.into_inner();
        Ok(Self { kind, span })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Kind, E> {
        Ok(Kind::String(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(Some(number.into())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Kind, E> {
        Ok(Kind::Integer(Some(number.into())))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Kind, E> {
        Ok(Kind::Integer(Some(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Kind, E> {
        Ok(Kind::Float(number))
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Kind, E> {
        Ok(Kind::Boolean(yes))
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Hole)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Table::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Kind::Table(entries))
    }
}
