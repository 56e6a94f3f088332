//! Seeded mistakes, each with what `portcullis check` says about it.
//!
//! `mistakes/NAME.toml` is a wrong file, `mistakes/NAME.txt` the report. `UPDATE=1 cargo test --test mistakes` writes
//! the reports anew; read the difference before it goes in.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// How many kinds of mistakes are shown at the least.
const FEWEST: usize = 60;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes")
}

/// The names in the folder that end in `extension`.
fn names(extension: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder()).expect("the folder of mistakes is there");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    wanted.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

fn check(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("check").args(arguments).current_dir(folder());
    command.output().expect("the binary runs")
}

#[test]
fn every_mistake_is_refused_with_its_report() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut differences = String::new();
    for name in names("toml") {
        let output = check(&[&format!("{name}.toml")]);
        let report = String::from_utf8(output.stderr).expect("a report is text");
        assert_eq!(output.status.code(), Some(64), "{name}: {report}");
        assert!(output.stdout.is_empty(), "{name} prints something else than its report");
        let golden = folder().join(format!("{name}.txt"));
        if update {
            std::fs::write(&golden, &report).expect("the report can be written");
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != report {
            let _ = writeln!(differences, "=== {name} says now:\n{report}");
        }
    }
    assert!(differences.is_empty(), "{differences}");
    let (mistakes, reports) = (names("toml"), names("txt"));
    assert!(mistakes.len() >= FEWEST, "only {} mistakes", mistakes.len());
    assert_eq!(mistakes, reports, "a report without its mistake");
}

#[test]
fn every_fault_stands_at_its_place() {
    // A fault without a place is for what a file as a whole lacks.
    let placeless = ["empty_file"];
    for name in names("toml") {
        let output = check(&["--json", &format!("{name}.toml")]);
        let reports: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report is JSON");
        let faults = reports[0].as_array().expect("faults are a list");
        assert!(faults.iter().any(|fault| fault["level"] == "error"), "{name}");
        if !placeless.contains(&name.as_str()) {
            let placed = |fault: &serde_json::Value| fault["line"].is_u64() && fault["column"].is_u64();
            assert!(faults.iter().all(placed), "{name}: {reports}");
        }
    }
}

#[test]
fn several_files_are_checked_in_one_run() {
    let output = check(&["workers_zero.toml", "plugin_host_bits.toml", "no_such_file.toml"]);
    let report = String::from_utf8(output.stderr).expect("a report is text");
    assert_eq!(output.status.code(), Some(64));
    for place in ["workers_zero.toml:1:11", "plugin_host_bits.toml:6:24", "`no_such_file.toml`"] {
        assert!(report.contains(place), "{place} is missing:\n{report}");
    }
}
