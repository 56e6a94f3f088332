//! gRPC through the gateway: calls of all four kinds, and every way in which one ends.

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use support::gateway::Running;
use support::grpc::{Caller, Server};
use support::logged::Logged;
use support::python;
use support::{Fake, nobody};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

/// A route for every call, with `keys` of its own, to a service.
fn service(instance: &str, keys: &str) -> String {
    format!("[[route]]\nservice = \"echo\"\n{keys}\n[service.echo]\ninstances = [{instance}]\nprotocol = \"h2c\"\n")
}

async fn through(server: &Server, keys: &str) -> (Running, Caller) {
    let gateway = Running::start(&service(&format!("\"{}\"", server.address), keys)).await;
    let caller = Caller::connect(gateway.address).await;
    (gateway, caller)
}

fn message(text: &'static str) -> Request<Bytes> {
    Request::new(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn calls_of_all_four_kinds_pass() {
    let server = Server::start().await;
    let (_gateway, caller) = through(&server, "").await;
    assert_eq!(caller.unary("Unary", message("hello")).await.unwrap().into_inner(), "hello");
    let joined = caller.join(stream::iter(["one", "two", "three"].map(Bytes::from))).await.unwrap();
    assert_eq!(joined.into_inner(), "onetwothree");
    let parts: Vec<_> = caller.split("Split", message("abc")).await.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(parts, ["a", "b", "c"]);
    // A large message, in many frames, both ways.
    let large = Bytes::from(vec![b'x'; 3 << 20]);
    assert_eq!(caller.unary("Unary", Request::new(large.clone())).await.unwrap().into_inner(), large);
}

#[tokio::test]
async fn both_sides_of_a_conversation_are_heard_at_once() {
    let server = Server::start().await;
    let (_gateway, caller) = through(&server, "").await;
    let (say, mut said) = mpsc::unbounded_channel();
    let messages = stream::poll_fn(move |context| said.poll_recv(context));
    let mut heard = caller.chat(messages).await.unwrap();
    for word in ["one", "two", "three"] {
        say.send(Bytes::from(word)).unwrap();
        let answer = timeout(Duration::from_secs(5), heard.message()).await.expect("nothing is held back");
        assert_eq!(answer.unwrap().unwrap(), word);
    }
    drop(say);
    assert_eq!(heard.message().await.unwrap(), None, "the end, and a good one");
}

#[tokio::test]
async fn metadata_passes_both_ways_and_a_failure_with_all_its_details() {
    let server = Server::start().await;
    let (_gateway, caller) = through(&server, "").await;
    let mut call = message("hello");
    call.metadata_mut().insert("x-ascii", "plain".parse().unwrap());
    call.metadata_mut().insert_bin("x-binary-bin", MetadataValue::from_bytes(b"\0\xffbinary"));
    let answer = caller.unary("Unary", call).await.unwrap();
    let metadata = answer.metadata();
    assert_eq!(metadata.get("x-got-x-ascii").unwrap(), "plain");
    assert_eq!(metadata.get_bin("x-binary-bin").unwrap().to_bytes().unwrap(), &b"\0\xffbinary"[..]);
    assert_eq!(metadata.get("x-got-te").unwrap(), "trailers");
    assert_eq!(metadata.get("x-got-x-forwarded-for").unwrap(), "127.0.0.1");

    let failure = caller.unary("Unary", message("fail")).await.unwrap_err();
    assert_eq!((failure.code(), failure.message()), (Code::FailedPrecondition, "not now: 100 %"));
    assert_eq!(failure.details(), b"\0details\xff");
    let failure = caller.unary("Unknown", message("")).await.unwrap_err();
    assert_eq!((failure.code(), failure.message()), (Code::Unimplemented, "no such method"));
}

#[tokio::test]
async fn a_call_that_is_given_up_is_given_up_by_the_instance() {
    let server = Server::start().await;
    let (_gateway, caller) = through(&server, "").await;
    let waiting = tokio::spawn({
        let caller = caller.clone();
        async move { caller.unary("Never", message("")).await.map(drop) }
    });
    assert!(server.has_seen("begun").await);
    let began = Instant::now();
    waiting.abort();
    assert!(server.has_seen("cancelled").await && began.elapsed() < Duration::from_millis(500));
    server.events.lock().unwrap().clear();

    let mut answers = caller.split("Hang", message("first")).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap(), "first");
    let began = Instant::now();
    drop(answers);
    assert!(server.has_seen("cancelled").await && began.elapsed() < Duration::from_millis(500));
    // The connections go on.
    assert_eq!(caller.unary("Unary", message("hello")).await.unwrap().into_inner(), "hello");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_or_its_routes_whichever_is_first() {
    let server = Server::start().await;
    for (keys, deadline, first) in [
        ("", Some(200), 200),
        ("timeouts = { total = \"200ms\" }", None, 200),
        ("timeouts = { total = \"200ms\" }", Some(60_000), 200),
        ("timeouts = { total = \"60s\" }", Some(200), 200),
    ] {
        let (_gateway, caller) = through(&server, keys).await;
        let asked = |method: &'static str| {
            let mut call = message("first");
            if let Some(deadline) = deadline {
                // As it stands on the wire, so that the caller's own clock has no part in it.
                call.metadata_mut().insert("grpc-timeout", format!("{deadline}m").parse().unwrap());
            }
            (caller.clone(), method, call)
        };
        let began = Instant::now();
        let (caller, method, call) = asked("Never");
        let failure = timeout(Duration::from_secs(5), caller.unary(method, call)).await.unwrap().unwrap_err();
        assert_eq!((failure.code(), failure.message()), (Code::DeadlineExceeded, "route_timeout"), "{keys}");
        assert!(began.elapsed() >= Duration::from_millis(first), "{keys}");
        assert!(server.has_seen("cancelled").await, "{keys}");
        // An answer that has begun ends in the same way.
        let (caller, method, call) = asked("Hang");
        let mut answers = caller.split(method, call).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap(), "first");
        let failure = timeout(Duration::from_secs(5), answers.message()).await.unwrap().unwrap_err();
        assert_eq!((failure.code(), failure.message()), (Code::DeadlineExceeded, "route_timeout"), "{keys}");
    }
}

