//! What the log says about TLS: whoever reads it at night finds in it what to do.

mod support;

use std::path::Path;

use support::pki::Authority;
use support::process::Process;

/// A file with one listener for one host.
fn file(tls: &str) -> String {
    format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\nhosts = [\"a.example\"]\ntls = {{ {tls} }}\n[[route]]\nrespond = {{}}\n"
    )
}

/// Issues and writes a pair for these hosts; the way a file names it.
fn pair(directory: &Path, names: &[&str]) -> String {
    Authority::new("test authority").issue(names).write(directory, "pair")
}

#[tokio::test]
async fn a_new_pair_that_leaves_a_host_without_a_certificate_is_warned_of_as_at_the_start() {
    // All that was said is that the new one is in use; and nobody was let in any more.
    let directory = tempfile::tempdir().unwrap();
    let certificate = pair(directory.path(), &["a.example"]);
    let (mut gateway, _) = Process::start(&file(&format!("certificates = [{certificate}]"))).await;
    pair(directory.path(), &["b.example"]);
    gateway.says("a certificate's file has changed, and the new one is in use").await;
    let line =
        gateway.says("no certificate of this address is for `a.example`; clients that ask for it are refused").await;
    assert_eq!(line["level"], "WARN");
}
