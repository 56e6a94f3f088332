//! The X-Ray middleware, driven by its TOML, before a daemon that checks every document strictly.

mod checker;
mod documents;
mod stage;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use portcullis_middleware::body::CutShort;
use portcullis_middleware::testing::{self, Setting};
use portcullis_middleware::xray::XRay;
use portcullis_middleware::{Cause, Client, Exchange, Origin, Rejection, Response};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use stage::{Daemon, HEADER, Stage, Try, counter, exported, lost, request, the_one};

const ROOT: &str = "1-5759e988-bd862e3fe1be46a994272793";
const PARENT: &str = "53995c3f42cd8ad8";
const ALWAYS: &str = "sampling.mode = \"always\"";
const NEVER: &str = "sampling.mode = \"never\"";

#[test]
fn it_keeps_the_promises_of_every_plugin() {
    testing::conformance::<XRay>();
}

// ---- documents

#[tokio::test]
async fn a_sampled_request_leaves_one_complete_document() {
    let daemon = Daemon::start().await;
    let settings = r#"
        name = "Straße 入口"
        sampling.mode = "always"
        annotations = { team = "orders", tier = 1, share = 0.5, beta = true }
        annotate_headers = { tenant = "x-tenant-id", absent = "x-absent" }
        metadata_headers = ["x-build"]
    "#;
    let stage = Stage::new(&daemon.address(), settings).upstream(&[Try::Answers(200)]);
    let headers = [
        (HEADER, &*format!("Self=1-67891234-12456789abcdef012345678;Root={ROOT};Parent={PARENT}")),
        ("user-agent", "curl/8 \"quoted\""),
        ("x-tenant-id", "müller & söhne"),
        ("x-build", "b77"),
        ("x-amz-cf-id", "cf-1"),
        ("cookie", "session=secret"),
        ("authorization", "Bearer secret"),
    ];
    stage.chain.send(request(&headers)).await.expect_status(200).expect_body("seven").expect_no_header(HEADER);

    let document = daemon.document().await;
    assert_eq!(document["name"], "Straße 入口");
    assert_eq!((&document["trace_id"], &document["parent_id"]), (&json!(ROOT), &json!(PARENT)));
    assert_eq!(
        document["http"],
        json!({
            "request": {
                "method": "GET",
                "url": "http://api.example.com/orders/7",
                "user_agent": "curl/8 \"quoted\"",
                "client_ip": "127.0.0.1",
            },
            "response": { "status": 200, "content_length": 5 },
        })
    );
    assert_eq!(
        document["annotations"],
        json!({
            "team": "orders", "tier": 1, "share": 0.5, "beta": true, "tenant": "müller & söhne",
            "route": "orders", "upstream": "orders-v2", "attempts": 1,
        })
    );
    let metadata = &document["metadata"]["gateway"];
    assert_eq!((&metadata["x-build"], &metadata["x-amz-cf-id"]), (&json!("b77"), &json!("cf-1")));
    assert_eq!(metadata["self"], "1-67891234-12456789abcdef012345678");
    assert!(metadata["first_byte_seconds"].is_f64());
    assert_eq!(document["aws"]["xray"]["sdk"], "Portcullis for Rust");
    for flag in ["error", "throttle", "fault", "cause"] {
        assert_eq!(document.get(flag), None);
    }
    assert!(!document.to_string().contains("secret"));

    let [attempt] = document["subsegments"].as_array().unwrap().as_slice() else { panic!("one attempt: {document}") };
    assert_eq!((&attempt["name"], &attempt["namespace"]), (&json!("orders-v2"), &json!("remote")));
    assert_eq!(
        attempt["http"],
        json!({
            "request": { "method": "GET", "url": "http://10.0.0.1:80/v2/orders/7" },
            "response": { "status": 200, "content_length": 5 },
        })
    );
    assert_eq!(attempt["metadata"]["gateway"]["address"], "10.0.0.1:80");
}

