//! The words of a registry as types that cannot be wrong: names, addresses, instances.

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_config::units::InstanceAddress as Address;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name and what is behind it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// The name that was asked for.
    pub name: ServiceName,
    /// Everyone who answers to it, in a stable order. May be empty.
    pub instances: Vec<Instance>,
}

/// One address of a service.
///
/// In a file it is an address, or a table: `"10.0.0.7:80"`, `{ address = "10.0.0.7:80", weight = 2 }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// What tells it from its siblings; the address unless something better is known.
    pub id: InstanceId,
    /// Where it listens.
    pub address: Address,
    /// Its share of the traffic relative to its siblings. Zero gets nothing.
    pub weight: u32,
    /// What its owner says about it: version, zone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Words its owner put on it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
}

/// An instance on its way into a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The service it joins.
    pub service: ServiceName,
    /// The instance itself.
    pub instance: Instance,
    /// How long it stays unless it registers again; for ever if not given.
    pub ttl: Option<Duration>,
}

impl Instance {
    /// An instance of weight 1 that is called by its address.
    #[must_use]
    pub fn at(address: Address) -> Self {
        Self {
            id: InstanceId(address.to_string().into()),
            address,
            weight: 1,
            metadata: BTreeMap::new(),
            tags: BTreeSet::new(),
        }
    }
}

impl FromStr for Instance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self::at)
    }
}

impl From<portcullis_config::Instance> for Instance {
    fn from(written: portcullis_config::Instance) -> Self {
        Self { weight: written.weight, ..Self::at(written.address) }
    }
}

/// The table form of an [`Instance`].
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct InstanceTable {
    /// What tells it from its siblings; the address unless given.
    id: Option<InstanceId>,
    /// Where it listens: `"10.0.0.7:80"`, `"[2001:db8::7]:80"` or `"orders.internal:80"`.
    address: Address,
    /// Its share of the traffic relative to its siblings. Zero gets nothing.
    #[serde(default = "one")]
    weight: u32,
    /// What its owner says about it.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    /// Words its owner put on it.
    #[serde(default)]
    tags: BTreeSet<String>,
}

fn one() -> u32 {
    1
}

impl<'de> Deserialize<'de> for Instance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = Instance;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as \"10.0.0.7:80\", or a table with an `address`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Instance, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Instance, A::Error> {
                let table = InstanceTable::deserialize(MapAccessDeserializer::new(map))?;
                let bare = Instance::at(table.address);
                Ok(Instance {
                    id: table.id.unwrap_or(bare.id),
                    address: bare.address,
                    weight: table.weight,
                    metadata: table.metadata,
                    tags: table.tags,
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Instance {
    fn schema_name() -> Cow<'static, str> {
        "Instance".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let address = generator.subschema_for::<Address>();
        let table = generator.subschema_for::<InstanceTable>();
        json_schema!({ "anyOf": [address, table] })
    }
}

/// What a service is called: 1 to 255 characters, no slashes, no control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl FromStr for ServiceName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // Names go into the URLs of registries, where these would climb, however they are escaped.
        if matches!(text, "." | "..") || text.contains(['/', '\\']) {
            return Err(Invalid(format!(
                "the name of a service has no slashes in it, and is not `.` or `..`: {text:?}"
            )));
        }
        word("the name of a service", text).map(Self)
    }
}

/// What tells an instance from all others in its registry: 1 to 255 characters, none of them control
/// characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

impl FromStr for InstanceId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        word("the id of an instance", text).map(Self)
    }
}

fn word(what: &str, text: &str) -> Result<Arc<str>, Invalid> {
    if text.is_empty() || text.chars().count() > 255 {
        return Err(Invalid(format!("{what} has 1 to 255 characters")));
    }
    if text.contains(char::is_control) {
        return Err(Invalid(format!("{what} has no control characters in it: {text:?}")));
    }
    Ok(text.into())
}

/// A text that is not what it should be; reads as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// Both kinds of word behave like the text they were read from, and are written like it.
macro_rules! word {
    ($name:ident) => {
        impl $name {
            /// As it is written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": 1, "maxLength": 255 })
            }
        }
    };
}

word!(ServiceName);
word!(InstanceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_climb_or_break_a_line() {
        for text in ["", ".", "..", "a/b", "a\\b", "a\nb", &"x".repeat(256)] {
            assert!(text.parse::<ServiceName>().is_err(), "{text:?}");
        }
        for text in ["orders", "go.micro.srv.greeter", "größe", &"x".repeat(255)] {
            assert_eq!(text.parse::<ServiceName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn an_instance_is_an_address_or_a_table() {
        #[derive(Deserialize)]
        struct File {
            instances: Vec<Instance>,
        }
        let file: File = toml::from_str(
            r#"instances = ["127.0.0.1:9001", { address = "b:9002", id = "two", weight = 2, metadata = { zone = "x" }, tags = ["v1"] }]"#,
        )
        .unwrap();
        assert_eq!(file.instances[0], "127.0.0.1:9001".parse().unwrap());
        let second = &file.instances[1];
        assert_eq!((second.id.as_str(), second.weight), ("two", 2));
        assert_eq!(second.metadata["zone"], "x");
        assert!(second.tags.contains("v1"));

        for (wrong, hint) in [
            (r#"instances = [{ adress = "b:1" }]"#, "adress"),
            (r#"instances = ["b"]"#, "has no port"),
            ("instances = [7]", "an address such as"),
        ] {
            let error = toml::from_str::<File>(wrong).err().unwrap().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }
}
