//! Records that no request would leave behind, made into documents that must be right all the same.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use portcullis_middleware::Cause;
use portcullis_middleware::xray::document::{Datagrams, HEADER};
use portcullis_middleware::xray::ids::{SpanId, TraceId};
use portcullis_middleware::xray::record::{Call, Failure, Profile, Record, Span, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::checker;

/// A request with three attempts, of the size that a usual one has.
fn record() -> Record {
    let start = 1_795_336_462_000_000;
    let call = |number: u64| Call {
        id: SpanId::mint(),
        service: "orders-v2".into(),
        instance: format!("10.0.0.{number}:8080").into(),
        url: format!("http://10.0.0.{number}:8080/orders/7"),
        span: Span { start: start + number * 1000, length: 900 },
        reused: number > 1,
        connect: Some(120),
        head: Some(700),
        status: (number > 1).then_some(200),
        bytes: Some(17),
        failure: (number == 1).then_some(Failure::broken(Cause::ConnectRefused)),
    };
    Record {
        profile: Arc::new(Profile {
            name: "edge".into(),
            annotations: vec![("team".into(), Value::Text("orders".into())), ("tier".into(), Value::Integer(1))],
        }),
        name: None,
        trace: TraceId::mint(1_795_336_462),
        id: SpanId::mint(),
        parent: Some(SpanId::mint()),
        claimed: None,
        span: Span { start, length: 5000 },
        head: Some(4000),
        method: Method::GET,
        url: "https://api.example.com/orders/7".into(),
        user_agent: Some(HeaderValue::from_static("curl/8.5.0")),
        client: Some(IpAddr::from([203, 0, 113, 9])),
        forwarded: true,
        status: Some(200),
        bytes: Some(17),
        failure: None,
        grpc_status: None,
        route: None,
        service: Some("orders-v2".into()),
        annotations: Vec::new(),
        headers: vec![(HeaderName::from_static("x-request-id"), HeaderValue::from_static("0123456789abcdef"))],
        balancer: None,
        tries: 3,
        attempts: (1..=3).map(call).collect(),
    }
}

/// The documents of a record, checked.
fn documents(record: &Record, limit: usize) -> (Vec<Json>, u64) {
    let mut datagrams = Datagrams::default();
    datagrams.fill(record, limit);
    let documents = datagrams.iter().map(|datagram| {
        assert!(datagram.len() <= limit, "{} of {limit} bytes", datagram.len());
        checker::check(datagram)
    });
    (documents.collect(), datagrams.too_large)
}

/// How many bytes a record takes if it may take this many.
fn size(record: &Record, limit: usize) -> usize {
    let mut datagrams = Datagrams::default();
    datagrams.fill(record, limit);
    datagrams.iter().map(<[u8]>::len).sum()
}

#[test]
fn a_usual_document_is_two_kilobytes() {
    let size = size(&record(), usize::MAX);
    assert!((1500..3000).contains(&size), "{size}");
}

#[test]
fn metadata_goes_first() {
    let whole = record();
    let (documents, lost) = documents(&whole, size(&whole, usize::MAX) - 1);
    let [document] = documents.as_slice() else { panic!("one document") };
    assert_eq!((document.get("metadata"), document["subsegments"].as_array().unwrap().len(), lost), (None, 3, 0));
    assert_eq!(document["annotations"]["team"], "orders");
}

#[test]
fn then_long_texts_are_cut() {
    let mut long = record();
    long.url = format!("https://api.example.com/{}", "x".repeat(220));
    let without_metadata = size(&long, size(&long, usize::MAX) - 1);
    let (documents, _) = documents(&long, without_metadata - 1);
    let [document] = documents.as_slice() else { panic!("one document") };
    assert_eq!(document["http"]["request"]["url"].as_str().unwrap().len(), 60);
    assert_eq!(document["subsegments"].as_array().unwrap().len(), 3);
}

#[test]
fn then_attempts_go_alone_and_before_their_segment() {
    let whole = record();
    let (documents, lost) = documents(&whole, 900);
    let [first, second, third, segment] = documents.as_slice() else { panic!("four documents: {documents:?}") };
    for (attempt, call) in [first, second, third].into_iter().zip(&whole.attempts) {
        assert_eq!(attempt["id"], call.id.to_string());
        assert_eq!((&attempt["parent_id"], &attempt["trace_id"]), (&segment["id"], &segment["trace_id"]));
    }
    assert_eq!((segment.get("subsegments"), &segment["annotations"]["attempts"], lost), (None, &json!(3), 0));
}

#[test]
fn then_only_the_bare_segment_is_left() {
    let mut huge = record();
    let annotations = (0..50).map(|n| (format!("key_{n}"), Value::Text("ü".repeat(1000))));
    huge.profile = Arc::new(Profile { name: "edge".into(), annotations: annotations.collect() });
    let (documents, lost) = documents(&huge, 1000);
    assert_eq!((documents.len(), lost), (4, 0));
    let segment = documents.last().unwrap();
    assert_eq!(segment["annotations"], json!({ "truncated": true }));
    assert_eq!((&segment["name"], &segment["http"]["response"]["status"]), (&json!("edge"), &json!(200)));
}

#[test]
fn what_fits_nowhere_is_counted() {
    let (documents, lost) = documents(&record(), 100);
    assert_eq!((documents.len(), lost), (0, 4));
}

#[test]
fn annotations_stop_at_fifty_and_the_settings_come_first() {
    let mut full = record();
    let annotations = (0..48).map(|n| (format!("key_{n}"), Value::Flag(true)));
    full.profile = Arc::new(Profile { name: "edge".into(), annotations: annotations.collect() });
    full.annotations = vec![("attempts".into(), HeaderValue::from_static("mine"))];
    full.grpc_status = Some(0);
    let (documents, _) = documents(&full, usize::MAX);
    let annotations = documents[0]["annotations"].as_object().unwrap();
    assert_eq!((annotations.len(), &annotations["attempts"]), (50, &json!("mine")));
    assert_eq!((&annotations["upstream"], annotations.get("grpc_status")), (&json!("orders-v2"), None));
}

#[test]
fn the_header_line_is_the_daemons() {
    assert_eq!(HEADER, b"{\"format\":\"json\",\"version\":1}\n");
}

fn header_value() -> impl Strategy<Value = HeaderValue> {
    proptest::collection::vec(any::<u8>(), 0..300)
        .prop_map(|bytes| bytes.into_iter().filter(|byte| *byte >= b' ' && *byte != 127).collect::<Vec<_>>())
        .prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_strangers_send_the_documents_are_right(
        agent in header_value(),
        kept in header_value(),
        annotated in header_value(),
        path in "[^?@]{0,300}",
        method in "[A-Z]{1,300}",
        service in ".{0,300}",
        status in proptest::option::of(100u16..600),
        grpc_status in proptest::option::of(0u32..20),
        cause in 0..Cause::ALL.len(),
        failed: bool,
        length in 5000u64..1 << 50,
        limit in 200usize..4000,
    ) {
        let mut record = record();
        record.user_agent = Some(agent);
        record.headers.push((HeaderName::from_static("x-kept"), kept));
        record.annotations = vec![("annotated".into(), annotated)];
        record.url = path.clone();
        record.method = Method::from_bytes(method.as_bytes()).unwrap();
        record.service = Some(service.as_str().into());
        record.status = status;
        record.grpc_status = grpc_status;
        record.failure = failed.then(|| Failure::refused(Cause::ALL[cause]));
        record.span.length = length;
        for call in &mut record.attempts {
            call.service = service.as_str().into();
            call.url = path.clone();
            call.status = status;
            call.failure = failed.then(|| Failure::broken(Cause::ALL[cause]));
        }
        let (whole, lost) = documents(&record, usize::MAX);
        prop_assert_eq!((whole.len(), lost), (1, 0));
        let (poorer, lost) = documents(&record, limit);
        prop_assert!(!poorer.is_empty() || lost > 0);
    }
}
