//! Which instance is asked, on which connection, how often, and for how long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;
use http_body_util::{Limited, StreamBody};
use portcullis::proxy::{Closed, Overrides, Policy, Retry};
use portcullis::registry::memory::MemoryRegistry;
use portcullis::registry::{self, Instance, Live, Registry, Standing};
use portcullis_middleware::Cause;

mod support;
use support::proxy::*;
use support::{Fake, Wire, nobody};

#[tokio::test]
async fn a_connection_is_used_again_after_its_answer_was_read() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, first) = proxy.send(get("/1"));
    let mut wire = fake.accept().await;
    let head = wire.answer(OK).await;
    assert!(head.starts_with("GET /1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(text(answer.await.unwrap()).await, "ok");

    let (answer, second) = proxy.send(get("/2"));
    wire.answer(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    let (first, second) = (last(&first), last(&second));
    assert_eq!((first.reused, second.reused), (false, true));
    assert_eq!((second.status, second.bytes, second.cause), (Some(StatusCode::OK), Some(2), None));
    assert!(second.first_byte <= second.end && second.end.is_some());
    let counts = proxy.counts();
    assert_eq!((counts.created, counts.reused, counts.open, counts.idle), (1, 1, 1, 1));
}

#[tokio::test]
async fn an_instance_that_refuses_is_passed_over() {
    let fake = Fake::new().await;
    let (gone, here) = (nobody().await, fake.address);
    let proxy = Proxy::to(&[gone, here]);
    tokio::spawn(fake.answer(OK));
    let mut tried = Vec::new();
    for _ in 0..4 {
        // A POST as well: nothing was sent.
        let (answer, exchange) = proxy.send(post("body"));
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        tried.push(exchange.attempts().into_iter().map(|attempt| attempt.cause).collect::<Vec<_>>());
    }
    assert!(tried.iter().all(|causes| causes.last() == Some(&None)), "{tried:?}");
    assert_eq!(tried.iter().filter(|causes| causes[0] == Some(Cause::ConnectRefused)).count(), 2, "{tried:?}");
}

#[tokio::test]
async fn nobody_there_is_a_502_after_every_instance_was_tried() {
    let proxy = Proxy::to(&[nobody().await, nobody().await, nobody().await]);
    let (answer, exchange) = proxy.send(get("/"));
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::BAD_GATEWAY, Some(Cause::ConnectRefused)));
    let mut instances: Vec<_> = exchange.attempts().into_iter().map(|attempt| attempt.instance).collect();
    instances.sort();
    instances.dedup();
    assert_eq!(instances.len(), 3);
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_a_504() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, exchange) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.head().await;
    tokio::time::pause();
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::GATEWAY_TIMEOUT, Some(Cause::FirstByteTimeout)));
    assert_eq!(exchange.attempts().len(), 1, "who took that long may have acted");
    assert_eq!(wire.rest().await, b"");
}

#[tokio::test]
async fn interim_answers_are_skipped_and_do_not_stop_the_clock() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer(&format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{OK}")).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");

    let (answer, _) = proxy.send(get("/"));
    wire.answer("HTTP/1.1 103 Early Hints\r\n\r\n").await;
    tokio::time::pause();
    assert_eq!(cause(&answer.await.unwrap()), Some(Cause::FirstByteTimeout));
}

