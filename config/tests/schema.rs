//! The schema says what an editor needs, and plugins find their place in it.

use portcullis_config::schema::{self, PluginSchema};
use portcullis_config::units::{Duration, Network};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

/// Ends a request after a time.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
struct Timeout {
    /// To the last byte.
    total: Duration,
    /// Who need not care.
    exempt: Option<Vec<Network>>,
    limits: Option<Limits>,
}

/// A name that the file uses for something else.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct Limits {
    most: u8,
}

fn timeout() -> PluginSchema {
    PluginSchema::new("timeout", "total = \"1s\"", |generator: &mut SchemaGenerator| Timeout::json_schema(generator))
}

fn whole() -> Value {
    schema::file(&[timeout()], &[])
}

/// Every table of the schema, for questions about all of them.
fn visit(value: &Value, path: &str, seen: &mut dyn FnMut(&str, &Value)) {
    seen(path, value);
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| visit(value, &format!("{path}/{key}"), seen)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                visit(item, &format!("{path}/{index}"), seen);
            }
        }
        _ => {}
    }
}

#[test]
fn it_speaks_draft_07_and_every_reference_leads_somewhere() {
    let schema = whole();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    visit(&schema, "", &mut |path, value| {
        if let Some(Value::String(target)) = value.get("$ref") {
            let pointer = target.strip_prefix('#').expect("references stay in the file");
            assert!(schema.pointer(pointer).is_some(), "{path} leads to {target}");
            let alone = value.as_object().is_some_and(|map| map.len() == 1);
            assert!(alone, "{path}: draft-07 reads nothing beside a reference");
        }
        assert_ne!(value, "null", "{path}: TOML has no null");
    });
}

#[test]
fn every_key_of_ours_has_a_description() {
    let schema = schema::file(&[], &[]);
    visit(&schema, "", &mut |path, value| {
        let Some(Value::Object(keys)) = value.get("properties") else {
            return;
        };
        for (key, about) in keys {
            let from_variant = value.get("description").is_some() && keys.len() == 1;
            assert!(about.get("description").is_some() || from_variant, "{path}: `{key}` is not explained");
        }
    });
}

#[test]
fn defaults_can_be_read_from_it() {
    let schema = whole();
    let limits = &schema["definitions"]["Listener"]["properties"]["limits"]["default"];
    assert_eq!(limits["header_size"], "32KiB");
    assert_eq!(schema["definitions"]["Listener"]["properties"]["chain"]["default"], json!(["router"]));
    assert_eq!(schema["definitions"]["Service"]["properties"]["keep_host"]["default"], true);
}

#[test]
fn a_plugins_table_is_told_apart_by_its_type() {
    let schema = whole();
    let table = &schema["definitions"]["Middleware.timeout"];
    assert_eq!(table["properties"]["type"]["const"], "timeout");
    assert_eq!(table["required"], json!(["type", "total"]));
    assert_eq!(table["additionalProperties"], false);
    assert_eq!(table["examples"], json!([{ "type": "timeout", "total": "1s" }]));
    assert_eq!(table["description"], "Ends a request after a time.");
    let choices = json!([{ "$ref": "#/definitions/Middleware.timeout" }]);
    assert_eq!(schema["definitions"]["Middleware"]["oneOf"], choices);
    let inline = &schema["definitions"]["ChainItem"]["anyOf"][1];
    assert_eq!(inline, &json!({ "$ref": "#/definitions/Middleware" }));
}

#[test]
fn types_of_one_name_do_not_mix() {
    let schema = whole();
    assert!(schema["definitions"]["Limits"]["properties"]["header_size"].is_object());
    assert!(schema["definitions"]["Middleware.timeout.Limits"]["properties"]["most"].is_object());
    // What is the same type is defined once.
    assert!(schema["definitions"]["Middleware.timeout.Duration"].is_null());
}

#[test]
fn what_is_not_served_yet_says_so() {
    let schema = whole();
    let about = |table: &str, key: &str| schema["definitions"][table]["properties"][key]["description"].to_string();
    assert!(about("Service", "health").contains("does not serve it yet"));
    assert!(about("Service", "balance").starts_with("\"How an instance is picked"));
}