#[tokio::test]
async fn the_gateways_own_answers_have_the_status_that_fits() {
    let server = Server::start().await;
    let instance = format!("\"{}\"", server.address);
    let refused = "chain = [{ type = \"ip_whitelist\", deny = [\"127.0.0.0/8\"] }]";
    for (text, code, said) in [
        (service("", ""), Code::Unavailable, "no_instance"),
        (service(&format!("\"{}\"", nobody().await), ""), Code::Unavailable, "connect_refused"),
        (service(&instance, refused), Code::PermissionDenied, "ip_not_allowed"),
        (service(&instance, "match = { path = \"/other\" }"), Code::Unimplemented, "no_route"),
        (service(&instance, "match = { methods = [\"GET\"] }"), Code::Unimplemented, "method_not_allowed"),
    ] {
        let gateway = Running::start(&text).await;
        let failure = Caller::connect(gateway.address).await.unary("Unary", message("")).await.unwrap_err();
        assert_eq!((failure.code(), failure.message()), (code, said));
    }
    let silent = Fake::new().await;
    let text = format!("{}timeouts = {{ first_byte = \"200ms\" }}\n", service(&format!("\"{}\"", silent.address), ""));
    let gateway = Running::start(&text).await;
    let (failure, _wire) = tokio::join!(
        async { Caller::connect(gateway.address).await.unary("Unary", message("")).await.unwrap_err() },
        async {
            let mut raw = support::frames::Raw::begin(silent.accept().await).await;
            raw.until(support::speaker::DATA).await;
            raw
        }
    );
    assert_eq!((failure.code(), failure.message()), (Code::DeadlineExceeded, "first_byte_timeout"));
}

