//! Any path pattern and any request: what the table finds is what it explains, and a capture lies in the path.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use portcullis_config::File;
use portcullis_middleware::layer::hop;
use portcullis_middleware::router::{Entry, Outcome, Table};
use portcullis_middleware::{Response, RouteInfo, Running, testing};

const ROUTES: &str = r#"
[[route]]
match = { path = "/orders/{id}" }
respond = {}
[[route]]
match = { path = "/orders/{*rest}", methods = ["GET"] }
respond = {}
[[route]]
match = { hosts = ["*.example.com"], path = { prefix = "/orders" }, query = { debug = { present = true } } }
respond = {}
[[route]]
match = { path = { regex = "/(?<all>[a-z]+)/x" }, cookies = { session = { regex = "a+" } } }
respond = {}
[[route]]
match = { path = PATTERN }
respond = {}
"#;

fuzz_target!(|input: (String, String, bool)| {
    let (pattern, target, post) = input;
    let text = ROUTES.replace("PATTERN", &format!("{pattern:?}"));
    let (Some(file), _) = File::parse("fuzz.toml", &text) else { return };
    let entries = file.routes.iter().enumerate().map(|(order, route)| Entry {
        info: Arc::new(RouteInfo { name: route.label().into_owned(), place: route.place.clone() }),
        matches: route.matches.clone(),
        priority: route.priority,
        order,
        answer: hop(|_| Running::ready(Response::default())),
    });
    let Ok(table) = Table::build(entries.collect()) else { return };

    if target.parse::<http::Uri>().is_err() {
        return;
    }
    let request = testing::request(if post { "POST" } else { "GET" }, &target);
    let found = table.find(&request);
    if let Ok(hit) = &found {
        for (name, value) in hit.matched.captures.list() {
            assert!(request.uri().path().contains(value), "{name} = {value:?}");
        }
    }
    let won = |outcome: &Outcome| matches!(outcome, Outcome::Won);
    assert_eq!(found.is_ok(), table.explain(&request).iter().any(|consideration| won(&consideration.outcome)));
});
