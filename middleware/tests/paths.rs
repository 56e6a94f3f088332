//! No path leads past a guard, whoever reads it behind the gateway.
//!
//! By the hundred thousand and without sockets; `gateway/tests/hostile/paths.rs` has the sockets.

mod readers;

use std::sync::Arc;

use portcullis_config::{DotSegments, EncodedSlashes, File, Paths, RoutePaths, Slashes};
use portcullis_middleware::exchange::Arrival;
use portcullis_middleware::layer::hop;
use portcullis_middleware::paths::{Arrived, arrive};
use portcullis_middleware::router::{Entry, Table};
use portcullis_middleware::{Exchange, Response, RouteInfo, Running, testing};
use proptest::prelude::*;

fn table(text: &str) -> Table {
    let (file, faults) = File::parse("test.toml", text);
    let file = file.unwrap_or_else(|| panic!("{}\n{text}", faults.render(false)));
    let entries = file.routes.iter().enumerate().map(|(order, route)| Entry {
        info: Arc::new(RouteInfo { name: route.label().into_owned(), place: route.place }),
        matches: route.matches.clone(),
        priority: route.priority,
        order,
        answer: hop(|_| Running::ready(Response::default())),
    });
    let table = Table::build(entries.collect()).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
    table.with_paths(file.routes.iter().map(|route| route.paths))
}

/// Which route takes a request with this path, and the path that it goes on with; or why it is refused.
fn go(table: &Table, policy: Paths, path: &str) -> Result<(String, String), String> {
    let mut request = testing::request("GET", path);
    Exchange::new(Arrival::default(), &request).attach(&mut request);
    let arrived = Arrived { policy, by: policy.on_arrival(table.paths()) };
    let name = |cause: &dyn std::fmt::Display| cause.to_string();
    arrive(&mut request, arrived).map_err(|rejection| name(&rejection.cause()))?;
    let hit = table.take(&mut request).map_err(|rejection| name(&rejection.cause()))?;
    assert!(request.uri().path().is_char_boundary(hit.matched.prefix));
    Ok((hit.entry.info.name.clone(), request.uri().path().to_owned()))
}

fn policies() -> impl Strategy<Value = Paths> {
    overrides().prop_map(|said| Paths::default().with(said))
}

fn overrides() -> impl Strategy<Value = RoutePaths> {
    let dots = prop::sample::select(vec![None, Some(DotSegments::Remove), Some(DotSegments::Reject)]);
    let slashes = prop::sample::select(vec![None, Some(Slashes::Merge), Some(Slashes::Keep), Some(Slashes::Reject)]);
    let encoded = prop::sample::select(vec![
        None,
        Some(EncodedSlashes::Reject),
        Some(EncodedSlashes::Keep),
        Some(EncodedSlashes::Decode),
    ]);
    (dots, slashes, encoded).prop_map(|(dot_segments, slashes, encoded_slashes)| RoutePaths {
        dot_segments,
        slashes,
        encoded_slashes,
    })
}

fn written(said: RoutePaths) -> String {
    let pair = |key: &str, value: Option<String>| value.map(|value| format!("{key} = {value}"));
    let text = |value: &dyn erased::Text| value.text();
    let pairs = [
        pair("dot_segments", said.dot_segments.as_ref().map(|value| text(value))),
        pair("slashes", said.slashes.as_ref().map(|value| text(value))),
        pair("encoded_slashes", said.encoded_slashes.as_ref().map(|value| text(value))),
    ];
    format!("paths = {{ {} }}", pairs.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

mod erased {
    /// A value as the file has it.
    pub(super) trait Text {
        fn text(&self) -> String;
    }

    impl<T: serde::Serialize> Text for T {
        fn text(&self) -> String {
            serde_json::to_string(self).expect("a word")
        }
    }
}

/// Guarded prefixes, as the file has them and as anybody reads them.
const GUARDED: [(&str, &[&str]); 6] = [
    ("/admin", &["admin"]),
    ("/a/b", &["a", "b"]),
    ("/v1/x:y", &["v1", "x:y"]),
    ("/caf\u{e9}", &["caf\u{e9}"]),
    ("/%7Bx%7D", &["{x}"]),
    ("/a/{{z}}", &["a", "{z}"]),
];

/// Routes without a guard. They are there in any combination.
const OPEN: [&str; 8] = [
    "path = { prefix = \"/\" }",
    "path = \"/{one}\"",
    "path = \"/{one}/{two}\"",
    "path = \"/a/{*rest}\"",
    "path = { prefix = \"/a\" }",
    "path = { prefix = \"/x\" }",
    "path = \"/v1/{name}\"",
    "path = { regex = \"/.*admin.*\" }",
];

fn paths() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/",
        "/",
        "/",
        "/",
        "admin",
        "a",
        "b",
        "a/b",
        "x",
        "v1",
        "x:y",
        "caf\u{e9}",
        "{x}",
        "{z}",
        "..",
        "..",
        ".",
        "%2e",
        "%2E%2e",
        "%252e",
        "%2f",
        "%2F",
        "%252f",
        "%5c",
        "%255C",
        "\\",
        ";",
        ";v=1",
        "%3b",
        "%253B",
        "%3A",
        "%253a",
        "%61",
        "%2561",
        "%64min",
        "%7b",
        "%257b",
        "x%7D",
        "%C3%A9",
        "%c3%a9",
        "caf",
        "%25",
        "%",
        "%00",
        "%C0%AF",
        "61",
        "/admin",
        "/../admin",
        "%2fadmin",
        "..;",
        "//",
    ]);
    prop::collection::vec(piece, 1..9).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_passes_a_guard_by_is_read_by_nobody_as_what_it_guards(
        path in paths(),
        policy in policies(),
        guarded in prop::sample::select(&GUARDED[..]),
        guard_says in overrides(),
        open in prop::sample::subsequence(&OPEN[..], 1..4),
        says in prop::collection::vec(overrides(), 4),
    ) {
        if path.parse::<http::Uri>().is_err() {
            return Ok(());
        }
        let (prefix, segments) = guarded;
        let matching = if prefix.contains("{{") { format!("[{{ path = \"{prefix}\" }}, {{ path = \"{prefix}/{{*rest}}\" }}, {{ path = \"{prefix}/\" }}]") } else { format!("{{ path = {{ prefix = \"{prefix}\" }} }}") };
        let mut text = format!("[[route]]\nname = \"guarded\"\npriority = 1\nmatch = {matching}\n{}\nrespond = {{}}\n", written(guard_says));
        for (matching, said) in open.iter().zip(says) {
            text.push_str(&format!("[[route]]\nallow_shadowed = true\nmatch = {{ {matching} }}\n{}\nrespond = {{}}\n", written(said)));
        }
        let table = table(&text);
        let Ok((route, sent)) = go(&table, policy, &path) else { return Ok(()) };
        if route == "guarded" {
            return Ok(());
        }
        for reading in readers::readings(&sent) {
            prop_assert!(!readers::is_below(&reading, segments), "{} went on as {} through route {}\n{}", path, sent, route, text);
        }
    }
}

