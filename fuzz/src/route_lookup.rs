//! Any path pattern and any request: what the table finds is what it explains, captures are the path, and wherever the
//! path is read in another way, it is for the same route.

use std::sync::Arc;

use portcullis_config::{DotSegments, EncodedSlashes, File, PathMatch, Paths, Slashes};
use portcullis_middleware::exchange::Arrival;
use portcullis_middleware::layer::hop;
use portcullis_middleware::paths::{self, Arrived, literal};
use portcullis_middleware::router::{Entry, Outcome, Table};
use portcullis_middleware::{Exchange, Request, Response, RouteInfo, Running};

use crate::input;

const ROUTES: &str = r#"
[listener.web]
address = "127.0.0.1:0"
paths = { slashes = "keep", encoded_slashes = "keep" }
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

/// A line with a pattern, and a request's head.
pub fn route_lookup(input: &[u8]) {
    let (pattern, head) = input::first_line(input);
    let Ok(pattern) = std::str::from_utf8(pattern) else { return };
    let Some(mut request) = input::request(head) else { return };
    let text = ROUTES.replace("PATTERN", &toml(pattern));
    let (Some(file), _) = File::parse("fuzz.toml", &text) else { return };
    let Ok(table) = table(&file) else { return };

    let policy =
        Paths { dot_segments: DotSegments::Remove, slashes: Slashes::Keep, encoded_slashes: EncodedSlashes::Keep };
    Exchange::new(Arrival::default(), &request).attach(&mut request);
    if paths::arrive(&mut request, Arrived { policy, by: policy }).is_err() {
        return;
    }
    expect_explained(&table, &request);
    let Ok(hit) = table.take(&mut request) else { return };
    let path = request.uri().path();
    if let Some(PathMatch::Pattern(pattern)) = hit.entry.matches[hit.alternative].path.as_ref().map(|path| &path.value)
    {
        assert_eq!(filled(pattern, &hit.matched.captures.list()), path, "{pattern}");
    }
    for reading in paths::readings(path) {
        let mut other = request_at(&request, &reading);
        Exchange::new(Arrival::default(), &other).attach(&mut other);
        let same = table.find(&other).is_ok_and(|other| std::ptr::eq(other.entry, hit.entry));
        assert!(same, "{path} is for `{}`, and {reading} is not", hit.entry.info.name);
    }
}

fn table(file: &File) -> Result<Table, ()> {
    let entries = file.routes.iter().enumerate().map(|(order, route)| Entry {
        info: Arc::new(RouteInfo { name: route.label().into_owned(), place: route.place }),
        matches: route.matches.clone(),
        priority: route.priority,
        order,
        answer: hop(|_| Running::ready(Response::default())),
    });
    Table::build(entries.collect()).map_err(drop)
}

/// What is found is what is said to have won, alone.
fn expect_explained(table: &Table, request: &Request) {
    let found = table.find(request).map(|hit| (hit.entry.info.name.clone(), hit.alternative)).ok();
    let considered = table.explain(request);
    let won = considered.iter().filter(|consideration| matches!(consideration.outcome, Outcome::Won));
    let won: Vec<_> = won.map(|winner| (winner.route.name.clone(), winner.alternative)).collect();
    assert_eq!(won, found.into_iter().collect::<Vec<_>>());
    assert_eq!(considered.len(), table.entries().len());
}

/// The same request for another path.
fn request_at(request: &Request, path: &str) -> Request {
    let mut other = portcullis_middleware::testing::request("GET", "/");
    *other.method_mut() = request.method().clone();
    *other.uri_mut() = request.uri().clone();
    *other.headers_mut() = request.headers().clone();
    paths::replace(&mut other, path).expect("a reading is a path");
    other
}

/// A pattern with its captures in their places.
fn filled(pattern: &str, captures: &[(&str, &str)]) -> String {
    let mut captures = captures.iter();
    let segments = pattern.split('/').map(|segment| {
        let (mut out, mut text, mut rest) = (String::new(), String::new(), segment);
        while let Some(brace) = rest.find(['{', '}']) {
            text.push_str(&rest[..brace]);
            let doubled = rest[brace..].starts_with("{{") || rest[brace..].starts_with("}}");
            if doubled {
                text.push_str(&rest[brace..=brace]);
                rest = &rest[brace + 2..];
            } else {
                out.push_str(&literal(&std::mem::take(&mut text)));
                out.push_str(captures.next().expect("a capture for each place").1);
                rest = &rest[brace + rest[brace..].find('}').expect("it is closed") + 1..];
            }
        }
        text.push_str(rest);
        out + &literal(&text)
    });
    segments.collect::<Vec<_>>().join("/")
}

/// A text as the file writes it.
fn toml(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}
