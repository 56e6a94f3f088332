//! The parts of a file that can change one by one, so that a reload can say what it changed.

use crate::Document;
use crate::node::{Kind, Node};

/// One part of a file: a listener, a service, a route, or a key of the file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is, as the file and people call it: ``service `orders` ``, ``route `#3` ``, `workers`.
    pub title: String,
    /// What it says, in one notation: equal for two that say the same. It may hold secrets.
    pub content: String,
}

impl Document {
    /// The parts of the file, in the order written.
    pub fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        for (key, value) in self.root.entries() {
            match (key.value.as_str(), &value.kind) {
                ("listener" | "registry" | "service" | "middleware", Kind::Table(entries)) => {
                    sections.extend(entries.iter().map(|(name, entry)| section(&key.value, Some(&name.value), entry)));
                }
                ("route", Kind::List(routes)) => {
                    for (position, route) in routes.iter().enumerate() {
                        let named = route.entries().iter().find(|(key, _)| key.value == "name");
                        let name = match named.map(|(_, name)| &name.kind) {
                            Some(Kind::String(name)) => name.clone(),
                            _ => format!("#{}", position + 1),
                        };
                        sections.push(section("route", Some(&name), route));
                    }
                }
                _ => sections.push(section(&key.value, None, value)),
            }
        }
        sections
    }
}

fn section(kind: &str, name: Option<&str>, node: &Node) -> Section {
    let mut content = String::new();
    node.canonical(&mut content);
    let title = name.map_or_else(|| kind.to_owned(), |name| format!("{kind} `{name}`"));
    Section { title, content }
}

#[cfg(test)]
mod tests {
    use crate::{Document, Faults};

    #[test]
    fn a_file_falls_into_its_parts_and_layout_does_not_matter() {
        let sections = |text| Document::parse("gateway.toml", text, &mut Faults::default()).sections();
        let one =
            sections("workers = 2\n[service.a]\nname = \"x\"\n[[route]]\nservice = \"a\"\n[[route]]\nname = \"r\"\n");
        let titles: Vec<_> = one.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, ["workers", "service `a`", "route `#1`", "route `r`"]);
        let other =
            sections("workers = 0x2 # the same\nservice.a.name = 'x'\nroute = [{ service = 'a' }, { name = 'r' }]\n");
        assert_eq!(one, other);
    }
}