/// A connection that was used once and waits for its next request.
async fn idle_connection(proxy: &Proxy, fake: &Fake) -> Wire {
    let (answer, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    wire
}

#[tokio::test]
async fn a_get_survives_a_connection_that_closes_as_it_arrives() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    // Two idle connections, both about to be closed.
    let mut first = idle_connection(&proxy, &fake).await;
    let (answer, _) = proxy.send(get("/"));
    let (busy, _) = proxy.send(get("/"));
    let (_, mut second) = tokio::join!(first.answer(OK), fake.accept());
    second.answer(OK).await;
    text(answer.await.unwrap()).await;
    text(busy.await.unwrap()).await;
    assert_eq!(proxy.counts().idle, 2);

    let (answer, exchange) = proxy.send(get("/again"));
    tokio::select! {
        _ = first.head() => drop(first),
        _ = second.head() => drop(second),
    }
    let mut fresh = fake.accept().await;
    assert!(fresh.answer(OK).await.starts_with("GET /again"));
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    let attempts: Vec<_> = exchange.attempts().into_iter().map(|attempt| (attempt.reused, attempt.cause)).collect();
    assert_eq!(attempts, [(true, Some(Cause::ResetBeforeHeaders)), (false, None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_get_fails_while_connections_close_all_the_time() {
    let fake = Fake::new().await;
    let address = fake.address;
    tokio::spawn(async move {
        for number in 0.. {
            let mut wire = fake.accept().await;
            tokio::spawn(async move {
                // After a few answers it hangs up, without a word before.
                for _ in 0..1 + number % 4 {
                    if wire.try_head().await.is_none() {
                        return;
                    }
                    let _ = wire.try_put(OK).await;
                }
            });
        }
    });
    let proxy = Arc::new(Proxy::to(&[address]));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let proxy = proxy.clone();
            tokio::spawn(async move {
                for _ in 0..250 {
                    let (answer, exchange) = proxy.send(get("/"));
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.status(), 200, "{:?}", exchange.attempts());
                    assert_eq!(text(answer).await, "ok");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let counts = proxy.counts();
    assert!(counts.reused > 200 && counts.created > 200, "{counts:?}");
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let fake = Fake::new().await;
    let mut policy = Policy::default();
    policy.retry = Retry { reset: true, statuses: vec![StatusCode::SERVICE_UNAVAILABLE], ..policy.retry };
    let proxy = Proxy::with(&[fake.address], policy);
    let mut wire = idle_connection(&proxy, &fake).await;
    let (answer, exchange) = proxy.send(post(""));
    wire.head().await;
    drop(wire);
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::BAD_GATEWAY, Some(Cause::ResetBeforeHeaders)));
    assert_eq!(exchange.attempts().len(), 1);
    assert!(!fake.is_wanted().await);

    let (answer, _) = proxy.send(post("x"));
    fake.accept().await.answer("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer.await.unwrap().status(), 503);
    assert!(!fake.is_wanted().await);
}

#[tokio::test]
async fn a_put_is_sent_again_with_its_body() {
    let fake = Fake::new().await;
    let policy =
        Policy { retry: Retry { reset: true, backoff: Duration::ZERO, ..Retry::default() }, ..Policy::default() };
    let proxy = Proxy::with(&[fake.address], policy);
    let (answer, exchange) = proxy.send(put("all of it"));
    let mut wire = fake.accept().await;
    let head = wire.head().await;
    assert_eq!(wire.take(support::content_length(&head)).await, b"all of it");
    drop(wire);
    let mut wire = fake.accept().await;
    let head = wire.head().await;
    assert_eq!(wire.take(support::content_length(&head)).await, b"all of it");
    wire.put(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    assert_eq!(exchange.attempts().len(), 2);
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_sent_only_once() {
    let fake = Fake::new().await;
    let policy =
        Policy { retry: Retry { reset: true, backoff: Duration::ZERO, ..Retry::default() }, ..Policy::default() };
    let proxy = Proxy::with(&[fake.address], policy);
    let mut request = post(vec![b'x'; 100_000]);
    *request.method_mut() = http::Method::PUT;
    let (answer, exchange) = proxy.send(request);
    let mut wire = fake.accept().await;
    wire.head().await;
    wire.take(100_000).await;
    drop(wire);
    assert_eq!(cause(&answer.await.unwrap()), Some(Cause::ResetBeforeHeaders));
    assert_eq!(exchange.attempts().len(), 1);
}

#[tokio::test]
async fn a_status_can_be_a_reason_to_ask_another_instance() {
    let (busy, fine) = (Fake::new().await, Fake::new().await);
    let policy = Policy {
        retry: Retry { statuses: vec![StatusCode::SERVICE_UNAVAILABLE], backoff: Duration::ZERO, ..Retry::default() },
        ..Policy::default()
    };
    let proxy = Proxy::with(&[busy.address, fine.address], policy);
    tokio::spawn(busy.answer("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"));
    tokio::spawn(fine.answer(OK));
    let mut attempts = 0;
    for _ in 0..4 {
        let (answer, exchange) = proxy.send(get("/"));
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        assert_eq!(last(&exchange).status, Some(StatusCode::OK));
        attempts += exchange.attempts().len();
    }
    assert_eq!(attempts, 6);
}

#[tokio::test]
async fn what_the_client_does_wrong_is_not_the_instances_fault() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let limited = Body::new(Limited::new(endless(1024, Arc::default()), 100_000));
    let (answer, exchange) = proxy.send(post(limited));
    let mut wire = fake.accept().await;
    wire.rest().await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::PAYLOAD_TOO_LARGE, Some(Cause::BodyTooLarge)));
    assert_eq!((last(&exchange).cause, exchange.attempts().len()), (Some(Cause::BodyTooLarge), 1));

    for (kind, want) in
        [(std::io::ErrorKind::UnexpectedEof, Cause::ClientClosed), (std::io::ErrorKind::InvalidData, Cause::BadRequest)]
    {
        let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(std::io::Error::from(kind))];
        let (answer, _) = proxy.send(post(Body::new(StreamBody::new(futures_util::stream::iter(frames)))));
        fake.accept().await.rest().await;
        assert_eq!(cause(&answer.await.unwrap()), Some(want));
    }
}

#[tokio::test]
async fn when_the_client_leaves_the_instance_hears_of_it() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, exchange) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.head().await;
    answer.abort();
    assert_eq!(wire.rest().await, b"");
    assert_eq!(last(&exchange).cause, Some(Cause::ClientClosed));

    let (answer, exchange) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    drop(answer.await.unwrap());
    assert_eq!(wire.rest().await, b"");
    assert_eq!(last(&exchange).cause, Some(Cause::ClientClosed));
    assert_eq!(proxy.counts().open, 0);
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_not_used() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let wire = idle_connection(&proxy, &fake).await;
    drop(wire);
    // The task that drives the connection hears of it.
    while proxy.counts().idle == 1 {
        proxy.pools.sweep();
        tokio::task::yield_now().await;
    }
    assert_eq!(proxy.counts().closed[Closed::Peer as usize], 1);
    let (answer, exchange) = proxy.send(post("x"));
    fake.accept().await.answer(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    assert_eq!(exchange.attempts().len(), 1);
}

#[tokio::test]
async fn idle_connections_are_closed_in_time_and_with_their_instance() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let mut wire = idle_connection(&proxy, &fake).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(59)).await;
    proxy.pools.sweep();
    assert_eq!(proxy.counts().idle, 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    proxy.pools.sweep();
    assert_eq!((proxy.counts().idle, proxy.counts().closed[Closed::Idle as usize]), (0, 1));
    tokio::time::resume();
    assert_eq!(wire.rest().await, b"");

    let mut wire = idle_connection(&proxy, &fake).await;
    let Proxy { forward, pools } = proxy;
    drop(forward);
    pools.sweep();
    assert_eq!(wire.rest().await, b"");
    assert_eq!((pools.counts()[0].1.open, pools.counts()[0].1.closed[Closed::Unused as usize]), (0, 1));
}

#[tokio::test]
async fn an_instance_that_does_not_accept_is_a_504() {
    // A queue of one, which is full: the kernel leaves further connections without an answer.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _place = std::net::TcpStream::connect(address).unwrap();

    let policy = Policy { retry: Retry { attempts: 1, ..Retry::default() }, ..Policy::default() };
    let proxy = Proxy::with(&[address], policy);
    let (answer, exchange) = proxy.send(get("/"));
    tokio::task::yield_now().await;
    tokio::time::pause();
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), cause(&answer)), (StatusCode::GATEWAY_TIMEOUT, Some(Cause::ConnectTimeout)));
    assert_eq!(last(&exchange).connect, None);
}