#[tokio::test]
async fn every_attempt_is_a_subsegment_and_its_id_is_the_parent_it_was_sent_with() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), ALWAYS).upstream(&[
        Try::Fails(Cause::ConnectRefused),
        Try::Answers(503),
        Try::Answers(200),
    ]);
    let before = stage.ask(&format!("Root={ROOT};Parent={PARENT};Sampled=1;CalledFrom=app")).await;

    let document = daemon.document().await;
    let attempts = document["subsegments"].as_array().unwrap();
    assert_eq!(attempts.len(), 3);
    for (attempt, headers) in attempts.iter().zip(stage.attempts.lock().unwrap().iter()) {
        let id = attempt["id"].as_str().unwrap();
        assert_eq!(the_one(headers), format!("Root={ROOT};Parent={id};Sampled=1;CalledFrom=app"));
    }
    // Whatever else is sent on, such as a copy to a mirror, is a child of the segment.
    let id = document["id"].as_str().unwrap();
    assert_eq!(before, format!("Root={ROOT};Parent={id};Sampled=1;CalledFrom=app"));

    let [refused, unavailable, fine] = attempts.as_slice() else { unreachable!() };
    assert_eq!((&refused["fault"], refused["http"].get("response")), (&json!(true), None));
    let exception = &refused["cause"]["exceptions"][0];
    assert_eq!((&exception["type"], &exception["remote"]), (&json!("connect_refused"), &json!(true)));
    assert_eq!((&unavailable["fault"], unavailable.get("cause")), (&json!(true), None));
    assert_eq!(unavailable["metadata"]["gateway"]["reason"], "connect_refused");
    assert_eq!((fine.get("fault"), &fine["metadata"]["gateway"]["reason"]), (None, &json!(503)));
    assert_eq!(fine["precursor_ids"], json!([refused["id"], unavailable["id"]]));
    assert_eq!((document.get("fault"), &document["annotations"]["attempts"]), (None, &json!(3)));
}

#[tokio::test]
async fn the_status_becomes_flags() {
    let daemon = Daemon::start().await;
    for (status, flags) in [
        (200, [false, false, false]),
        (302, [false, false, false]),
        (404, [true, false, false]),
        (429, [true, true, false]),
        (500, [false, false, true]),
        (503, [false, false, true]),
    ] {
        let stage = Stage::new(&daemon.address(), ALWAYS).upstream(&[Try::Answers(status)]);
        stage.chain.get("/").await.expect_status(status);
        let document = daemon.document().await;
        for it in [&document, &document["subsegments"][0]] {
            let found = ["error", "throttle", "fault"].map(|flag| it.get(flag).is_some());
            assert_eq!((found, &it["http"]["response"]["status"]), (flags, &json!(status)));
        }
    }
}

#[tokio::test]
async fn what_the_gateway_answers_itself_says_why() {
    let daemon = Daemon::start().await;
    for (cause, status, flag, kind) in [
        (Cause::IpNotAllowed, 403, "error", "ip_not_allowed"),
        (Cause::RateLimited, 429, "throttle", "rate_limited"),
        (Cause::NoInstance, 503, "fault", "no_instance"),
        (Cause::ClientClosed, 499, "error", "client_disconnect"),
    ] {
        let refuse = move |_| async move { Rejection::new(cause).into_response() };
        let stage = Stage::new(&daemon.address(), ALWAYS).answer(refuse);
        stage.chain.get("/").await.expect_status(status).expect_cause(cause);
        let document = daemon.document().await;
        assert_eq!((&document[flag], &document["http"]["response"]["status"]), (&json!(true), &json!(status)));
        assert_eq!(document["cause"]["exceptions"][0]["type"], kind);
        assert_eq!((document.get("subsegments"), document.get("fault").is_some()), (None, status == 503));
    }
}

#[tokio::test]
async fn when_no_instance_answers_it_is_a_fault() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), ALWAYS).upstream(&[Try::Fails(Cause::ConnectTimeout)]);
    stage.chain.get("/").await.expect_status(504);
    let document = daemon.document().await;
    assert_eq!((&document["fault"], &document["subsegments"][0]["fault"]), (&json!(true), &json!(true)));
    assert_eq!(document["cause"]["exceptions"][0]["type"], "connect_timeout");
}

#[tokio::test]
async fn grpc_tells_how_it_went_in_its_trailers() {
    let daemon = Daemon::start().await;
    for (code, flag) in [("0", None), ("5", Some("error")), ("8", Some("throttle")), ("14", Some("fault"))] {
        let answer = move |_| async move {
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(code))]);
            let frames = [Frame::data(Bytes::from_static(b"abc")), Frame::trailers(trailers)].map(Ok::<_, axum::Error>);
            Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
        };
        let stage = Stage::new(&daemon.address(), ALWAYS).answer(answer);
        stage.chain.send(request(&[("content-type", "application/grpc")])).await.expect_status(200);
        let document = daemon.document().await;
        assert_eq!(document["annotations"]["grpc_status"], code.parse::<i64>().unwrap());
        for other in ["error", "throttle", "fault"] {
            let throttled = flag == Some("throttle") && other == "error";
            assert_eq!(document.get(other).is_some(), flag == Some(other) || throttled, "{code} {other}");
        }
    }
}

