//! The rules about the house that a compiler does not know.
//!
//! Three crates, one direction: `config` ← `middleware` ← `gateway`. What is not on a list below is not allowed; a list
//! grows by a decision, not by accident.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files that poll by hand: the hop, bodies and streams that are watched while they flow, and waiting for a connection
/// or a connection's end. Everything else is written with `async`.
const WRITTEN_BY_HAND: &[&str] = &[
    "middleware/src/layer.rs",
    "middleware/src/body.rs",
    "middleware/src/xray/tracer.rs",
    "gateway/src/alarm.rs",
    "gateway/src/observe/watch.rs",
    "gateway/src/proxy/answer.rs",
    "gateway/src/proxy/attempt.rs",
    "gateway/src/proxy/connection/framing.rs",
    "gateway/src/proxy/connection/http1.rs",
    "gateway/src/proxy/connection/http2.rs",
    "gateway/src/proxy/connection/last_words.rs",
    "gateway/src/proxy/connection/mod.rs",
    "gateway/src/proxy/connection/stream.rs",
    "gateway/src/proxy/tunnel.rs",
    "gateway/src/proxy/upload.rs",
    "gateway/src/server/blame.rs",
    "gateway/src/server/gatekeeper.rs",
    "gateway/src/server/http2/body.rs",
    "gateway/src/server/http2/clocked.rs",
    "gateway/src/server/http2/keeper.rs",
    "gateway/src/server/http2/pace.rs",
    "gateway/src/server/incoming.rs",
    "gateway/src/server/late.rs",
    "gateway/src/server/phase.rs",
    "gateway/src/server/rest.rs",
    "gateway/src/server/socket.rs",
    "gateway/src/server/stop.rs",
    "gateway/src/server/stream.rs",
    "gateway/src/wire.rs",
];

/// The only file of the plugins that opens a socket: where finished segments leave for the daemon.
const WITH_SOCKETS: &[&str] = &["middleware/src/xray/daemon.rs"];

/// The only file of the gateway that names concrete plugins.
const NAMES_PLUGINS: &str = "gateway/src/plugins.rs";

const MOST_LINES: usize = 900;

#[test]
fn the_crates_depend_on_each_other_in_one_direction() {
    let ours = ["portcullis-config", "portcullis-middleware", "portcullis", "portcullis-examples", "portcullis-speed"];
    let allowed = BTreeMap::from([
        ("portcullis-config", vec![]),
        ("portcullis-middleware", vec!["portcullis-config"]),
        ("portcullis", vec!["portcullis-config", "portcullis-middleware"]),
    ]);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");

    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("a list of packages") {
        let name = package["name"].as_str().expect("a name");
        seen.insert(name);
        let Some(allowed) = allowed.get(name) else { continue };
        for dependency in package["dependencies"].as_array().expect("a list of dependencies") {
            let dependency = dependency["name"].as_str().expect("a name");
            assert!(
                !ours.contains(&dependency) || allowed.contains(&dependency),
                "`{name}` must not depend on `{dependency}`"
            );
        }
    }
    assert_eq!(seen, ours.into(), "the workspace has other members than this test knows");
}

#[test]
fn the_gateway_names_concrete_plugins_in_one_file() {
    let plugins = plugin_types();
    assert!(plugins.contains(&("ip_whitelist".into(), "IpWhitelist".into())), "the plugins were found: {plugins:?}");

    let mut found = Vec::new();
    for file in sources("gateway/src").iter().filter(|file| file.path != NAMES_PLUGINS) {
        for path in file.paths_into("portcullis_middleware") {
            let names = |(module, plugin): &&(String, String)| has_word(path, module) && has_word(path, plugin);
            found.extend(plugins.iter().find(names).map(|plugin| format!("{}: {plugin:?}", file.path)));
        }
    }
    assert!(found.is_empty(), "concrete plugins belong into {NAMES_PLUGINS} only: {found:#?}");
}

