//! What the router promises, driven by the file; then the same promises on files and requests that nobody thought of.

use std::sync::Arc;

use http::{Method, StatusCode};
use proptest::prelude::*;

use super::testing::{asking, claims, entry, gateway, routes, table, table_of};
use super::{Outcome, Router, Table};
use crate::testing::{Chain, Setting, arrival, conformance, request};
use crate::{Cause, Exchange, MatchedRoute, Request};

/// A route called `name` that sends to a service of its name.
fn route(name: &str, rest: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nservice = \"{name}\"\n{rest}\n")
}

/// The route that takes a request, or the cause of its refusal.
fn winner(table: &Table, request: &Request) -> String {
    match table.find(request) {
        Ok(hit) => hit.entry.info.name.clone(),
        Err(miss) => crate::Rejection::from(miss).cause().name().to_owned(),
    }
}

/// Checks who takes `GET`s for `http://a.example` plus a target.
#[track_caller]
fn expect(routes: &str, cases: &[(&str, &str)]) {
    let table = table(routes);
    for (target, expected) in cases {
        assert_eq!(winner(&table, &asking("a.example", target)), *expected, "{target}");
    }
}

#[test]
fn it_is_a_plugin_like_any_other() {
    conformance::<Router>();
}

#[test]
fn it_belongs_into_a_listener_s_chain() {
    let refusal = Setting { routes: None, ..Setting::default() }.build::<Router>("").err().expect("a refusal");
    assert!(refusal.contains("belongs into a listener's chain"), "{refusal}");
}

