//! Reads a JSON Schema as what it stands for: keys with a type, a default and a description.

use serde_json::{Map, Value};

/// How deep tables inside tables are followed.
const DEPTH: usize = 4;

/// A key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// Its name; `request.set` in a table within.
    pub(super) name: String,
    /// What it takes, in words.
    pub(super) type_name: String,
    /// Whether it must be there.
    pub(super) required: bool,
    /// What it is if it is not there, in TOML.
    pub(super) default: Option<String>,
    /// What it means.
    pub(super) description: String,
}

/// The definitions that a schema refers to.
#[derive(Clone, Copy)]
pub(super) struct Definitions<'a>(Option<&'a Map<String, Value>>);

impl<'a> Definitions<'a> {
    /// Those of this schema.
    pub(super) fn of(root: &'a Value) -> Self {
        Self(root["definitions"].as_object())
    }

    /// A definition by its name.
    pub(super) fn named(self, name: &str) -> Option<&'a Value> {
        self.0?.get(name)
    }

    /// What a schema says in the end, and the name of the definition that says it.
    pub(super) fn resolve(self, schema: &'a Value) -> (&'a Value, Option<&'a str>) {
        let (mut schema, mut name) = (schema, None);
        for _ in 0..16 {
            let target = schema["$ref"].as_str().and_then(|target| target.strip_prefix("#/definitions/"));
            if let Some((target, found)) = target.and_then(|target| Some((target, self.named(target)?))) {
                (schema, name) = (found, Some(target));
            } else if let Some([only]) = schema["allOf"].as_array().map(Vec::as_slice) {
                schema = only;
            } else {
                break;
            }
        }
        (schema, name)
    }

    /// The keys of a table, each followed by those of the tables within.
    pub(super) fn every_key(self, table: &'a Value) -> Vec<Key> {
        let mut keys = Vec::new();
        self.collect(table, "", DEPTH, &mut keys);
        keys
    }

    fn collect(self, table: &'a Value, prefix: &str, depth: usize, keys: &mut Vec<Key>) {
        for (mut key, schema) in self.keys(table) {
            key.name = format!("{prefix}{}", key.name);
            let inner = (depth > 0).then(|| self.table_in(schema)).flatten();
            let path =
                if key.type_name.starts_with("list") { format!("{}[].", key.name) } else { format!("{}.", key.name) };
            keys.push(key);
            if let Some(inner) = inner {
                self.collect(inner, &path, depth - 1, keys);
            }
        }
    }

    /// The keys of a table itself, each with its schema.
    pub(super) fn keys(self, table: &'a Value) -> Vec<(Key, &'a Value)> {
        let (table, _) = self.resolve(table);
        let required: Vec<_> = table["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = table["properties"].as_object().into_iter().flatten();
        properties
            .map(|(name, schema)| {
                let (resolved, _) = self.resolve(schema);
                let own = schema["description"].as_str().or_else(|| resolved["description"].as_str());
                let default = schema.get("default").filter(|default| !default.is_object() && !default.is_null());
                let key = Key {
                    name: name.clone(),
                    type_name: self.type_name(schema),
                    required: required.contains(&name.as_str()),
                    default: default.map(toml),
                    description: own.unwrap_or_default().trim().to_owned(),
                };
                (key, schema)
            })
            .collect()
    }

    /// The table with keys of its own that a value is, or that the items of a list are.
    pub(super) fn table_in(self, schema: &'a Value) -> Option<&'a Value> {
        let (schema, name) = self.resolve(schema);
        // Plugins have chapters of their own.
        if name.is_some_and(|name| matches!(name, "Middleware" | "Registry" | "ChainItem")) {
            return None;
        }
        if schema["properties"].as_object().is_some_and(|properties| !properties.is_empty()) {
            return Some(schema);
        }
        if schema["items"].is_object() {
            return self.table_in(&schema["items"]);
        }
        let choices = schema["anyOf"].as_array()?;
        let mut tables = choices.iter().filter_map(|choice| self.table_in(choice));
        tables.next()
    }

    /// What a value is, in words.
    pub(super) fn type_name(self, schema: &'a Value) -> String {
        or(self.choices(schema).into_iter())
    }

    /// What a value can be, each in words.
    fn choices(self, schema: &'a Value) -> Vec<String> {
        let (schema, name) = self.resolve(schema);
        if name == Some("Middleware") {
            return vec!["middleware".to_owned()];
        }
        if let Some(value) = schema.get("const") {
            return vec![toml(value)];
        }
        if let Some(values) = schema["enum"].as_array() {
            return values.iter().filter(|value| !value.is_null()).map(toml).collect();
        }
        if let Some(choices) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
            return choices.iter().flat_map(|choice| self.choices(choice)).collect();
        }
        let types = match &schema["type"] {
            Value::String(one) => vec![one.as_str()],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => vec!["anything"],
        };
        // TOML has no null: a key that may be null may be left out.
        types.into_iter().filter(|one| *one != "null").map(|one| self.plain(one, schema)).collect()
    }

    /// A value of one JSON type, in words.
    fn plain(self, type_name: &str, schema: &'a Value) -> String {
        match type_name {
            "boolean" => "true or false".to_owned(),
            "array" if schema["items"].is_object() => format!("list of {}", self.type_name(&schema["items"])),
            "array" => "list".to_owned(),
            "object" if schema["additionalProperties"].is_object() => {
                format!("table of {}", self.type_name(&schema["additionalProperties"]))
            }
            "object" => match variant(schema) {
                Some((key, value)) => format!("{{ {key} = {} }}", self.type_name(value)),
                None => "table".to_owned(),
            },
            other => schema["title"].as_str().unwrap_or(other).to_lowercase(),
        }
    }
}