#[test]
fn plugins_know_no_sockets_and_no_registry() {
    let forbidden = ["tokio::net", "TcpStream", "TcpListener", "UdpSocket", "UnixStream", "hyper_util", "Registry"];
    let mut found = Vec::new();
    for file in sources("middleware/src") {
        if WITH_SOCKETS.contains(&file.path.as_str()) {
            continue;
        }
        found.extend(file.lines_with(&forbidden));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn futures_are_written_by_hand_in_listed_files_only() {
    let mut found = Vec::new();
    for file in sources("config/src").into_iter().chain(sources("middleware/src")).chain(sources("gateway/src")) {
        if !WRITTEN_BY_HAND.contains(&file.path.as_str()) {
            found.extend(file.lines_with(&["Poll"]));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_list_names_no_file_that_need_not_be_on_it() {
    let needs = |path: &&str, words: &[&str]| {
        let file = root().join(path);
        assert!(file.is_file(), "{path} is on a list and does not exist");
        assert!(!Source::read(&file).lines_with(words).is_empty(), "{path} is on a list and does nothing of that kind");
    };
    WRITTEN_BY_HAND.iter().for_each(|path| needs(path, &["Poll"]));
    WITH_SOCKETS.iter().for_each(|path| needs(path, &["UdpSocket"]));
    needs(&NAMES_PLUGINS, &["portcullis_middleware"]);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace_which_forbid_unsafe_code() {
    let manifest = |path: &str| fs::read_to_string(root().join(path)).expect("a manifest");
    assert!(manifest("Cargo.toml").contains("unsafe_code = \"forbid\""));
    for member in ["config", "middleware", "gateway", "examples", "speed"] {
        let path = format!("{member}/Cargo.toml");
        assert!(manifest(&path).contains("[lints]\nworkspace = true\n"), "{path} has lints of its own");
    }
}

#[test]
fn nothing_unwraps_outside_tests() {
    let sources = ["config/src", "middleware/src", "gateway/src"].into_iter().flat_map(sources);
    let found: Vec<_> = sources.flat_map(|file| file.lines_with(&["unwrap"])).collect();
    assert!(found.is_empty(), "`expect` says why it cannot fail: {found:#?}");
}

#[test]
fn a_file_tells_one_story() {
    let mut long = Vec::new();
    for folder in ["config", "middleware", "gateway", "examples", "speed"] {
        for path in rust_files(&root().join(folder)) {
            let lines = fs::read_to_string(&path).expect("a source file").lines().count();
            if lines > MOST_LINES {
                long.push(format!("{} has {lines} lines", relative(&path)));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// A source file without its comments and without its tests, which stand at its end.
struct Source {
    path: String,
    code: String,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a source file");
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code: Vec<_> =
            code.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect();
        Self { path: relative(path), code: code.join("\n") }
    }

    /// The lines that have one of these words in them, with their place.
    fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let has = |line: &str| words.iter().any(|word| has_word(line, word));
        let lines = self.code.lines().enumerate().filter(|(_, line)| has(line));
        lines.map(|(index, line)| format!("{}:{}: {}", self.path, index + 1, line.trim())).collect()
    }

    /// Every path into a crate, also those in the braces of a `use`.
    fn paths_into(&self, krate: &str) -> Vec<&str> {
        let start = format!("{krate}::");
        let rest = self.code.match_indices(&start).map(|(at, _)| &self.code[at + start.len()..]);
        rest.map(|rest| {
            let end = if rest.starts_with('{') {
                rest.find(';')
            } else {
                rest.find(|c: char| !c.is_alphanumeric() && !"_:{".contains(c))
            };
            let path = &rest[..end.unwrap_or(rest.len())];
            if path.ends_with('{') { &rest[..rest.find(';').unwrap_or(rest.len())] } else { path }
        })
        .collect()
    }
}

fn has_word(line: &str, word: &str) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_a_word) && !line[at + word.len()..].starts_with(part_of_a_word))
}

/// The plugins of the middleware crate: each its module and its type.
fn plugin_types() -> BTreeSet<(String, String)> {
    let mut plugins = BTreeSet::new();
    for file in sources("middleware/src") {
        let module = file.path.trim_start_matches("middleware/src/").split(['/', '.']).next().unwrap_or_default();
        for rest in file.code.split("impl Plugin for ").skip(1) {
            let plugin = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            plugins.insert((module.to_owned(), plugin.to_owned()));
        }
    }
    plugins
}

fn sources(folder: &str) -> Vec<Source> {
    let files = rust_files(&root().join(folder));
    assert!(!files.is_empty(), "{folder} has sources");
    // A module that is all tests has a file of its own, `tests.rs` or `live_tests.rs`.
    let files = files.into_iter().filter(|path| !path.to_string_lossy().ends_with("tests.rs"));
    files.map(|path| Source::read(&path)).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            files.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("inside the workspace").to_string_lossy().replace('\\', "/")
}