#[test]
fn a_pattern_is_exact_about_segments_and_slashes() {
    let routes = [
        route("root", r#"match = { path = "/" }"#),
        route("one", r#"match = { path = "/a/{id}" }"#),
        route("rest", r#"match = { path = "/b/{*rest}" }"#),
        route("slash", r#"match = { path = "/c/" }"#),
        route("prefix", r#"match = { path = { prefix = "/d/" } }"#),
        route("part", r#"match = { path = "/e/v{n}.json" }"#),
    ];
    expect(
        &routes.concat(),
        &[
            ("/", "root"),
            ("/a/7", "one"),
            ("/a/", "no_route"),
            ("/a/7/", "no_route"),
            ("/a/7/8", "no_route"),
            ("/b/x", "rest"),
            ("/b/x/y/", "rest"),
            ("/b//", "rest"),
            ("/b/", "no_route"),
            ("/b", "no_route"),
            ("/c/", "slash"),
            ("/c", "no_route"),
            ("/d", "prefix"),
            ("/d/", "prefix"),
            ("/d/x", "prefix"),
            ("/dx", "no_route"),
            ("/e/v1.json", "part"),
            ("/e/v.json", "no_route"),
            ("/%61/7", "no_route"),
        ],
    );
}

#[test]
fn the_order_is_host_then_priority_then_path_then_method_then_headers_then_query_then_file() {
    // Each wins over all that stand before it, although the file's order is theirs.
    let ladder = [
        route("first", r#"match = { path = "/a/{y}" }"#),
        route("query", r#"match = { path = "/a/{y}", query = { q = "1" } }"#),
        route("header", r#"match = { path = "/a/{y}", headers = { h = "1" } }"#),
        route("method", r#"match = { path = "/a/{y}", methods = ["GET"] }"#),
        route("more-literals", r#"match = { path = { prefix = "/a/b" } }"#),
        route("regex", r#"match = { path = { regex = "/a/[b-d]" } }"#),
        route("exact", r#"match = { path = "/a/b" }"#),
        route("priority", "priority = 1"),
        route("wildcard", r#"match = { hosts = ["*.example"] }"#),
        route("longer-wildcard", r#"match = { hosts = ["*.a.example"] }"#),
        route("exact-host", r#"match = { hosts = ["x.a.example"] }"#),
    ];
    let mut asked = asking("x.a.example", "/a/b?q=1");
    asked.headers_mut().insert("h", "1".parse().expect("a header"));
    for count in 1..=ladder.len() {
        let table = table(&ladder[..count].concat());
        assert_eq!(winner(&table, &asked), table.entries()[count - 1].info.name);
    }
    for (one, other) in [(r#""/a/{x}""#, r#""/a/{y}""#), (r#"{ regex = "/a/." }"#, r#"{ regex = "/[a]/b" }"#)] {
        let pair = [("first", one), ("second", other)]
            .map(|(name, path)| route(name, &format!("match = {{ path = {path} }}")));
        assert_eq!(winner(&table(&pair.concat()), &asked), "first");
    }
}

#[test]
fn a_route_that_does_not_match_falls_through_to_the_next() {
    let routes = [
        route("any", ""),
        route("wildcard", r#"match = { hosts = ["*.example"], path = { prefix = "/a" } }"#),
        route("canary", r#"match = { hosts = ["a.example"], path = "/a/b", headers = { x-env = "canary" } }"#),
        route(
            "pattern",
            r#"match = { hosts = ["a.example"], path = "/a/{id}", query = { debug = { present = false } } }"#,
        ),
    ];
    expect(&routes.concat(), &[("/a/b", "pattern"), ("/a/b?debug", "wildcard"), ("/b", "any")]);
}

#[test]
fn any_of_several_matches_will_do() {
    let either = r#"match = [{ path = { prefix = "/shop" }, headers = { x = "1" } }, { path = "/shop", query = { debug = "1" } }]"#;
    let table = table(&route("canary", either));
    assert_eq!(winner(&table, &asking("a.example", "/shop?debug=1")), "canary");
    assert_eq!(table.find(&asking("a.example", "/shop?debug=1")).expect("a hit").alternative, 1);
    assert_eq!(winner(&table, &asking("a.example", "/shop")), "no_route");
}

#[tokio::test]
async fn only_a_wrong_method_is_405_and_says_which_would_do() {
    let app = gateway(
        &[
            route("read", r#"match = { path = "/a/{id}", methods = ["GET"] }"#),
            route("write", r#"match = { path = { prefix = "/a" }, methods = ["PUT", "DELETE"] }"#),
            route("canary", r#"match = { path = "/a/{id}", methods = ["PATCH"], headers = { x = "1" } }"#),
        ]
        .concat(),
    );
    let answer = app.send(request("POST", "/a/7")).await.expect_status(405).expect_cause(Cause::MethodNotAllowed);
    answer.expect_header("allow", "DELETE, GET, HEAD, PUT");
    app.send(request("PATCH", "/b")).await.expect_status(404).expect_cause(Cause::NoRoute);
    app.send(request("HEAD", "/a/7")).await.expect_status(200);
    app.send(request("BREW", "/a/7")).await.expect_status(405);
}

#[tokio::test]
async fn the_chain_finds_the_route_its_captures_and_its_prefix() {
    let seen = |toml: String, target: &'static str| async move {
        let routes = routes(&toml);
        let mut entry = entry(&routes[0]).expect("an answer");
        let (tell, told) = tokio::sync::oneshot::channel::<MatchedRoute>();
        let tell = std::sync::Mutex::new(Some(tell));
        entry.answer = crate::layer::hop(move |request| {
            let matched = request.extensions().get::<MatchedRoute>().cloned();
            let tell = tell.lock().expect("no panic").take().expect("asked once");
            tell.send(matched.expect("the router says what matched")).expect("somebody listens");
            crate::Running::ready(crate::Response::default())
        });
        let setting =
            Setting { routes: Some(Arc::new(Table::build(vec![entry]).expect("a table"))), ..Setting::default() };
        let app = Chain::new(vec![setting.build::<Router>("").expect("a router")]);
        let answer = app.get(target).await;
        assert_eq!(answer.exchange.route().expect("a route").name, "r");
        told.await.expect("it was asked")
    };
    let matched = seen(route("r", r#"match = { path = "/{service}/v{n}/{*rest}" }"#), "/orders/v2/a//b").await;
    assert_eq!((matched.capture("service"), matched.capture("n")), (Some("orders"), Some("2")));
    assert_eq!((matched.capture("rest"), matched.capture("x"), matched.prefix), (Some("a//b"), None, 0));
    let matched = seen(route("r", r#"match = { path = { prefix = "/shop/" } }"#), "/shop/cart").await;
    assert_eq!(matched.prefix, "/shop".len());
    let matched = seen(route("r", r#"match = { path = { regex = "/(?<service>[a-z]+)(/.*)?" } }"#), "/orders/7").await;
    assert_eq!((matched.capture("service"), matched.prefix), (Some("orders"), 0));
}

#[tokio::test]
async fn the_client_is_judged_by_its_address_and_an_unknown_one_is_refused() {
    let routes =
        [route("office", r#"match = { clients = ["10.0.0.0/8", "2001:db8::/32"] }"#), route("others", "priority = -1")]
            .concat();
    let app = gateway(&routes);
    for (ip, expected) in
        [("10.1.2.3", "office"), ("::ffff:10.1.2.3", "office"), ("2001:db8::1", "office"), ("192.0.2.1", "others")]
    {
        app.clone().client(ip).get("/").await.expect_body(expected);
    }
    app.from_client(None).get("/").await.expect_status(403).expect_cause(Cause::IpNotAllowed);
}

#[tokio::test]
async fn a_split_sends_every_request_somewhere() {
    let app = gateway("[[route]]\nsplit = [{ service = \"a\", weight = 1 }, { service = \"b\", weight = 0 }]");
    for _ in 0..20 {
        app.get("/").await.expect_body("a");
    }
}

#[test]
fn what_has_no_path_is_only_taken_by_a_route_for_any_path() {
    let routes = [route("any", ""), route("path", r#"match = { path = "/{*rest}" }"#)].concat();
    expect(&routes, &[("*", "any")]);
    expect(&route("path", r#"match = { path = "/{*rest}" }"#), &[("*", "no_route")]);
}

// ---- promises on files and requests that nobody thought of

const SEGMENTS: [&str; 7] = ["a", "b", "v1", "v2.json", "", "{x}", "v{x}"];

fn path_rule() -> impl Strategy<Value = String> {
    let segments = || prop::collection::vec(prop::sample::select(SEGMENTS.to_vec()), 0..4);
    let pattern = (segments(), any::<bool>()).prop_map(|(segments, rest)| {
        // Names must differ within a pattern.
        let mut path = String::new();
        for (at, segment) in segments.iter().enumerate() {
            path.push('/');
            path.push_str(&segment.replace('x', &format!("x{at}")));
        }
        if rest {
            path.push_str("/{*rest}")
        } else if path.is_empty() {
            path.push('/')
        }
        format!("path = \"{path}\"")
    });
    let prefix = prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/v1"]);
    let regex = prop::sample::select(vec!["/a.*", "/[ab]/v[0-9]", "/a|/b", "/v1/?", "/a/b"]);
    prop_oneof![
        4 => pattern,
        2 => prefix.prop_map(|prefix| format!("path = {{ prefix = \"{prefix}\" }}")),
        1 => regex.prop_map(|regex| format!("path = {{ regex = \"{regex}\" }}")),
        1 => Just("methods = []".to_owned()),
    ]
}

const HOSTS: [&str; 5] = ["a.example", "b.example", "x.a.example", "*.example", "*.a.example"];
const CONDITIONS: [&str; 6] = [
    "methods = [\"GET\"]",
    "methods = [\"POST\", \"PUT\"]",
    "headers = { h = \"1\" }",
    "query = { q = { present = true } }",
    "cookies = { c = { regex = \"[0-9]+\" } }",
    "clients = [\"10.0.0.0/8\"]",
];

/// A route's match, as one inline table.
fn matching() -> impl Strategy<Value = String> {
    let hosts = prop::sample::subsequence(HOSTS.to_vec(), 0..3);
    let conditions = prop::sample::subsequence(vec![0usize, 2, 3, 4, 5], 0..3);
    (path_rule(), hosts, conditions, 0..2usize).prop_map(|(path, hosts, conditions, shift)| {
        let mut keys = vec![format!("hosts = {hosts:?}"), path.clone()];
        for at in conditions.into_iter().filter(|at| *at != 0 || !path.starts_with("methods")) {
            keys.push(CONDITIONS[if at == 0 { shift } else { at }].to_owned());
        }
        format!("{{ {} }}", keys.join(", "))
    })
}

/// Some routes: matches and priority. A route's name is its number.
fn some_routes() -> impl Strategy<Value = Vec<(Vec<String>, i32)>> {
    prop::collection::vec((prop::collection::vec(matching(), 1..3), prop::sample::select(vec![0, 0, 0, 1, -1])), 0..12)
}

fn written(routes: &[(Vec<String>, i32)]) -> String {
    let one = |(number, (matches, priority)): (usize, &(Vec<String>, i32))| {
        route(&format!("r{number}"), &format!("match = [{}]\npriority = {priority}", matches.join(", ")))
    };
    routes.iter().enumerate().map(one).collect()
}

fn some_request() -> impl Strategy<Value = Request> {
    let segment = prop::sample::select(vec!["a", "b", "v1", "v2.json", "v", "", "x", "%61", "."]);
    let path = prop::collection::vec(segment, 0..5).prop_map(|segments| format!("/{}", segments.join("/")));
    let host = prop::sample::select(vec!["a.example", "B.example:80", "x.a.example.", "y.x.a.example", "c", ""]);
    let query = prop::sample::select(vec!["", "?q", "?q=2&r=%20+", "?=&&"]);
    let method = prop::sample::select(vec!["GET", "POST", "HEAD", "DELETE"]);
    let (header, cookie, ip) = (any::<bool>(), any::<bool>(), prop::sample::select(vec!["", "10.0.0.1", "192.0.2.1"]));
    (path, host, query, method, header, cookie, ip).prop_map(|(path, host, query, method, header, cookie, ip)| {
        let mut asked = asking(host, "/");
        // Some of these begin with `//`, which only a path as it is can hold.
        *asked.uri_mut() = http::uri::PathAndQuery::try_from(format!("{path}{query}")).expect("a target").into();
        *asked.method_mut() = method.parse().expect("a method");
        if header {
            asked.headers_mut().insert("h", "1".parse().expect("a header"));
        }
        if cookie {
            asked.headers_mut().insert("cookie", "b=x; c=42".parse().expect("a header"));
        }
        if !ip.is_empty() {
            Exchange::new(arrival(ip), &asked).attach(&mut asked);
        }
        asked
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn explain_names_the_winner_that_find_finds(routes in some_routes(), asked in some_request()) {
        let table = table(&written(&routes));
        let told = table.explain(&asked);
        let with = |outcome| told.iter().filter(|one| one.outcome == outcome).collect::<Vec<_>>();
        let (won, undecided) = (with(Outcome::Won), with(Outcome::Undecided));
        match table.find(&asked) {
            Ok(hit) => {
                prop_assert_eq!((won.len(), undecided.len()), (1, 0));
                prop_assert_eq!(&won[0].route, &hit.entry.info);
                prop_assert_eq!(won[0].alternative, hit.alternative);
            }
            Err(super::Miss::ClientUnknown(_)) => prop_assert_eq!((won.len(), undecided.len()), (0, 1)),
            Err(_) => prop_assert!(told.iter().all(|one| matches!(one.outcome, Outcome::Failed(_)))),
        }
        prop_assert_eq!(told.len(), routes.iter().map(|(matches, _)| matches.len()).sum::<usize>());
        // Those that match stand behind the winner: the list is in the order of trying.
        let first = told.iter().find(|one| !matches!(one.outcome, Outcome::Failed(_)));
        prop_assert!(first.is_none_or(|one| !matches!(one.outcome, Outcome::Lost(_))));
    }

    #[test]
    fn the_winner_is_the_first_in_the_order_among_those_that_match_alone(routes in some_routes(), asked in some_request()) {
        // Each match in a table of its own says whether it matches; the order of what does is the explanation's.
        let whole = table(&written(&routes));
        let alone: Vec<bool> = whole.explain(&asked).iter().map(|one| {
            let number: usize = one.route.name[1..].parse().expect("a number");
            let (matches, priority) = &routes[number];
            let single = table(&written(&[(vec![matches[one.alternative].clone()], *priority)]));
            matches!(single.find(&asked), Ok(_) | Err(super::Miss::ClientUnknown(_)))
        }).collect();
        let first = alone.iter().position(|matches| *matches);
        let won = whole.explain(&asked).iter().position(|one| matches!(one.outcome, Outcome::Won | Outcome::Undecided));
        prop_assert_eq!(first, won);
    }

    #[test]
    fn permuting_routes_that_the_order_tells_apart_changes_no_decision(
        routes in some_routes(), asked in some_request(), seed in any::<u64>(),
    ) {
        let parsed = super::testing::routes(&written(&routes));
        let before = table_of(&parsed).expect("a table");
        let mut shuffled: Vec<_> = parsed.iter().map(|route| entry(route).expect("an answer")).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        for (order, entry) in shuffled.iter_mut().enumerate() {
            entry.order = order;
        }
        let after = Table::build(shuffled).expect("a table");
        let by_file_order = before.explain(&asked).iter().chain(&after.explain(&asked)).any(|one| {
            matches!(one.outcome, Outcome::Lost(super::Criterion::FileOrder | super::Criterion::RegexOrder))
        });
        if !by_file_order {
            prop_assert_eq!(winner(&before, &asked), winner(&after, &asked));
        }
    }

    #[test]
    fn a_route_on_one_host_never_changes_another_host(routes in some_routes(), more in some_routes(), asked in some_request()) {
        let before = table(&written(&routes));
        let elsewhere = more.into_iter().map(|(matches, priority)| {
            let moved = matches.iter().map(|one| {
                let (_, rest) = one.split_once("], ").expect("hosts come first");
                format!("{{ hosts = [\"elsewhere.net\", \"*.elsewhere.net\"], {rest}")
            });
            (moved.collect(), priority)
        });
        let all: Vec<_> = routes.iter().cloned().chain(elsewhere).collect();
        prop_assert_eq!(winner(&before, &asked), winner(&table(&written(&all)), &asked));
    }

    #[test]
    fn a_route_that_check_calls_hopeless_never_wins(
        routes in some_routes(), asked in prop::collection::vec(some_request(), 20),
    ) {
        let parsed = super::testing::routes(&written(&routes));
        let table = table_of(&parsed).expect("a table");
        let findings = super::check(&claims(&parsed, &["web"]), &[Vec::new()]);
        for asked in &asked {
            let winner = winner(&table, asked);
            let hopeless = format!("route `{winner}` never wins");
            prop_assert!(!findings.iter().any(|finding| finding.sentence.starts_with(&hopeless)), "{hopeless}: {asked:?}");
        }
    }

    #[test]
    fn no_request_makes_it_panic(
        routes in some_routes(), method in "[A-Z]{1,8}", target in "[/*]?[!-~]{0,40}", host in "[ -~]{0,30}", cookie in "[ -~]{0,30}",
    ) {
        let table = table(&written(&routes));
        let built = http::Request::builder().method(&*method).uri(&*target).header("host", &*host).header("cookie", &*cookie);
        if let Ok(asked) = built.body(axum::body::Body::empty()) {
            let _ = table.find(&asked);
            table.explain(&asked);
        }
    }

    #[test]
    fn on_what_matchit_knows_it_agrees_with_matchit(
        patterns in prop::collection::vec(path_rule().prop_filter("patterns", |rule| rule.starts_with("path = \"")), 0..8),
        asked in some_request(),
    ) {
        let mut reference = matchit::Router::new();
        let mut ours = Vec::new();
        for rule in &patterns {
            let pattern = rule["path = \"".len()..rule.len() - 1].to_owned();
            // What matchit refuses beside the others is not common ground.
            if reference.insert(pattern, ours.len()).is_ok() {
                ours.push((vec![format!("{{ {rule} }}")], 0));
            }
        }
        let table = table(&written(&ours));
        let path = asked.uri().path();
        match (table.find(&asked), reference.at(path)) {
            (Ok(hit), Ok(found)) if hit.entry.info.name == format!("r{}", found.value) => {
                let captured = hit.matched.captures.list();
                prop_assert_eq!(captured, found.params.iter().collect::<Vec<_>>());
            }
            // matchit takes the first literal segment it can, we count the literal segments of the whole path.
            (Ok(hit), Ok(found)) => {
                let (other, _) = &ours[*found.value];
                let alone = super::testing::table(&written(&[(other.clone(), 0)]));
                prop_assert!(alone.find(&asked).is_ok(), "{} beside {}", other[0], hit.entry.info.name);
            }
            (Err(_), Err(_)) => {}
            (ours, reference) => prop_assert!(false, "{path}: {:?} and {:?}", ours.map(|hit| hit.entry.info.name.clone()), reference.map(|found| *found.value)),
        }
    }
}

#[test]
fn the_method_of_a_hit_is_among_those_of_allow() {
    let table = table(&route("get", r#"match = { methods = ["GET"] }"#));
    let mut asked = request("POST", "/");
    assert_eq!(crate::Rejection::from(table.find(&asked).expect_err("a miss")).code(), StatusCode::METHOD_NOT_ALLOWED);
    *asked.method_mut() = Method::HEAD;
    assert!(table.find(&asked).is_ok());
}

#[test]
fn a_lookup_allocates_nothing() {
    let routes = [
        route("exact", r#"match = { hosts = ["a.example"], path = "/a/b", methods = ["GET"] }"#),
        route(
            "prefix",
            r#"match = { hosts = ["*.example"], path = { prefix = "/app" }, headers = { x = { present = false } } }"#,
        ),
        route("query", r#"match = { path = "/q", query = { debug = "1" }, cookies = { c = { present = false } } }"#),
        route("pattern", r#"match = { path = "/p/{id}" }"#),
    ];
    let table = table(&routes.concat());
    for target in ["/a/b", "/app/x/y", "/q?a=b&debug=1", "/missing", "/p/7"] {
        let asked = asking("a.example", target);
        // Its exchange has shared the target already; the first to do so allocates.
        let _shared = asked.uri().clone();
        let allocations = allocation_counter::measure(|| drop(table.find(&asked)));
        assert_eq!(allocations.count_total, 0, "{target}");
    }
}

#[test]
fn the_page_about_routing_is_true() {
    let page = include_str!("../../../docs/routing.md");
    let blocks: Vec<_> = page.split("```").skip(1).step_by(2).collect();
    assert_eq!(blocks.iter().filter(|block| block.starts_with("toml\n")).count(), 4);
    for pair in blocks.chunks(2) {
        let [file, questions] =
            [pair[0].strip_prefix("toml\n"), pair[1].strip_prefix("text\n")].map(Option::unwrap_or_default);
        let (file, faults) = portcullis_config::File::parse("routing.md", file);
        assert!(!faults.has_errors(), "{}", faults.render(false));
        let table = table_of(&file.expect("a file").routes).expect("a table");
        for question in questions.lines() {
            let (question, expected) = question.split_once('→').expect("a question and its answer");
            let (target, header) = question.trim().split_once("   ").unwrap_or((question.trim(), ""));
            let (method, target) = target.split_once(' ').expect("a method and a target");
            let mut asked = request(method, target);
            if let Some((name, value)) = header.trim().split_once(": ") {
                let name: http::HeaderName = name.parse().expect("a header's name");
                asked.headers_mut().insert(name, value.parse().expect("a header's value"));
            }
            assert_eq!(winner(&table, &asked), expected.trim(), "{question}");
        }
    }
}