/// The one key of a table that has exactly one, which must be there: a choice with a value, such as `{ prefix = "/a" }`.
fn variant(schema: &Value) -> Option<(&String, &Value)> {
    let mut properties = schema["properties"].as_object()?.iter();
    let only = properties.next().filter(|_| properties.next().is_none())?;
    (schema["required"] == serde_json::json!([only.0])).then_some(only)
}

/// `a`, `b` or `c`, each once.
fn or(items: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    match seen.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "anything".to_owned(),
    }
}

/// A value as TOML writes it on one line.
pub(super) fn toml(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        // JSON escapes what TOML escapes, in the same way.
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_reads_as_words() {
        let root = json!({ "definitions": {
            "Duration": { "type": "string", "title": "Duration" },
            "Edit": { "type": "object", "properties": { "set": { "type": "array", "items": { "type": "string" } } } },
        } });
        let definitions = Definitions::of(&root);
        for (schema, words) in [
            (json!({ "$ref": "#/definitions/Duration" }), "duration"),
            (json!({ "type": "array", "items": { "$ref": "#/definitions/Duration" } }), "list of duration"),
            (json!({ "enum": ["a", "b", 3] }), "\"a\", \"b\" or 3"),
            (json!({ "oneOf": [{ "const": "a" }, { "type": "string" }, { "type": "string" }] }), "\"a\" or string"),
            (
                json!({ "type": "object", "required": ["prefix"], "properties": { "prefix": { "type": "string" } } }),
                "{ prefix = string }",
            ),
            (json!({ "type": "object", "additionalProperties": { "type": "boolean" } }), "table of true or false"),
            (json!(true), "anything"),
        ] {
            assert_eq!(definitions.type_name(&schema), words, "{schema}");
        }
        let table = json!({ "properties": {
            "edits": { "allOf": [{ "$ref": "#/definitions/Edit" }], "description": "What changes." },
            "limit": { "$ref": "#/definitions/Duration", "default": "1s" },
        }, "required": ["edits"] });
        let keys = definitions.every_key(&table);
        let told: Vec<_> = keys.iter().map(|key| (key.name.as_str(), key.required, key.default.as_deref())).collect();
        assert_eq!(told, [("edits", true, None), ("edits.set", false, None), ("limit", false, Some("\"1s\""))]);
    }
}