#[tokio::test]
async fn a_route_can_be_less_patient_than_its_service() {
    let fake = Fake::new().await;
    let attempt = Some(Duration::from_millis(500));
    let retry = Some(Retry { attempts: 1, ..Retry::default() });
    let proxy = Proxy::of(service(&[fake.address]), Policy::default(), Overrides { attempt, retry });
    let (answer, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.head().await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    assert_eq!(cause(&answer.await.unwrap()), Some(Cause::FirstByteTimeout));
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn instances_come_and_go_between_two_requests() {
    let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new(10));
    let live = Live::new("memory", registry.clone());
    live.start(&tokio::runtime::Handle::current());
    let name: registry::ServiceName = "orders".parse().unwrap();
    let service = live.service(&name);
    let mut changes = service.changes();
    let proxy = Proxy::of(service.clone(), Policy::default(), Overrides::default());
    changes.wait_for(|_| service.instances().standing != Standing::Pending).await.unwrap();
    assert_eq!(cause(&proxy.send(get("/")).0.await.unwrap()), Some(Cause::NoService));

    let (one, two) = (Fake::new().await, Fake::new().await);
    for fake in [&one, &two] {
        let instance = Instance::at(registry::Address::Ip(fake.address));
        let id = instance.id.clone();
        let registration = registry::Registration { service: name.clone(), instance, ttl: None };
        registry.register(registration).await.unwrap();
        changes.wait_for(|_| service.instances().instances.len() == 1).await.unwrap();
        for _ in 0..3 {
            let (answer, exchange) = proxy.send(get("/"));
            let mut wire = fake.accept().await;
            wire.answer(&OK.replace("content-length", "connection: close\r\ncontent-length")).await;
            assert_eq!(text(answer.await.unwrap()).await, "ok");
            assert_eq!(*last(&exchange).instance, fake.address.to_string());
        }
        registry.deregister(&id).await.unwrap();
        changes.wait_for(|_| service.instances().instances.is_empty()).await.unwrap();
        let cause = cause(&proxy.send(get("/")).0.await.unwrap());
        assert!(matches!(cause, Some(Cause::NoInstance | Cause::NoService)), "{cause:?}");
    }
}