#[tokio::test]
async fn an_instance_that_dies_in_the_middle_of_a_call_is_unavailable_and_no_hang() {
    let server = Server::start().await;
    let (_gateway, caller) = through(&server, "").await;
    let mut answers = caller.split("Hang", message("first")).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap(), "first");
    server.events.lock().unwrap().clear();
    let waiting = tokio::spawn({
        let caller = caller.clone();
        async move { caller.unary("Never", message("")).await.map(drop) }
    });
    assert!(server.has_seen("begun").await);
    drop(server);
    let failure = timeout(Duration::from_secs(5), answers.message()).await.unwrap().unwrap_err();
    assert_eq!((failure.code(), failure.message()), (Code::Unavailable, "reset_after_headers"));
    let failure = timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!((failure.code(), failure.message()), (Code::Unavailable, "reset_before_headers"));
}

#[tokio::test]
async fn a_call_that_the_instance_did_not_look_at_is_made_again() {
    let (fake, server) = (Fake::new().await, Server::start().await);
    let both = format!("\"{}\", \"{}\"", fake.address, server.address);
    let gateway = Running::start(&service(&both, "")).await;
    let caller = Caller::connect(gateway.address).await;
    let refuse = tokio::spawn(async move {
        let mut peer = support::frames::Peer::new(fake.accept().await).await;
        while let Some(mut stream) = peer.try_next().await {
            stream.respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    });
    for _ in 0..4 {
        assert_eq!(caller.unary("Unary", message("hello")).await.unwrap().into_inner(), "hello");
    }
    refuse.abort();
}

#[tokio::test]
async fn a_long_row_of_calls_over_one_connection_is_nobodys_fault() {
    let server = Server::start().await;
    let gateway = Logged::with(&service(&format!("\"{}\"", server.address), "")).await;
    let caller = Caller::connect(gateway.address).await;
    // Their trailers are as short as anything a server sends.
    for _ in 0..500 {
        caller.unary("Unary", message("hello")).await.unwrap();
    }
    let lines = gateway.first_lines(500).await;
    assert!(lines.iter().all(|line| line["status"] == 200 && line["grpc_status"] == 0));
}

#[tokio::test]
async fn the_log_has_what_became_of_a_call() {
    let server = Server::start().await;
    let route = "timeouts = { total = \"300ms\" }";
    let gateway = Logged::with(&service(&format!("\"{}\"", server.address), route)).await;
    let caller = Caller::connect(gateway.address).await;
    caller.unary("Unary", message("hello")).await.unwrap();
    caller.unary("Unary", message("fail")).await.unwrap_err();
    caller.unary("Never", message("")).await.unwrap_err();
    let mut answers = caller.split("Hang", message("first")).await.unwrap();
    while answers.message().await.is_ok() {}
    let lines = gateway.first_lines(4).await;
    let seen = |line: &serde_json::Value| (line["grpc_status"].as_u64(), line["cause"].as_str().map(str::to_owned));
    let timeout = || Some("route_timeout".to_owned());
    assert_eq!(
        lines.iter().map(seen).collect::<Vec<_>>(),
        [(Some(0), None), (Some(9), None), (Some(4), timeout()), (Some(4), timeout())]
    );
    assert!(lines.iter().all(|line| line["protocol"] == "HTTP/2" && line["status"] == 200), "{lines:?}");
}

#[tokio::test]
async fn a_client_and_a_server_that_everybody_uses_agree() {
    let Some(server) = python::Server::start("grpc_server.py") else { return };
    let text = service(&format!("\"{}\"", server.addresses[0]), "timeouts = { total = \"20s\" }");
    let gateway = Running::start(&text).await;
    let printed = python::run("grpc_client.py", &[gateway.address.to_string()]).await.unwrap();
    assert_eq!(printed.lines().last(), Some("all calls went as they should"), "{printed}");
}