#[tokio::test]
async fn an_answer_to_head_has_no_length() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), ALWAYS).upstream(&[Try::Answers(200)]);
    // A server drops the body of an answer to HEAD unread; that is no client that left.
    drop(stage.chain.start(testing::request("HEAD", "/")).await);
    let document = daemon.document().await;
    assert_eq!(document["http"]["response"], json!({ "status": 200 }));
    assert_eq!(document.get("error"), None);
}

// ---- endings

fn endless() -> Body {
    let chunk = || async { Some((Ok::<_, axum::Error>(Frame::data(Bytes::from_static(b"chunk"))), ())) };
    Body::new(StreamBody::new(futures_util::stream::unfold((), move |()| chunk())))
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_body_is_an_error_and_no_fault() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), ALWAYS).answer(|_| async { Response::new(endless()) });
    let mut response = stage.chain.start(request(&[])).await.response;
    response.body_mut().frame().await.unwrap().unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    let document = daemon.document().await;
    assert_eq!(document["http"]["response"], json!({ "status": 200, "content_length": 10 }));
    assert_eq!((&document["error"], document.get("fault")), (&json!(true), None));
    assert_eq!(document["cause"]["exceptions"][0]["type"], "client_disconnect");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_a_499() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), ALWAYS).answer(|_| std::future::pending());
    let mut asking = Box::pin(stage.chain.start(request(&[])));
    assert!(futures_util::poll!(&mut asking).is_pending());
    drop(asking);
    let document = daemon.document().await;
    assert_eq!(document["http"]["response"], json!({ "status": 499 }));
    assert_eq!((&document["error"], document.get("fault")), (&json!(true), None));
    assert_eq!(document["cause"]["exceptions"][0]["type"], "client_disconnect");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_fault_and_says_why() {
    let daemon = Daemon::start().await;
    // What a timeout of ours had cut was blamed on the upstream.
    let breaks: [(fn() -> axum::Error, _); 2] = [
        (|| axum::Error::new(std::io::Error::other("reset")), "reset_after_headers"),
        (|| axum::Error::new(CutShort(Cause::RouteTimeout)), "route_timeout"),
    ];
    for (error, kind) in breaks {
        let stage = Stage::new(&daemon.address(), ALWAYS).answer(move |request| async move {
            let exchange = Exchange::of(&request).into_owned();
            exchange.begin_attempt("s".into(), "i".into(), request.uri(), &mut HeaderMap::new());
            exchange.note_attempt(1, |attempt| attempt.status = Some(http::StatusCode::OK));
            let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(error())];
            Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
        });
        assert!(stage.chain.send(request(&[])).await.broken.is_some());
        let document = daemon.document().await;
        assert_eq!(document["http"]["response"], json!({ "status": 200, "content_length": 4 }));
        for it in [&document, &document["subsegments"][0]] {
            assert_eq!((&it["fault"], it.get("error")), (&json!(true), None));
            assert_eq!(it["cause"]["exceptions"][0]["type"], kind);
        }
    }
}

#[tokio::test]
async fn a_panic_further_down_is_a_fault() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), ALWAYS).answer(|_| async { panic!("this one is meant") });
    let chain = stage.chain.clone();
    assert!(tokio::spawn(async move { chain.start(request(&[])).await.exchange }).await.is_err());
    let document = daemon.document().await;
    assert_eq!((&document["fault"], &document["cause"]["exceptions"][0]["type"]), (&json!(true), &json!("panic")));
}

// ---- headers

#[tokio::test]
async fn a_load_balancers_root_without_parent_is_continued() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), ALWAYS).upstream(&[Try::Answers(200)]);
    let sent = stage.ask(&format!("Root={ROOT}")).await;
    let document = daemon.document().await;
    assert_eq!((&document["trace_id"], document.get("parent_id")), (&json!(ROOT), None));
    assert_eq!(sent, format!("Root={ROOT};Parent={};Sampled=1", document["id"].as_str().unwrap()));
}

