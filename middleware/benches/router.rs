//! What a table of routes costs: to build, to look up, to check for overlap.
//!
//! `cargo bench -p portcullis-middleware --bench router`. A table of ten thousand routes may take 200 ms to build and to
//! check, and a lookup in it at most twice as long as in one of ten.

use std::hint::black_box;
use std::sync::Arc;

use axum::body::Body;
use divan::Bencher;
use portcullis_config::{File, Route};
use portcullis_middleware::layer::{Running, hop};
use portcullis_middleware::router::{Claim, Entry, Table, check};
use portcullis_middleware::{Next, Request, Response, RouteInfo};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

/// As many requests for every size of table, so that only the table makes a difference.
const REQUESTS: usize = 4_096;

fn main() {
    divan::main();
}

/// A file as it grows in a company: mostly exact paths and prefixes, some patterns, few regexes and headers, on one host
/// of its own per `per_host` routes.
fn routes(count: usize, per_host: usize) -> Vec<Route> {
    let mut text = String::from("[listener.web]\naddress = \"127.0.0.1:0\"\n[registry.default]\ntype = \"memory\"\n");
    for number in 0..count {
        let path = match number % 20 {
            0..10 => format!("path = \"/api/v1/items{number}\""),
            10..14 => format!("path = {{ prefix = \"/app{number}\" }}"),
            14..17 => format!("path = \"/v2/res{number}/{{id}}/detail\""),
            17 => format!("path = \"/files{number}/{{*rest}}\", methods = [\"GET\"]"),
            18 => format!("path = {{ prefix = \"/canary{number}\" }}, headers = {{ x-env = \"canary\" }}"),
            _ => format!("path = {{ regex = \"/odd{number}/[a-z]+\" }}"),
        };
        let host = number / per_host;
        text +=
            &format!("[[route]]\nservice = \"s{number}\"\nmatch = {{ hosts = [\"h{host}.example.com\"], {path} }}\n");
    }
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

fn requests(count: usize, per_host: usize) -> Vec<Request> {
    let mut random = fastrand::Rng::with_seed(7);
    let request = |number: usize| {
        let path = match number % 20 {
            0..10 => format!("/api/v1/items{number}"),
            10..14 => format!("/app{number}/some/page.html"),
            14..17 => format!("/v2/res{number}/4711/detail"),
            17 => format!("/files{number}/a/b/c.png"),
            18 => format!("/canary{number}"),
            _ => format!("/odd{number}/abc"),
        };
        let builder = http::Request::builder().uri(path).header("host", format!("h{}.example.com", number / per_host));
        let builder = builder.header("user-agent", "bench/1.0").header("accept", "*/*").header("x-env", "canary");
        builder.body(Body::empty()).expect("a request")
    };
    (0..REQUESTS).map(|_| request(random.usize(..count))).collect()
}

fn look_up(bencher: Bencher<'_, '_>, count: usize, per_host: usize) {
    let table = Table::build(entries(&routes(count, per_host), &answer())).expect("a table");
    let requests = requests(count, per_host);
    assert!(requests.iter().all(|request| table.find(request).is_ok()));
    bencher.counter(divan::counter::ItemsCount::new(REQUESTS)).bench_local(|| {
        for request in &requests {
            let _ = black_box(table.find(black_box(request)));
        }
    });
}

#[divan::bench(args = SIZES)]
fn look_up_on_one_host(bencher: Bencher<'_, '_>, count: usize) {
    look_up(bencher, count, usize::MAX);
}

#[divan::bench(args = SIZES)]
fn look_up_on_a_host_per_ten_routes(bencher: Bencher<'_, '_>, count: usize) {
    look_up(bencher, count, 10);
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
    let claim = |route: &'_ Route| -> (Vec<String>, Vec<String>) {
        let guards = if route.position.is_multiple_of(2) { vec!["office".to_owned()] } else { Vec::new() };
        (guards, vec![format!("s{}", route.position % 10 / 2)])
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
