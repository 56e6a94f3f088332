//! What is made from the code is fresh: the reference of the configuration, and its JSON Schema.
//!
//! `UPDATE=1 cargo test --test generated` writes both anew.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[track_caller]
fn fresh(path: &str, text: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).expect("it can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "{} is stale; UPDATE=1 cargo test --test generated rewrites it", path.display());
}

#[test]
fn the_reference_of_the_configuration_is_fresh() {
    fresh("docs/configuration.md", &portcullis::reference::configuration(&portcullis::plugins()));
}

#[test]
fn the_json_schema_is_fresh() {
    fresh("docs/portcullis.schema.json", &portcullis::reference::schema(&portcullis::plugins()));
}

#[test]
fn every_key_of_the_reference_says_what_it_means() {
    let text = portcullis::reference::configuration(&portcullis::plugins());
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let mute: Vec<_> = rows.filter(|row| row.ends_with("|  |")).collect();
    assert!(mute.is_empty(), "{mute:#?}");
}

/// taplo, if it could be fetched: the checker behind the editors' support of TOML.
fn taplo() -> Option<Command> {
    let program = root().join("target/test-servers/taplo/bin/taplo");
    program.exists().then(|| {
        let mut command = Command::new(program);
        command.current_dir(root()).args(["lint", "--schema"]);
        // It reads a URL, and a relative one from its own place.
        let schema = root().join("docs/portcullis.schema.json").canonicalize().expect("it is committed");
        command.arg(format!("file://{}", schema.display()));
        command
    })
}

#[test]
fn an_editor_finds_nothing_wrong_with_the_examples() {
    let Some(mut taplo) = taplo() else { return eprintln!("skipped: scripts/fetch-taplo was not run") };
    let examples: Vec<_> = ["examples", "examples/compose"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root().join(folder)).expect("a folder"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter(|path| {
            // Those that name a plugin of their own have a schema of their own.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name != "Cargo.toml" && !name.starts_with("custom_")
        })
        .collect();
    assert!(examples.len() >= 4, "{examples:?}");
    let output = taplo.args(&examples).output().expect("taplo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_editor_finds_a_misspelt_key_wherever_it_is() {
    if taplo().is_none() {
        return eprintln!("skipped: scripts/fetch-taplo was not run");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway.toml");
    let right = "[listener.web]\naddress = \"127.0.0.1:80\"\n[service.a]\ninstances = [\"127.0.0.1:1\"]\n\
                 [middleware.office]\ntype = \"ip_whitelist\"\nallow = [\"10.0.0.0/8\"]\n\
                 [[route]]\nmatch = { path = \"/\" }\nchain = [\"office\", { type = \"timeout\", total = \"2s\" }]\nservice = \"a\"\n";
    let lint = |text: &str| {
        std::fs::write(&path, text).expect("it can be written");
        taplo().expect("it is there").arg(&path).output().expect("taplo runs")
    };
    let output = lint(right);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (key, misspelt) in [
        ("address", "adress"),
        ("instances", "instance"),
        ("allow", "alow"),
        ("match", "matches"),
        ("path", "pth"),
        ("total", "totl"),
    ] {
        let wrong = right.replacen(&format!("{key} ="), &format!("{misspelt} ="), 1);
        assert!(!lint(&wrong).status.success(), "`{misspelt}` in place of `{key}` passes");
    }
}
