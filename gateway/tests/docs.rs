//! Documents that cannot rot: every TOML in them is loaded, every example file is checked, every link leads somewhere.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis::Gateway;
use portcullis_config::{Document, Faults};
use support::pki::{Authority, replace};
use support::process::Process;
use tempfile::TempDir;

#[test]
fn every_toml_in_the_documents_is_a_configuration() {
    let mut blocks = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for (line, block) in fenced(&text, "toml") {
            blocks += 1;
            let whole = if block.contains("[listener.") { block } else { complete(block) };
            let faults = check(&format!("{} (block at line {line})", relative(&page)), &whole);
            // A page may show what is warned about.
            assert!(!faults.has_errors(), "{}", faults.render(false));
        }
    }
    assert!(blocks > 0, "the documents have TOML in them");
}

/// With what a fragment in a document leaves out: who listens, and where services are found.
fn complete(fragment: String) -> String {
    let chain = if fragment.contains("[middleware.NAME]") { "NAME" } else { "router" };
    let registry = if fragment.contains("[registry.") { "" } else { "\n[registry.default]\ntype = \"memory\"\n" };
    fragment + &format!("\n[listener.around]\naddress = \"127.0.0.1:1\"\nchain = [\"{chain}\"]\n{registry}")
}

#[test]
fn every_example_file_is_a_configuration_without_warnings() {
    for file in example_files() {
        let faults = check(&relative(&file), &fs::read_to_string(&file).expect("an example"));
        assert!(faults.is_empty(), "{}", faults.render(false));
    }
}

#[tokio::test]
async fn the_commands_above_the_example_of_tls_do_what_it_says() {
    let is_there = |tool: &str| Command::new(tool).arg("version").output().is_ok();
    if !is_there("openssl") || !is_there("curl") {
        return;
    }
    let text = fs::read_to_string(root().join("examples/tls.toml")).expect("an example");
    let typed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let (make, ask) =
        typed.split_at(typed.iter().position(|line| line.starts_with("portcullis run")).expect("a start"));
    let directory = TempDir::new().expect("a directory");
    let run = |script: &str| {
        let ran = Command::new("sh").args(["-ec", script]).current_dir(directory.path()).output().expect("a shell");
        assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).expect("text")
    };
    run(&make[1..].join("\n"));

    // The ports of the example may be in use, and its files are elsewhere.
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let (plain, web) = (free().port().to_string(), free().port().to_string());
    let moved = |text: &str| text.replace("8080", &plain).replace("8443", &web);
    let mut toml = moved(&text);
    for file in ["site.pem", "site.key", "partners.pem", "partners.key", "clients.pem"] {
        toml = toml.replace(&format!("\"{file}\""), &format!("\"{}\"", directory.path().join(file).display()));
    }
    let _gateway = Process::start(&toml).await;
    let answers: Vec<_> = ask[1..].iter().map(|line| run(&moved(line))).collect();
    assert_eq!(answers[..2], ["hello, whoever you are\n", "hello, partner\n"]);
    assert!(answers[2].contains(&format!("\r\nlocation: https://localhost:{web}/\r\n")), "{}", answers[2]);
}

/// As `portcullis check` does it: everything but the sockets.
fn check(name: &str, text: &str) -> Faults {
    let directory = certificates();
    let mut faults = Faults::new();
    let document = Document::parse(name, text, &mut faults);
    let plan = Gateway::new(portcullis::plugins()).plan_of(&document, Some(directory.path()), &mut faults);
    assert_eq!(plan.is_none(), faults.has_errors(), "{name}: there is a plan, or a reason why not");
    faults
}

/// A directory with the certificates that the documents name.
fn certificates() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    let authority = Authority::new("authority");
    for name in ["site", "shop", "partners", "us"] {
        authority.issue(&["localhost", "partners.localhost", "partners.example.com"]).write(directory.path(), name);
    }
    for name in ["clients.pem", "internal.pem"] {
        replace(&directory.path().join(name), &authority.pem);
    }
    directory
}

#[test]
fn the_mistakes_in_the_readme_are_reported_as_it_shows_them() {
    let readme = fs::read_to_string(root().join("README.md")).expect("the page");
    let (_, right) = fenced(&readme, "toml").remove(0);
    let wrong = right.replacen("\nallow = [", "\nallows = [", 1).replacen("total = \"2s\"", "total = \"2\"", 1);
    let shown = fenced(&readme, "text")
        .into_iter()
        .any(|(_, block)| block.trim() == check("gateway.toml", &wrong).render(false).trim());
    assert!(shown, "the README should show this:\n{}", check("gateway.toml", &wrong).render(false));
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://") || path.contains("::") || path == "crate";
            if !elsewhere && !page.parent().expect("a page lies in a folder").join(path).exists() {
                broken.push(format!("{}: {target}", relative(&page)));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_reached_from_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).expect("the page");
    for page in files(&root().join("docs"), "md") {
        let target = format!("({})", relative(&page));
        // The style is for contributors, whose page links it.
        assert!(readme.contains(&target) || page.ends_with("house-style.md"), "{target} is not linked");
    }
}

#[test]
fn every_decision_is_on_the_list_of_decisions() {
    let list = fs::read_to_string(root().join("docs/decisions/README.md")).expect("the list");
    for page in files(&root().join("docs/decisions"), "md") {
        let name = page.file_name().expect("a name").to_string_lossy();
        assert!(name == "README.md" || list.contains(&format!("({name})")), "{name} is not on the list");
    }
}

/// README, CONTRIBUTING, CHANGELOG, and everything under `docs/`.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> = files(root(), "md").into_iter().chain(files(&root().join("docs"), "md")).collect();
    pages.extend(files(&root().join("docs/decisions"), "md"));
    pages
}

fn example_files() -> Vec<PathBuf> {
    let folders = ["examples", "examples/compose"].map(|folder| files(&root().join(folder), "toml"));
    let files = folders.into_iter().flatten();
    // These are for binaries that know a plugin more than ours; their own tests load them.
    let ours = |path: &PathBuf| !path.ends_with("Cargo.toml") && !relative(path).contains("custom_");
    files.filter(ours).collect()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|is| is == extension)).collect();
    files.sort();
    files
}

/// The fenced blocks of a language, each with the line it begins at.
fn fenced(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim() == "```" => blocks.extend(open.take()),
            Some((_, block)) => *block += &format!("{line}\n"),
            None if line.trim() == format!("```{language}") => open = Some((index + 2, String::new())),
            None => {}
        }
    }
    blocks
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("inside the workspace").display().to_string()
}
