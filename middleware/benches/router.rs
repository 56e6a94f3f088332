//! What a table of routes costs: to build, to look up, to check for overlap.
//!
//! `cargo bench -p portcullis-middleware --bench router`. A table of ten thousand routes may take 200 ms to build and to
//! check, and a lookup in it at most twice as long as in one of ten.
//!
//! A lookup among ten thousand executes as many instructions as one among ten. What it costs more is memory: a dozen
//! lines that are not in the first cache, a few more of them if there are a thousand hosts. Neighbours who
//! take the second cache away multiply the price of those, so compare on a quiet machine, or count them with cachegrind.

use std::hint::black_box;
use std::sync::Arc;

use axum::body::Body;
use divan::Bencher;
use portcullis_config::{File, Route};
use portcullis_middleware::layer::{Running, hop};
use portcullis_middleware::router::{Claim, Destination, Entry, Table, check};
use portcullis_middleware::{Next, Request, Response, RouteInfo};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

/// As many different requests for every size of table, so that only the table makes a difference.
const REQUESTS: usize = 1_024;

/// How many are looked up in one measurement. They are made just before it, as in the gateway they have just been read:
/// of all of them at once, half a megabyte would have to come out of memory with them, and a large table, which needs the
/// processor's cache for itself, would be blamed for that.
const BATCH: usize = 16;

fn main() {
    divan::main();
}

/// A file as it grows in a company: mostly exact paths and prefixes, some patterns, methods and headers, on one host
/// of its own per `per_host` routes.
fn routes(count: usize, per_host: usize) -> Vec<Route> {
    let mut text = String::new();
    for number in 0..count {
        let path = match number % 10 {
            0..4 => format!("path = \"/api/v1/items{number}\""),
            4..6 => format!("path = {{ prefix = \"/app{number}\" }}"),
            6 => format!("path = \"/v2/res{number}/{{id}}/detail\""),
            7 => format!("path = \"/files{number}/{{*rest}}\", methods = [\"GET\"]"),
            8 => format!("path = {{ prefix = \"/canary{number}\" }}, headers = {{ x-env = \"canary\" }}"),
            _ => format!("path = \"/v2/res{number}/{{id}}\""),
        };
        let host = number / per_host;
        text +=
            &format!("[[route]]\nservice = \"s{number}\"\nmatch = {{ hosts = [\"h{host}.example.com\"], {path} }}\n");
    }
    parse(&text)
}

fn parse(routes: &str) -> Vec<Route> {
    let text = format!("{routes}[listener.web]\naddress = \"127.0.0.1:0\"\n[registry.default]\ntype = \"memory\"\n");
    let (file, faults) = File::parse("bench.toml", &text);
    assert!(!faults.has_errors(), "{}", faults.render(false));
    file.expect("a file without errors").routes
}

fn entries(routes: &[Route], answer: &Next) -> Vec<Entry> {
    let entry = |route: &Route| Entry {
        info: Arc::new(RouteInfo { name: route.label().into_owned(), place: route.place }),
        matches: route.matches.clone(),
        priority: route.priority,
        order: route.position,
        answer: answer.clone(),
    };
    routes.iter().map(entry).collect()
}

fn answer() -> Next {
    hop(|_| Running::ready(Response::new(Body::empty())))
}

/// What a request asks for: host and path.
type Asked = (String, String);

fn request((host, path): &Asked) -> Request {
    let builder = http::Request::builder().uri(path).header("host", host);
    builder.header("accept", "*/*").header("x-env", "canary").body(Body::empty()).expect("a request")
}

fn asked(count: usize, per_host: usize) -> Vec<Asked> {
    let mut random = fastrand::Rng::with_seed(7);
    let one = |number: usize| {
        let path = match number % 10 {
            0..4 => format!("/api/v1/items{number}"),
            4..6 => format!("/app{number}/some/page.html"),
            6 => format!("/v2/res{number}/4711/detail"),
            7 => format!("/files{number}/a/b/c.png"),
            8 => format!("/canary{number}"),
            _ => format!("/v2/res{number}/4711"),
        };
        (format!("h{}.example.com", number / per_host), path)
    };
    (0..REQUESTS).map(|_| one(random.usize(..count))).collect()
}

fn look_up(bencher: Bencher<'_, '_>, routes: &[Route], asked: &[Asked]) {
    let table = Table::build(entries(routes, &answer())).expect("a table");
    assert!(asked.iter().all(|asked| table.find(&request(asked)).is_ok()));
    let mut batches = asked.chunks_exact(BATCH).cycle();
    let mut batch = || batches.next().expect("a cycle").iter().map(request).collect::<Vec<_>>();
    bencher.counter(divan::counter::ItemsCount::new(BATCH)).with_inputs(&mut batch).bench_local_refs(|requests| {
        for request in requests {
            let _ = black_box(table.find(black_box(request)));
        }
    });
}

/// Each regex has code and scratch space of its own, which a lookup among many finds cold.
#[divan::bench(args = [10, 1_000], sample_size = 1, sample_count = 4_096)]
fn look_up_a_regex(bencher: Bencher<'_, '_>, count: usize) {
    let route =
        |number| format!("[[route]]\nservice = \"s\"\nmatch = {{ path = {{ regex = \"/odd{number}/[a-z]+\" }} }}\n");
    let routes = parse(&(0..count).map(route).collect::<String>());
    let mut random = fastrand::Rng::with_seed(7);
    let one = |_| ("h0.example.com".to_owned(), format!("/odd{}/abc", random.usize(..count)));
    look_up(bencher, &routes, &(0..REQUESTS).map(one).collect::<Vec<_>>());
}

#[divan::bench(args = SIZES, sample_size = 1, sample_count = 4_096)]
fn look_up_on_one_host(bencher: Bencher<'_, '_>, count: usize) {
    look_up(bencher, &routes(count, usize::MAX), &asked(count, usize::MAX));
}

#[divan::bench(args = SIZES, sample_size = 1, sample_count = 4_096)]
fn look_up_on_a_host_per_ten_routes(bencher: Bencher<'_, '_>, count: usize) {
    look_up(bencher, &routes(count, 10), &asked(count, 10));
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn build(bencher: Bencher<'_, '_>, count: usize) {
    let (routes, answer) = (routes(count, 100), answer());
    bencher.with_inputs(|| entries(&routes, &answer)).bench_local_values(Table::build);
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn check_for_overlap(bencher: Bencher<'_, '_>, count: usize) {
    let routes = routes(count, 100);
    // Every other route is guarded, and all send to few services: the most there is to look at.
    let claim = |route: &'_ Route| -> (Vec<String>, Vec<Destination<'_>>) {
        let guards = if route.position.is_multiple_of(2) { vec!["office".to_owned()] } else { Vec::new() };
        let service = format!("s{}", route.position % 10 / 2);
        (guards, vec![Destination { service, rewrites: Vec::new() }])
    };
    let claims: Vec<_> = routes
        .iter()
        .map(|route| {
            let (guards, services) = claim(route);
            Claim {
                label: route.label().into_owned(),
                span: route.span.clone(),
                matches: &route.matches,
                priority: route.priority,
                order: route.position,
                allow_shadowed: false,
                listeners: vec![0],
                guards,
                services,
            }
        })
        .collect();
    let listeners = vec![Vec::new()];
    bencher.bench_local(|| check(black_box(&claims), &listeners));
}