#[tokio::test]
async fn unsampled_requests_keep_root_and_parent_and_leave_nothing() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), NEVER).upstream(&[Try::Answers(200)]);
    let whole = format!("Root={ROOT};Parent={PARENT}");
    for (came, goes) in [
        (format!("{whole};Sampled=0"), format!("{whole};Sampled=0")),
        (whole.clone(), format!("{whole};Sampled=0")),
        (format!("{whole};Sampled=?"), format!("{whole};Sampled=0")),
        (format!("Root={ROOT}"), format!("Root={ROOT};Sampled=0")),
        (format!("Root={ROOT};Parent=0000000000000000"), format!("Root={ROOT};Sampled=0")),
        (
            format!("Self=1-2-3;Root={ROOT};Lineage=1:deadbeef:0;CalledFrom=app;x"),
            format!("Root={ROOT};Sampled=0;Lineage=1:deadbeef:0;CalledFrom=app"),
        ),
    ] {
        assert_eq!(stage.ask(&came).await, goes);
        assert_eq!(the_one(stage.attempts.lock().unwrap().last().unwrap()), goes);
    }
    stage.stop().await;
    assert_eq!(exported(&daemon.address()), 0);
}

#[tokio::test]
async fn several_headers_become_one() {
    let stage = Stage::new("127.0.0.1:2000", NEVER);
    let headers = [(HEADER, "Root=bad"), (HEADER, &*format!("Root={ROOT};Sampled=0")), (HEADER, "Root=1-2-3")];
    stage.chain.send(request(&headers)).await;
    assert_eq!(the_one(&stage.chain.last_seen().headers), format!("Root={ROOT};Sampled=0"));
}

#[tokio::test]
async fn a_bad_root_begins_a_new_trace_and_is_counted() {
    let stage = Stage::new("127.0.0.1:2000", NEVER);
    let bad = |reason| counter("xray_bad_header_total", &[("reason", reason)]);
    let before = bad("root");
    for header in [
        "Root=1-00000000-000000000000000000000000;Sampled=1;CalledFrom=app",
        "Root=2-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
        "Root=1-5759e988;Sampled=1",
    ] {
        let sent = stage.ask(header).await;
        let root = sent.strip_prefix("Root=").and_then(|rest| rest.strip_suffix(";Sampled=0")).expect(&sent);
        assert_eq!((root.len(), header.contains(root)), (35, false));
    }
    assert_eq!(bad("root") - before, 3);
    // No trace could ever be told from the epoch of 1970.
    let sent = stage.ask("").await;
    assert!(u64::from_str_radix(&sent["Root=1-".len()..][..8], 16).unwrap() > 1_700_000_000);
}

#[tokio::test]
async fn a_stranger_cannot_choose_the_trace_or_the_sampling() {
    let daemon = Daemon::start().await;
    let foreign = format!("Root={ROOT};Parent={PARENT};Sampled=1;CalledFrom=app");
    for settings in [NEVER.to_owned(), format!("{NEVER}\ntrust = \"link\"")] {
        let stage = Stage::new(&daemon.address(), &settings).stranger();
        let sent = stage.ask(&foreign).await;
        assert!(!sent.contains(ROOT) && !sent.contains("Parent") && sent.ends_with(";Sampled=0"), "{sent}");
    }
    let trusting_nobody = Stage::new(&daemon.address(), &format!("{NEVER}\ntrust = \"never\""));
    assert!(!trusting_nobody.ask(&foreign).await.contains(ROOT));
    // `Sampled=0` cannot blind us either, and an untrusted `?` is no question.
    let stage = Stage::new(&daemon.address(), ALWAYS).stranger();
    stage.ask(&format!("Root={ROOT};Sampled=0")).await;
    assert_ne!(daemon.document().await["trace_id"], ROOT);
    stage.chain.send(request(&[(HEADER, &format!("Root={ROOT};Sampled=?"))])).await.expect_no_header(HEADER);
    let trusting = Stage::new(&daemon.address(), &format!("{NEVER}\ntrust = \"always\"")).stranger();
    assert_eq!(trusting.ask(&format!("Root={ROOT};Sampled=0")).await, format!("Root={ROOT};Sampled=0"));
}

#[tokio::test]
async fn what_a_stranger_claims_can_be_kept_as_a_link() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), &format!("{ALWAYS}\ntrust = \"link\"")).stranger();
    stage.ask(&format!("Root={ROOT};Parent={PARENT};Sampled=0")).await;
    let document = daemon.document().await;
    assert_ne!(document["trace_id"], ROOT);
    assert_eq!(document["links"], json!([{ "trace_id": ROOT, "id": PARENT }]));
    assert_eq!(document["metadata"]["gateway"]["claimed_trace"], format!("Root={ROOT};Parent={PARENT}"));
}

