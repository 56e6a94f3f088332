use std::borrow::Cow;
use std::env::VarError;
use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

use crate::node::FILE_PATH;

/// A secret is a password or a key, not a file system.
const MOST_BYTES: u64 = 1 << 20;

/// A value that never prints: written as itself, as `{ env = "NAME" }` or as `{ file = "path" }`, which starts at the
/// directory of the configuration file.
///
/// It is looked up when the file is read, so a variable that is not set is a fault with a place. The
/// memory is cleared when the value goes.
pub struct Secret<T: Zeroize = String>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// Keeps a value from printing.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself. Whoever asks sees to it that it goes nowhere else.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize + Clone> Clone for Secret<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl<T: Zeroize> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl<T: Zeroize> Serialize for Secret<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("…")
    }
}

/// Where a secret comes from, if it is not written into the file: exactly one of these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    env: Option<String>,
    file: Option<FilePath>,
}

/// A path from the directory of the configuration file.
struct FilePath(PathBuf);

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Joined;

        impl<'de> Visitor<'de> for Joined {
            type Value = FilePath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_byte_buf<E: Error>(self, path: Vec<u8>) -> Result<FilePath, E> {
                Ok(FilePath(OsString::from_vec(path).into()))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<FilePath, D::Error> {
                PathBuf::deserialize(deserializer).map(FilePath)
            }
        }

        deserializer.deserialize_newtype_struct(FILE_PATH, Joined)
    }
}

impl Source {
    fn look_up(self) -> Result<Zeroizing<String>, String> {
        match (self.env, self.file) {
            (Some(name), None) => from_environment(&name),
            (None, Some(path)) => from_file(&path.0),
            (Some(_), Some(_)) => Err("`env` and `file` exclude each other".into()),
            (None, None) => Err("a secret is a string, { env = \"…\" } or { file = \"…\" }".into()),
        }
    }
}

fn from_environment(name: &str) -> Result<Zeroizing<String>, String> {
    // `std::env::var` panics on these.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("`{name}` is not the name of a variable"));
    }
    match std::env::var(name) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(VarError::NotPresent) => Err(format!("the environment has no variable `{name}`")),
        Err(VarError::NotUnicode(_)) => Err(format!("the environment's `{name}` is not UTF-8")),
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let open = std::fs::File::open(path);
    let mut text = Zeroizing::new(String::new());
    let read = open.and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("cannot read `{}`: {error}", path.display())),
        Ok(length) if length as u64 > MOST_BYTES => Err(format!("`{}` is too long for a secret", path.display())),
        Ok(_) => {
            // Editors and `kubectl create secret` end a file with a line break.
            let end = text.trim_end_matches(['\r', '\n']).len();
            text.truncate(end);
            Ok(text)
        }
    }
}

impl<'de, T> Deserialize<'de> for Secret<T>
where
    T: Zeroize + FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lookup;

        impl<'de> Visitor<'de> for Lookup {
            type Value = Zeroizing<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, { env = \"…\" } or { file = \"…\" }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Zeroizing::new(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let source = Source::deserialize(MapAccessDeserializer::new(map))?;
                source.look_up().map_err(A::Error::custom)
            }
        }

        let text = deserializer.deserialize_any(Lookup)?;
        // What `T` complains about would print the secret, so it is not passed on.
        match text.parse() {
            Ok(value) => Ok(Self::new(value)),
            Err(_) => Err(D::Error::custom("the secret's value does not fit here")),
        }
    }
}

impl<T: Zeroize> JsonSchema for Secret<T> {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "Secret",
            "description": "A value that never prints: itself, the name of an environment variable, or a file that holds it.",
            "oneOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "required": ["env"],
                    "additionalProperties": false,
                    "properties": { "env": { "type": "string", "description": "The variable that holds it." } },
                },
                {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": false,
                    "properties": { "file": { "type": "string", "description": "The file that holds it, from the directory of the configuration file; line breaks at its end are left out." } },
                },
            ],
            "examples": [{ "env": "TOKEN" }, { "file": "/run/secrets/token" }],
        })
    }
}
