//! The JSON Schema of the file, for editors: keys, defaults and descriptions while one types.
//!
//! It speaks draft-07, which is what taplo and the editors built on it understand. The tables that
//! plugins own are filled in by whoever knows the plugins.

use std::collections::HashMap;

use schemars::generate::SchemaSettings;
use schemars::transform::{RemoveRefSiblings, ReplacePrefixItems, ReplaceUnevaluatedProperties, Transform as _};
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::check::not_yet::REMARKS;
use crate::file::Outline;
use crate::node::Node;
use crate::{Document, Faults};

/// What the schema says about one plugin.
#[derive(Clone, Debug)]
pub struct PluginSchema {
    /// What `type` says: `"ip_whitelist"`.
    pub name: String,
    /// What the plugin does, in a sentence.
    pub description: String,
    /// The schema of its settings, with its own definitions inside.
    pub schema: Schema,
    /// Its settings as TOML, without `type`.
    pub example: String,
}

impl PluginSchema {
    /// Asks a settings type for its schema; the description is the type's own.
    pub fn new(name: &str, example: &str, schema: impl FnOnce(&mut SchemaGenerator) -> Schema) -> Self {
        let mut generator = SchemaSettings::draft07().into_generator();
        let mut schema = schema(&mut generator);
        let definitions = generator.take_definitions(true);
        if !definitions.is_empty() {
            schema.insert("definitions".into(), Value::Object(definitions));
        }
        let description = schema.get("description").and_then(Value::as_str);
        Self {
            name: name.to_owned(),
            description: description.unwrap_or_default().to_owned(),
            schema,
            example: example.to_owned(),
        }
    }
}

/// The schema of a whole file, with these plugins in it.
pub fn file(middlewares: &[PluginSchema], registries: &[PluginSchema]) -> Value {
    let mut root = SchemaSettings::draft07().into_generator().into_root_schema_for::<Outline>().to_value();
    root["title"] = json!("Portcullis");
    root["description"] = json!("The file of a Portcullis gateway.");
    let mut definitions = match root["definitions"].take() {
        Value::Object(definitions) => definitions,
        _ => Map::new(),
    };
    // `Raw` stands for both kinds of plugin.
    definitions.remove("Plugin");
    let middleware = one_of("Middleware", middlewares, &mut definitions);
    let registry = one_of("Registry", registries, &mut definitions);
    definitions.insert("Middleware".into(), middleware);
    definitions.insert("Registry".into(), registry);
    root["definitions"] = Value::Object(definitions);
    root["properties"]["registry"]["additionalProperties"] = json!({ "$ref": "#/definitions/Registry" });
    point_elsewhere(&mut root, &|target| {
        (target == "#/definitions/Plugin").then(|| "#/definitions/Middleware".to_owned())
    });
    forget_null(&mut root);
    for (table, key, remark) in REMARKS {
        let about = &mut root["definitions"][table]["properties"][key]["description"];
        let said = about.as_str().unwrap_or_default();
        *about = json!(format!("{said} {remark}"));
    }
    root
}

/// A table that is told apart by its `type`.
fn one_of(kind: &str, plugins: &[PluginSchema], definitions: &mut Map<String, Value>) -> Value {
    if plugins.is_empty() {
        return json!({ "type": "object", "required": ["type"] });
    }
    let mut choices = Vec::new();
    for plugin in plugins {
        let name = format!("{kind}.{}", plugin.name);
        choices.push(json!({ "$ref": format!("#/definitions/{name}") }));
        let table = table(&name, plugin, definitions);
        definitions.insert(name, table);
    }
    json!({ "title": kind, "oneOf": choices })
}

/// A plugin's settings with `type` beside them.
fn table(prefix: &str, plugin: &PluginSchema, definitions: &mut Map<String, Value>) -> Value {
    let mut schema = plugin.schema.clone();
    // A third party's schema may speak a later draft.
    ReplaceUnevaluatedProperties::default().transform(&mut schema);
    RemoveRefSiblings::default().transform(&mut schema);
    ReplacePrefixItems::default().transform(&mut schema);
    let mut table = schema.to_value();
    adopt(&mut table, prefix, definitions);
    let Some(object) = table.as_object_mut() else {
        return json!({ "type": "object", "required": ["type"] });
    };
    object.remove("$schema");
    object.insert("title".into(), json!(plugin.name));
    object.insert("type".into(), json!("object"));
    object.insert("description".into(), json!(plugin.description));
    let type_key = json!({ "const": plugin.name, "description": plugin.description });
    let mut properties = Map::from_iter([("type".to_owned(), type_key)]);
    if let Some(Value::Object(own)) = object.remove("properties") {
        properties.extend(own);
    }
    object.insert("properties".into(), Value::Object(properties));
    let mut required = vec![json!("type")];
    if let Some(Value::Array(own)) = object.remove("required") {
        required.extend(own);
    }
    object.insert("required".into(), Value::Array(required));
    if let Some(own) = example(&plugin.example) {
        let mut example = Map::from_iter([("type".to_owned(), json!(plugin.name))]);
        example.extend(own);
        object.insert("examples".into(), json!([example]));
    }
    table
}

/// Moves a plugin's definitions to the file's. What says the same under the same name is one
/// definition; what differs gets the plugin's name in front.
fn adopt(table: &mut Value, prefix: &str, definitions: &mut Map<String, Value>) {
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut adopted = Vec::new();
    for key in ["$defs", "definitions"] {
        let inner = table.as_object_mut().and_then(|table| table.remove(key));
        let Some(Value::Object(inner)) = inner else {
            continue;
        };
        for (name, value) in inner {
            let is_new = match definitions.get(&name) {
                None => true,
                Some(known) if *known == value => false,
                Some(_) => {
                    renamed.insert(name.clone(), format!("{prefix}.{name}"));
                    true
                }
            };
            if is_new {
                adopted.push((name, value));
            }
        }
    }
    let elsewhere = |target: &str| {
        let name = target.strip_prefix("#/$defs/").or_else(|| target.strip_prefix("#/definitions/"))?;
        let name = renamed.get(name).map_or(name, String::as_str);
        Some(format!("#/definitions/{name}"))
    };
    point_elsewhere(table, &elsewhere);
    for (name, mut value) in adopted {
        point_elsewhere(&mut value, &elsewhere);
        let name = renamed.get(&name).cloned().unwrap_or(name);
        definitions.insert(name, value);
    }
}

/// TOML has no null: a key that is not wanted is left out.
fn forget_null(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !(key == "default" && value.is_null()));
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    map["type"] = only.clone();
                }
            }
            if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                // Beside a `$ref` draft-07 reads nothing, so it stays wrapped.
                if choices.len() == 1
                    && let Some(only) = map.remove("anyOf")
                {
                    map.insert("allOf".into(), only);
                }
            }
            map.values_mut().for_each(forget_null);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_null),
        _ => {}
    }
}

/// The example as JSON; `None` if it is not TOML.
fn example(toml: &str) -> Option<Map<String, Value>> {
    let mut faults = Faults::new();
    let document = Document::parse("example", toml, &mut faults);
    match Node::json(&document.root) {
        Value::Object(map) if faults.is_empty() => Some(map),
        _ => None,
    }
}

/// Rewrites every `$ref` that `elsewhere` has an answer for.
fn point_elsewhere(value: &mut Value, elsewhere: &dyn Fn(&str) -> Option<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(new) = elsewhere(target) {
                            *target = new;
                        }
                    }
                    other => point_elsewhere(other, elsewhere),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                point_elsewhere(item, elsewhere);
            }
        }
        _ => {}
    }
}
