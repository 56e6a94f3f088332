//! The reference of the configuration file, in Markdown.

use std::collections::BTreeSet;

use portcullis_config::schema::PluginSchema;
use serde_json::Value;

use super::keys::{Definitions, Key};

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `portcullis reference` from the types that read the file. UPDATE=1 cargo test --test generated writes it anew. -->

One TOML file says everything. Keys that nobody knows, names that lead nowhere and values that make no sense are errors
with their line; `portcullis check FILE` shows them all at once. For an editor there is a JSON Schema:
`portcullis schema`, or [`portcullis.schema.json`](portcullis.schema.json).
";

/// Writes the whole reference.
pub(super) fn reference(schema: &Value, middlewares: &[PluginSchema], registries: &[PluginSchema]) -> String {
    let definitions = Definitions::of(schema);
    let mut page = Page { definitions, out: INTRODUCTION.to_owned() };
    let is_plain = |schema: &Value| {
        let is_open = definitions.resolve(schema).0["additionalProperties"].is_object();
        !is_open && definitions.table_in(schema).is_none()
    };
    let (plain, sections): (Vec<_>, Vec<_>) =
        definitions.keys(schema).into_iter().partition(|(_, schema)| is_plain(schema));
    page.heading(2, "At the top");
    page.table(plain.into_iter().map(|(key, _)| key));
    for (key, schema) in sections {
        let header = header(&key.name, definitions.resolve(schema).0);
        page.heading(2, &format!("`{header}`"));
        page.paragraph(&key.description);
        match key.name.as_str() {
            "middleware" => page.plugins("middleware", middlewares),
            "registry" => page.plugins("registry", registries),
            _ => page.section(schema),
        }
    }
    page.out
}

/// How such a table begins.
fn header(name: &str, schema: &Value) -> String {
    if schema["additionalProperties"].is_object() {
        format!("[{name}.NAME]")
    } else if schema["items"].is_object() {
        format!("[[{name}]]")
    } else {
        format!("[{name}]")
    }
}

struct Page<'a> {
    definitions: Definitions<'a>,
    out: String,
}

impl<'a> Page<'a> {
    fn heading(&mut self, level: usize, text: &str) {
        self.out.push_str(&format!("\n{} {text}\n", "#".repeat(level)));
    }

    fn paragraph(&mut self, text: &str) {
        if !text.is_empty() {
            self.out.push_str(&format!("\n{}\n", text.trim()));
        }
    }

    fn table(&mut self, keys: impl Iterator<Item = Key>) {
        self.out.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
        for key in keys {
            let default = match (key.default, key.required) {
                (_, true) => "required".to_owned(),
                (Some(default), _) => format!("`{default}`"),
                (None, _) => String::new(),
            };
            let cells = [format!("`{}`", key.name), key.type_name, default, one_line(&key.description)];
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            self.out.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    }

    /// A table's keys, then the tables within it, each once.
    fn section(&mut self, schema: &'a Value) {
        let (schema, _) = self.definitions.resolve(schema);
        let inner = [&schema["additionalProperties"], &schema["items"]].into_iter().find(|inner| inner.is_object());
        let table = inner.unwrap_or(schema);
        let mut told = BTreeSet::new();
        self.keys_of(table, "", &mut told);
    }

    fn keys_of(&mut self, table: &'a Value, path: &str, told: &mut BTreeSet<String>) {
        let keys = self.definitions.keys(table);
        self.table(keys.iter().map(|(key, _)| key.clone()));
        for (key, schema) in keys {
            let Some(inner) = self.definitions.table_in(schema) else { continue };
            let path = if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
            // The same table in several places is told once; a table of itself never ends.
            if !told.insert(inner.to_string()) {
                continue;
            }
            self.heading(3, &format!("`{path}`"));
            self.paragraph(inner["description"].as_str().unwrap_or_default());
            self.keys_of(inner, &path, told);
        }
    }

    fn plugins(&mut self, kind: &str, plugins: &[PluginSchema]) {
        for plugin in plugins {
            self.heading(3, &format!("`type = \"{}\"`", plugin.name));
            self.paragraph(&plugin.description);
            let schema = plugin.schema.as_value();
            let keys = Definitions::of(schema).every_key(schema);
            if keys.is_empty() {
                self.paragraph("It has no settings; a chain lists it by its type.");
                continue;
            }
            self.table(keys.into_iter());
            let example: String = plugin.example.trim().lines().map(|line| format!("{}\n", line.trim())).collect();
            self.paragraph(&format!("```toml\n[{kind}.NAME]\ntype = \"{}\"\n{example}```", plugin.name));
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