#[tokio::test]
async fn a_trusted_decision_stands_over_the_settings() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), NEVER);
    stage.ask(&format!("Root={ROOT};Sampled=1")).await;
    assert_eq!(daemon.document().await["trace_id"], ROOT);
    for mode in ["always", "local", "parent"] {
        let stage = Stage::new(&daemon.address(), &format!("sampling.mode = \"{mode}\""));
        assert_eq!(stage.ask(&format!("Root={ROOT};Sampled=0")).await, format!("Root={ROOT};Sampled=0"));
    }
}

#[tokio::test]
async fn the_answer_names_the_trace_as_the_settings_say() {
    let asked = &*format!("Root={ROOT};Sampled=?");
    let untold = &*format!("Root={ROOT};Parent={PARENT}");
    let foreign = "Root=1-00000001-000000000000000000000001";
    for (mode, came, answer) in [
        ("on_request", asked, Some(format!("Root={ROOT};Sampled=0"))),
        ("on_request", untold, None),
        ("always", asked, Some(format!("Root={ROOT};Sampled=0"))),
        ("always", untold, Some(format!("Root={ROOT}"))),
        ("off", asked, None),
    ] {
        let settings = format!("{NEVER}\nresponse_header = \"{mode}\"");
        let stage = Stage::new("127.0.0.1:2000", &settings).answer(move |_| async move {
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert(HEADER, HeaderValue::from_static(foreign));
            response
        });
        let expected = answer.as_deref().unwrap_or(foreign);
        stage.chain.send(request(&[(HEADER, came)])).await.expect_header(HEADER, expected);
    }
}

#[tokio::test]
async fn without_propagation_headers_pass_untouched() {
    let daemon = Daemon::start().await;
    let settings = format!("{ALWAYS}\npropagation = \"none\"\nresponse_header = \"always\"");
    let stage = Stage::new(&daemon.address(), &settings).upstream(&[Try::Answers(200)]);
    let header = format!("root={ROOT}; Self=x;Sampled=0");
    assert_eq!(stage.ask(&header).await, header);
    assert_eq!(the_one(&stage.attempts.lock().unwrap()[0]), header);
    let document = daemon.document().await;
    assert_ne!(document["trace_id"], ROOT);
    assert_eq!(document["subsegments"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn without_an_exporter_no_parent_is_made_up() {
    let stage = Stage::new("127.0.0.1:2000", &format!("{ALWAYS}\nexporter = \"off\"")).upstream(&[Try::Answers(200)]);
    let header = format!("Root={ROOT};Parent={PARENT};Sampled=1");
    assert_eq!(stage.ask(&header).await, header);
    assert_eq!(the_one(&stage.attempts.lock().unwrap()[0]), header);
}

#[tokio::test]
async fn without_subsegments_attempts_are_children_of_the_segment() {
    let daemon = Daemon::start().await;
    let settings = format!("{ALWAYS}\nsubsegments = \"off\"");
    let stage = Stage::new(&daemon.address(), &settings).upstream(&[Try::Answers(500), Try::Answers(200)]);
    stage.ask(&format!("Root={ROOT}")).await;
    let document = daemon.document().await;
    assert_eq!((document.get("subsegments"), &document["annotations"]["attempts"]), (None, &json!(2)));
    for headers in stage.attempts.lock().unwrap().iter() {
        assert_eq!(the_one(headers), format!("Root={ROOT};Parent={};Sampled=1", document["id"].as_str().unwrap()));
    }
}

#[tokio::test]
async fn a_second_tracer_in_the_chain_continues_the_first() {
    let daemon = Daemon::start().await;
    let (outer, inner) = (Setting::default(), Setting::default());
    let toml = |name| format!("daemon = \"{}\"\nname = \"{name}\"\nqueue.flush = \"0s\"\n{ALWAYS}", daemon.address());
    let mut layers = [outer.build::<XRay>(&toml("outer")).unwrap(), inner.build::<XRay>(&toml("inner")).unwrap()];
    let stop = CancellationToken::new();
    for built in &mut layers {
        std::mem::take(&mut built.tasks).into_iter().for_each(|task| drop(tokio::spawn(task(stop.clone()))));
    }
    testing::Chain::new(layers.into()).send(request(&[(HEADER, &format!("Root={ROOT};Sampled=0"))])).await;
    let (first, second) = (daemon.document().await, daemon.document().await);
    let (outer, inner) = if first["name"] == "outer" { (first, second) } else { (second, first) };
    assert_eq!((&inner["trace_id"], &inner["parent_id"]), (&outer["trace_id"], &outer["id"]));
}

// ---- names, clients

#[tokio::test]
async fn a_listed_host_names_its_segment_and_no_other_host_does() {
    let daemon = Daemon::start().await;
    let settings = format!("{ALWAYS}\nname = \"edge\"\ndynamic_name = [\"*.example.com\"]");
    let stage = Stage::new(&daemon.address(), &settings);
    for (host, name) in [
        ("API.Example.com:8443", "api.example.com"),
        ("a{b}*.example.com", "a_b__.example.com"),
        ("evil.org", "edge"),
        ("", "edge"),
    ] {
        let request = http::Request::get("/").header("host", host).body(Body::empty()).unwrap();
        stage.chain.send(request).await;
        assert_eq!(daemon.document().await["name"], name, "{host}");
    }
}

#[tokio::test]
async fn a_forwarded_clients_address_is_marked_as_hearsay() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), ALWAYS);
    let ip = "2001:db8::7".parse().unwrap();
    let client = Client {
        ip,
        origin: Origin::XForwardedFor(0),
        peer: Some("10.0.0.1:1".parse().unwrap()),
        peer_is_trusted: true,
    };
    stage.chain.clone().scheme("https").from_client(Some(client)).send(request(&[])).await;
    let asked = &daemon.document().await["http"]["request"];
    assert_eq!((&asked["client_ip"], &asked["x_forwarded_for"]), (&json!("2001:db8::7"), &json!(true)));
    assert_eq!(asked["url"], "https://api.example.com/orders/7");
}

