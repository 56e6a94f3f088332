//! What the tests run against and a script fetches: `scripts/fetch-consul`, `scripts/fetch-python`.

#![allow(dead_code, reason = "not every test needs something that is fetched")]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where it is; fetched if it is not there yet. `None` if it is to be skipped.
pub(crate) fn fetched(what: &str) -> Option<PathBuf> {
    let skip = format!("PORTCULLIS_SKIP_{}", what.to_uppercase());
    if std::env::var(&skip).is_ok_and(|value| value == "1") {
        // Past the capture of the test runner: a test that passes prints nothing otherwise.
        let _ = writeln!(io::stderr(), "skipped: {skip}=1, so nothing is tried against a real one");
        return None;
    }
    let script = format!("{}/../scripts/fetch-{what}", env!("CARGO_MANIFEST_DIR"));
    let fetched = Command::new(&script).stderr(Stdio::inherit()).output().expect("the script can be started");
    assert!(fetched.status.success(), "{script} failed; where it cannot be had, {skip}=1 skips these tests");
    Some(String::from_utf8(fetched.stdout).expect("a path").trim().into())
}