const FILE: &str = r#"
[[route]]
name = "admin"
match = { path = { prefix = "/admin" } }
respond = {}
[[route]]
name = "files"
match = { path = "/files/{*rest}" }
paths = { encoded_slashes = "keep", slashes = "keep" }
respond = {}
[[route]]
name = "decoded"
match = { path = "/decoded/{*rest}" }
paths = { encoded_slashes = "decode" }
respond = {}
[[route]]
name = "strict"
match = { path = { prefix = "/strict" } }
paths = { dot_segments = "reject", slashes = "reject" }
respond = {}
[[route]]
name = "site"
match = { path = { prefix = "/" } }
respond = {}
"#;

#[test]
fn a_route_has_its_own_say_about_its_paths() {
    let table = table(FILE);
    for (path, wanted) in [
        ("/files/a%2fb", Ok(("files", "/files/a%2Fb"))),
        ("/files//a", Ok(("files", "/files//a"))),
        ("/files/a/./b", Ok(("files", "/files/a/b"))),
        // The path that is compared has no second slash; what goes on has.
        ("//files//a", Err("path_rejected")),
        ("/files/%2e%2e%2fadmin", Err("path_rejected")),
        ("/files/..%2f..%2fadmin", Err("path_rejected")),
        ("/files%2f..%2fadmin", Err("path_rejected")),
        ("/decoded/a%2Fb%5Cc", Ok(("decoded", "/decoded/a/b/c"))),
        ("/decoded/..%2Fadmin", Err("path_rejected")),
        ("/strict/a", Ok(("strict", "/strict/a"))),
        ("/strict/a/../b", Err("path_rejected")),
        ("/strict//a", Err("path_rejected")),
        ("/x/../strict/a", Err("path_rejected")),
        ("/site/a%2Fb", Err("path_rejected")),
        ("/site//a/../b", Ok(("site", "/site/b"))),
        ("/site;v=1/a", Ok(("site", "/site;v=1/a"))),
        ("/admin;v=1/a", Err("path_rejected")),
        ("/;/admin", Err("path_rejected")),
        ("/%61dmin/x", Ok(("admin", "/admin/x"))),
        ("/%2561dmin/x", Err("path_rejected")),
        ("/site/a%3Ab", Ok(("site", "/site/a%3Ab"))),
    ] {
        let gone = go(&table, Paths::default(), path);
        let gone = gone.as_ref().map(|(route, path)| (&**route, &**path)).map_err(|cause| &**cause);
        assert_eq!(gone, wanted, "{path}");
    }
}

#[test]
fn what_the_listener_decodes_a_route_can_have_kept() {
    let listener = Paths { encoded_slashes: EncodedSlashes::Decode, ..Paths::default() };
    let table = table(FILE);
    let gone = |path| go(&table, listener, path).map(|(route, path)| format!("{route} {path}"));
    assert_eq!(gone("/files/a%2fb"), Ok("files /files/a%2Fb".into()));
    assert_eq!(gone("/admin%2fx"), Ok("admin /admin/x".into()));
    assert_eq!(gone("/site/a%5Cb"), Ok("site /site/a/b".into()));
}

#[test]
fn the_page_about_paths_is_true() {
    let page = include_str!("../../docs/paths.md");
    let block = |language: &str| {
        let (_, rest) = page.split_once(&format!("```{language}\n")).expect("a block");
        rest.split("```").next().unwrap()
    };
    let (file, faults) = File::parse("paths.md", block("toml"));
    let file = file.unwrap_or_else(|| panic!("{}", faults.render(false)));
    assert_eq!(file.listeners[0].value.paths, Paths::default());
    let table = table(block("toml"));
    for question in block("text").lines() {
        let (asked, wanted) = question.split_once('→').expect("a question and its answer");
        let path = asked.trim().strip_prefix("GET http://any.example").expect("a URL");
        let (Ok((gone, _)) | Err(gone)) = go(&table, Paths::default(), path);
        assert_eq!(gone, wanted.trim(), "{question}");
    }
}