#[tokio::test]
async fn long_texts_are_cut_at_characters() {
    let daemon = Daemon::start().await;
    let stage = Stage::new(&daemon.address(), &format!("{ALWAYS}\nannotate_headers = {{ t = \"x-t\" }}"));
    let path = format!("/{}", "p".repeat(400));
    let long = "ü".repeat(2000);
    let request = http::Request::get(path).header("host", "h").header("x-t", long.as_bytes());
    let request = request.header("user-agent", long.as_bytes()).body(Body::empty()).unwrap();
    stage.chain.send(request).await;
    let document = daemon.document().await;
    let length = |value: &Value| value.as_str().unwrap().chars().count();
    assert_eq!(length(&document["http"]["request"]["url"]), 250);
    assert_eq!(length(&document["http"]["request"]["user_agent"]), 250);
    assert_eq!(length(&document["annotations"]["t"]), 200);
}

// ---- sampling

#[tokio::test]
async fn the_reservoir_is_shared_by_those_that_send_to_one_daemon_by_one_rule() {
    let daemon = Daemon::start().await;
    let setting = Setting::default();
    let settings = "sampling = { reservoir = 3, rate = 0.0 }";
    let (one, two) =
        (Stage::within(&setting, &daemon.address(), settings), Stage::within(&setting, &daemon.address(), settings));
    let (one, two) = (one.start(), two.start());
    let mut sampled = 0;
    let second = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let begun = second();
    for _ in 0..10 {
        for stage in [&one, &two] {
            sampled += u64::from(stage.ask("").await.ends_with("Sampled=1"));
        }
    }
    let seconds = second() - begun + 1;
    assert!((3..=3 * seconds).contains(&sampled), "{sampled} in {seconds} seconds");
}

#[tokio::test]
async fn decisions_are_counted_by_who_made_them() {
    let decided = |decision, source| counter("xray_requests_total", &[("decision", decision), ("source", source)]);
    let stage = Stage::new("127.0.0.1:2000", NEVER);
    let before = (decided("sampled", "header"), decided("not_sampled", "route"));
    stage.ask(&format!("Root={ROOT};Sampled=1")).await;
    stage.ask("").await;
    assert!(decided("sampled", "header") > before.0 && decided("not_sampled", "route") > before.1);
}

// ---- queue and daemon

