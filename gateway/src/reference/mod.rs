//! What this binary understands: `portcullis plugins`, `portcullis schema`, and the reference in the documentation.
//!
//! All of it is read off the settings' own types: a doc comment on a key is its description here, in the editor and in
//! the documentation.

mod keys;
mod markdown;

use portcullis_config::did_you_mean;
use portcullis_config::schema::{self, PluginSchema};

use crate::plugins::Plugins;
use keys::Definitions;

/// The plugins in this binary, or the settings of the one that is named.
pub fn plugins(plugins: &Plugins, name: Option<&str>) -> Result<String, String> {
    let all = Described::all(plugins);
    let Some(name) = name else { return Ok(list(&all)) };
    let named: Vec<_> = all.iter().filter(|described| described.plugin.name == name).map(Described::settings).collect();
    if named.is_empty() {
        let mut names: Vec<_> = all.iter().map(|described| described.plugin.name.as_str()).collect();
        names.dedup();
        let meant = did_you_mean(name, names.iter().copied());
        let meant = meant.map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
        return Err(format!("unknown plugin `{name}`; {meant}available: {}", names.join(", ")));
    }
    // A middleware and a registry may have one name.
    Ok(named.join("\n"))
}

/// The JSON Schema of the configuration file, these plugins' settings included.
pub fn schema(plugins: &Plugins) -> String {
    let schema = schema::file(&middlewares(plugins), &registries(plugins));
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema serialises");
    text.push('\n');
    text
}

/// The reference of the configuration file in Markdown.
pub fn configuration(plugins: &Plugins) -> String {
    let (middlewares, registries) = (middlewares(plugins), registries(plugins));
    let schema = schema::file(&middlewares, &registries);
    markdown::reference(&schema, &middlewares, &registries)
}

fn middlewares(plugins: &Plugins) -> Vec<PluginSchema> {
    plugins.middlewares().iter().map(|row| PluginSchema::new(row.name, row.example, row.schema)).collect()
}

fn registries(plugins: &Plugins) -> Vec<PluginSchema> {
    plugins.registries().iter().map(|row| PluginSchema::new(row.name, row.example, row.schema)).collect()
}

/// A plugin and what it is.
struct Described {
    kind: &'static str,
    plugin: PluginSchema,
}

impl Described {
    fn all(plugins: &Plugins) -> Vec<Self> {
        let of = |kind| move |plugin| Self { kind, plugin };
        let middlewares = middlewares(plugins).into_iter().map(of("middleware"));
        middlewares.chain(registries(plugins).into_iter().map(of("registry"))).collect()
    }

    /// Its keys, and an example.
    fn settings(&self) -> String {
        let PluginSchema { name, description, schema, example } = &self.plugin;
        let mut out = format!("{} `{name}`\n\n{}\n", self.kind, description.trim());
        let keys = Definitions::of(schema.as_value()).every_key(schema.as_value());
        if keys.is_empty() {
            return out + &format!("\nIt has no settings; a chain lists it by its type:\n  chain = [\"{name}\"]\n");
        }
        out.push_str("\nKeys:\n");
        for key in keys {
            let default = match (&key.default, key.required) {
                (_, true) => ", required".to_owned(),
                (Some(default), _) => format!(", default {default}"),
                (None, _) => String::new(),
            };
            out.push_str(&format!("  {}: {}{default}\n", key.name, key.type_name));
            for line in key.description.lines() {
                out.push_str(&format!("      {line}\n"));
            }
        }
        out.push_str(&format!("\nExample:\n  {}\n  type = \"{name}\"\n", header(self.kind)));
        for line in example.trim().lines() {
            out.push_str(&format!("  {}\n", line.trim()));
        }
        out
    }
}

/// How a table of this kind begins.
fn header(kind: &str) -> String {
    format!("[{kind}.NAME]")
}

fn list(all: &[Described]) -> String {
    let width = all.iter().map(|described| described.plugin.name.len()).max().unwrap_or_default();
    let line = |described: &Described| {
        let (name, first) = (&described.plugin.name, first_sentence(&described.plugin.description));
        format!("{name:width$}  {:10}  {first}\n", described.kind)
    };
    all.iter().map(line).collect()
}

/// The first sentence of a description, on one line.
fn first_sentence(description: &str) -> String {
    let paragraph = description.split("\n\n").next().unwrap_or_default();
    let joined = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    match joined.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None => joined,
    }
}

#[cfg(test)]
mod tests {
    use crate::reference;

    #[test]
    fn every_plugin_is_listed_with_what_it_does() {
        let plugins = crate::plugins();
        let text = reference::plugins(&plugins, None).expect("a list");
        assert_eq!(text.lines().count(), plugins.middlewares().len() + plugins.registries().len());
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            assert!(matches!(words[1], "middleware" | "registry") && words.len() > 4, "{line}");
        }
    }

    #[test]
    fn every_plugin_tells_its_keys_and_an_example() {
        let plugins = crate::plugins();
        for row in plugins.middlewares() {
            let text = reference::plugins(&plugins, Some(row.name)).expect(row.name);
            let example = if row.example.is_empty() { "chain = [" } else { "type = " };
            assert!(text.contains(example) && text.contains(&format!("\"{}\"", row.name)), "{text}");
        }
        let text = reference::plugins(&plugins, Some("ip_whitelist")).expect("it is there");
        assert!(text.contains("  allow: list of "), "{text}");
    }

    #[test]
    fn a_misspelt_plugin_is_suggested() {
        let sentence = reference::plugins(&crate::plugins(), Some("ip_whitlist")).expect_err("no such plugin");
        assert!(
            sentence.starts_with("unknown plugin `ip_whitlist`; did you mean `ip_whitelist`? available: "),
            "{sentence}"
        );
    }
}