#[tokio::test]
async fn a_full_queue_drops_what_is_new_and_counts_it() {
    let daemon = Daemon::start().await;
    let settings = format!("{ALWAYS}\nqueue = {{ documents = 2, flush = \"0s\" }}");
    let stage = Stage::within(&Setting::default(), &daemon.address(), &settings).upstream(&[Try::Answers(200)]);
    for n in 0..5 {
        stage.chain.get(&format!("/{n}")).await;
    }
    assert_eq!(lost(&daemon.address(), "queue_full"), 3);
    assert_eq!(counter("xray_queue_len", &[("destination", &daemon.address())]), 2);
    // A fault has a lane of its own.
    let faulty = stage.upstream(&[Try::Answers(500)]);
    faulty.chain.get("/fault").await;
    assert_eq!(lost(&daemon.address(), "queue_full"), 3);

    let _running = faulty.start();
    let mut paths = Vec::new();
    for _ in 0..3 {
        paths.push(daemon.document().await["http"]["request"]["url"].as_str().unwrap().to_owned());
    }
    assert_eq!(paths, ["/fault", "/0", "/1"]);
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes_as_well() {
    let settings = format!("{ALWAYS}\nqueue = {{ bytes = \"16KiB\" }}");
    let stage = Stage::within(&Setting::default(), "127.0.0.1:9", &settings);
    for _ in 0..10 {
        let request = http::Request::get(format!("/{}", "x".repeat(8000))).body(Body::empty()).unwrap();
        stage.chain.send(request).await;
    }
    assert_eq!(lost("127.0.0.1:9", "queue_full"), 9);
    assert!(counter("xray_queue_bytes", &[("destination", "127.0.0.1:9")]) <= 16 * 1024);
}

#[tokio::test]
async fn a_daemon_that_goes_away_and_comes_back_gets_what_follows() {
    let daemon = Daemon::start().await;
    let address = daemon.address();
    let stage = Stage::new(&address, ALWAYS);
    stage.chain.get("/before").await;
    assert_eq!(daemon.document().await["http"]["request"]["url"], "/before");
    drop(daemon);

    for refused in 1..=3 {
        stage.chain.get("/while").await.expect_status(200);
        until(|| lost(&address, "daemon_refused") == refused).await;
    }
    let daemon = Daemon::start_at(&address).await;
    stage.chain.get("/after").await;
    assert_eq!(daemon.document().await["http"]["request"]["url"], "/after");
    until(|| exported(&address) == 2).await;
    assert_eq!(lost(&address, "daemon_refused"), 3);
}

/// Lets the other tasks run until something has happened.
async fn until(happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it happens");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_counted_and_fails_nothing() {
    let address = "no-such-host.invalid:2000";
    let stage = Stage::new(address, ALWAYS);
    stage.chain.get("/").await.expect_status(200);
    until(|| lost(address, "daemon_refused") == 1).await;
}

#[tokio::test]
async fn a_daemon_is_found_by_name_whichever_of_its_addresses_it_listens_on() {
    let daemon = Daemon::start().await;
    let port = daemon.address().rsplit(':').next().unwrap().to_owned();
    let stage = Stage::new(&format!("localhost:{port}"), ALWAYS);
    // With ::1 first, documents are lost to it until, a second later, the other address has its turn.
    let asking = async {
        loop {
            stage.chain.get("/").await;
            tokio::task::yield_now().await;
        }
    };
    let document = tokio::select! {
        document = daemon.document() => document,
        () = asking => unreachable!(),
    };
    assert_eq!(document["http"]["request"]["url"], "/");
}

#[tokio::test]
async fn ipv6_works() {
    let Ok(probe) = std::net::UdpSocket::bind("[::1]:0") else { return };
    let address = probe.local_addr().unwrap().to_string();
    drop(probe);
    let daemon = Daemon::start_at(&address).await;
    let stage = Stage::new(&format!("tcp:127.0.0.1:1 udp:{address}"), ALWAYS);
    stage.chain.get("/").await;
    daemon.document().await;
}

#[tokio::test]
async fn a_stopping_gateway_sends_what_waits() {
    let daemon = Daemon::start().await;
    let stage =
        Stage::within(&Setting::default(), &daemon.address(), &format!("{ALWAYS}\nqueue.flush = \"1h\"")).start();
    for _ in 0..10 {
        stage.chain.get("/").await;
    }
    stage.stop().await;
    for _ in 0..10 {
        daemon.document().await;
    }
    assert_eq!(exported(&daemon.address()), 10);
}

#[tokio::test]
async fn what_could_not_be_sent_in_time_is_counted() {
    let daemon = Daemon::start().await;
    let settings = format!("{ALWAYS}\nqueue = {{ flush = \"1h\", shutdown_flush = \"0s\" }}");
    let stage = Stage::within(&Setting::default(), &daemon.address(), &settings);
    for _ in 0..10 {
        stage.chain.get("/").await;
    }
    stage.start().stop().await;
    assert_eq!(exported(&daemon.address()) + lost(&daemon.address(), "shutdown"), 10);
    assert_eq!(counter("xray_queue_len", &[("destination", &daemon.address())]), 0);
}

#[tokio::test]
async fn a_reload_goes_on_with_the_same_queue() {
    let daemon = Daemon::start().await;
    let setting = Setting { shared: Arc::default(), ..Setting::default() };
    let old = Stage::within(&setting, &daemon.address(), ALWAYS).start();
    let new = Stage::within(&setting, &daemon.address(), &format!("{ALWAYS}\nname = \"new\"")).start();
    let chain = old.chain.clone();
    old.stop().await;
    // A request of the old plan that is still under way ends up in the queue that the new plan's task empties.
    chain.get("/").await;
    assert_eq!(daemon.document().await["name"], "edge-gateway");
    new.chain.get("/").await;
    assert_eq!(daemon.document().await["name"], "new");
}

// ---- settings

#[test]
fn what_this_version_does_not_do_is_refused_at_its_place() {
    for (toml, key, place) in [
        ("exporter = \"api\"", "exporter", "1:12"),
        ("exporter = \"otlp\"", "exporter", "1:12"),
        ("region = \"eu-west-1\"", "region", "1:10"),
        ("platform = \"auto\"", "platform", "1:12"),
        ("propagation = \"both\"", "propagation", "1:15"),
        ("propagation = \"w3c\"", "propagation", "1:15"),
        ("sampling = { mode = \"central\" }", "mode", "1:21"),
        ("sampling = { local_rules = \"rules.json\" }", "local_rules", "1:28"),
        ("sampling = { adaptive = true }", "adaptive", "1:25"),
        ("otlp = { endpoint = \"https://xray.eu-west-1.amazonaws.com\" }", "otlp", "1:8"),
        ("subsegments = \"full\"", "subsegments", "1:15"),
        ("in_progress_after = \"10s\"", "in_progress_after", "1:21"),
        ("capture_errors_per_second = 1", "capture_errors_per_second", "1:29"),
    ] {
        let faults = refused(toml);
        assert!(faults.contains(&format!("`{key}`")) && faults.contains("this version"), "{faults}");
        assert!(faults.contains(&format!("xray.toml:{place}")), "{place}: {faults}");
    }
}

#[test]
fn wrong_settings_are_refused_all_at_once() {
    for (toml, said) in [
        ("name = \"a{b}\"", "`name` has '{'"),
        ("name = \"\"", "`name` is empty"),
        ("daemon = \"\"", "`daemon` is empty"),
        ("daemon = \"127.0.0.1\"", "`daemon` has no `host:port`"),
        ("daemon = \"127.0.0.1:0\"", "`daemon` has no `host:port`"),
        ("daemon = \"tcp:127.0.0.1:2000\"", "`daemon` must be"),
        ("sampling = { rate = 1.5 }", "`rate` is 1.5"),
        ("sampling = { rate = -0.1 }", "`rate` is -0.1"),
        ("sampling = { reservoir = -1 }", "`reservoir` must be a whole number"),
        ("annotations = { \"a.b\" = 1 }", "`a.b` cannot be an annotation's key"),
        ("annotations = { a = \"\" }", "`a` is empty"),
        ("annotations = { a = [] }", "`a` must be a string, a number or a boolean"),
        ("annotations = { a = nan }", "`a` must be a number"),
        ("annotations = { a = 1 }\nannotate_headers = { a = \"x-a\" }", "`a` is in `annotations` as well"),
        ("annotate_headers = { a = \"cookie\" }", "`a` would record `cookie`"),
        ("metadata_headers = [\"Authorization\"]", "would record `authorization`"),
        ("queue = { documents = 0 }", "`documents` must be 1 to"),
        ("queue = { bytes = \"0B\" }", "`bytes` leaves no room"),
        ("trust = \"everybody\"", "`trust` cannot be `everybody`"),
    ] {
        let faults = refused(toml);
        assert!(faults.contains(said), "{said}: {faults}");
    }
    let many: String = (0..51).map(|n| format!("k{n} = 1, ")).collect();
    assert!(refused(&format!("annotations = {{ {many} }}")).contains("makes 51 annotations"));
    let both = refused("name = \"\"\ndaemon = \"\"\nsampling.rate = 7");
    assert!(["name", "daemon", "rate"].iter().all(|key| both.contains(&format!("`{key}`"))), "{both}");
}

#[track_caller]
fn refused(toml: &str) -> String {
    testing::build::<XRay>(toml).err().unwrap_or_else(|| panic!("{toml} should be refused"))
}

#[test]
fn settings_without_effect_are_warned_of() {
    let warned = |toml| testing::build::<XRay>(toml).unwrap().warnings;
    assert!(warned("sampling = { mode = \"always\", rate = 0.5 }").contains("`rate` has no effect"));
    assert!(warned("queue.shutdown_flush = \"1m\"").contains("`shutdown_flush` is more than"));
    assert_eq!(warned(""), "");
}
