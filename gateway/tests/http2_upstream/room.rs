//! Who finds no room: they expect a stream on a connection that is being opened, or wait in the queue.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::HeaderValue;
use portcullis::proxy::{Closed, Limits, Overrides, Policy};
use portcullis_config::Protocol;
use portcullis_middleware::Cause;
use portcullis_middleware::worker::become_worker;
use tokio::time::{Instant, timeout};

use super::support::Fake;
use super::support::frames::Peer;
use super::support::proxy::*;
use super::support::speaker::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, SETTINGS, block, frame};
use super::{once, policy, until};

/// A proxy to one instance with so much room.
fn narrow(fake: &Fake, policy: Policy, limits: Limits) -> Proxy {
    Proxy::limited(service(&[fake.address]), policy, Overrides::default(), limits)
}

#[tokio::test]
async fn who_finds_no_room_waits_for_as_long_as_a_connection_may_take() {
    let fake = Fake::new().await;
    let mut policy = once();
    policy.timeouts.connect = Some(Duration::from_millis(200));
    let proxy = Proxy::with(&[fake.address], policy);
    let (first, _) = proxy.send(get("/first"));
    let mut peer = Peer::taking(fake.accept().await, 1).await;
    let stream = peer.next().await;
    // Nobody answers at its second connection.
    let (second, _) = proxy.send(get("/second"));
    let (third, _) = proxy.send(get("/third"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.answer("ok");
    assert_eq!(text(first.await.unwrap()).await, "ok");
    let stream = peer.next().await;
    assert_eq!(stream.request.uri().path(), "/second", "in the order they came");
    assert_eq!(cause(&third.await.unwrap()), Some(Cause::ConnectTimeout));
    stream.answer("ok");
    assert_eq!(text(second.await.unwrap()).await, "ok");
}

#[tokio::test]
async fn who_finds_neither_stream_nor_room_waits_in_a_queue_that_is_short() {
    let fake = Fake::new().await;
    let limits = Limits { open: 1, waiting: 1, wait: Duration::from_millis(200), ..Limits::default() };
    let proxy = narrow(&fake, policy(), limits);
    let (first, _) = proxy.send(get("/first"));
    let mut peer = Peer::taking(fake.accept().await, 1).await;
    let stream = peer.next().await;
    let begin = Instant::now();
    let (second, _) = proxy.send(get("/second"));
    until("the second one waits", || proxy.counts().waiting == 1).await;
    let third = proxy.send(get("/third")).0.await.unwrap();
    assert_eq!((third.status().as_u16(), cause(&third)), (503, Some(Cause::QueueFull)));
    assert!(begin.elapsed() < limits.wait, "at once");
    let second = second.await.unwrap();
    assert_eq!((second.status().as_u16(), cause(&second)), (503, Some(Cause::QueueFull)));
    assert!(begin.elapsed() >= limits.wait);
    assert_eq!((proxy.counts().waiting, proxy.counts().refused), (0, 2));
    let (fourth, _) = proxy.send(get("/fourth"));
    until("another one waits", || proxy.counts().waiting == 1).await;
    stream.answer("ok");
    assert_eq!(text(first.await.unwrap()).await, "ok");
    peer.next().await.answer("ok");
    assert_eq!(text(fourth.await.unwrap()).await, "ok");
    assert!(!fake.is_wanted().await);
}

#[tokio::test]
async fn a_crowd_that_waited_and_went_away_leaves_the_next_place_to_who_stayed() {
    let fake = Fake::new().await;
    let proxy = narrow(&fake, policy(), Limits { open: 1, waiting: 2_001, ..Limits::default() });
    let (first, _) = proxy.send(get("/first"));
    let mut peer = Peer::taking(fake.accept().await, 1).await;
    let stream = peer.next().await;
    let crowd: Vec<_> = (0..2_000).map(|_| proxy.send(get("/gone")).0).collect();
    until("all of them wait", || proxy.counts().waiting == 2_000).await;
    let (stayed, _) = proxy.send(get("/stayed"));
    until("so does another", || proxy.counts().waiting == 2_001).await;
    crowd.iter().for_each(|gone| gone.abort());
    stream.answer("ok");
    assert_eq!(text(first.await.unwrap()).await, "ok");
    let stream = peer.next().await;
    assert_eq!(stream.request.uri().path(), "/stayed");
    stream.answer("ok");
    assert_eq!(text(stayed.await.unwrap()).await, "ok");
    assert_eq!((proxy.counts().waiting, proxy.counts().streams, proxy.counts().created), (0, 0, 1));
}

#[tokio::test]
async fn who_expected_more_of_a_new_connection_than_it_takes_goes_on_to_the_queue() {
    let fake = Fake::new().await;
    let proxy = narrow(&fake, policy(), Limits { open: 1, waiting: 2, ..Limits::default() });
    let answers: Vec<_> = (0..5).map(|_| proxy.send(get("/")).0).collect();
    let wire = fake.accept().await;
    assert_eq!(proxy.counts().waiting, 0, "all of them expect a place");
    let mut peer = Peer::taking(wire, 1).await;
    let mut stream = Some(peer.next().await);
    until("as many wait as may, and two are refused", || proxy.counts().refused == 2).await;
    assert_eq!(proxy.counts().waiting, 2);
    let mut good = 0;
    for answer in answers {
        if let Some(stream) = stream.take() {
            stream.answer("ok");
        }
        match answer.await.unwrap() {
            answer if answer.status() == 200 => {
                assert_eq!(text(answer).await, "ok");
                good += 1;
                stream = if good < 3 { Some(peer.next().await) } else { None };
            }
            refused => assert_eq!(cause(&refused), Some(Cause::QueueFull)),
        }
    }
    assert_eq!(good, 3);
}

#[tokio::test]
async fn a_call_of_grpc_waits_for_room_and_not_for_a_connection_that_speaks_something_else() {
    let fake = Fake::new().await;
    let policy = Policy { protocol: Protocol::Auto, ..Policy::default() };
    let proxy = narrow(&fake, policy, Limits { open: 1, ..Limits::default() });
    let (got, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.head().await;
    let mut call = post("call");
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let (called, _) = proxy.send(call);
    until("it waits", || proxy.counts().waiting == 1).await;
    wire.put(OK).await;
    assert_eq!(text(got.await.unwrap()).await, "ok");
    let mut peer = Peer::new(fake.accept().await).await;
    assert_eq!(peer.next().await.read_and_answer("ok").await, b"call");
    assert_eq!(text(called.await.unwrap()).await, "ok");
    assert_eq!(wire.rest().await, b"", "nothing else was sent there");
}

#[tokio::test]
async fn one_idle_connection_of_other_workers_makes_room_and_no_more() {
    let fake = Fake::new().await;
    let proxy = Arc::new(narrow(&fake, policy(), Limits { open: 2, ..Limits::default() }));
    let instance = async {
        for _ in 0..3 {
            let mut peer = Peer::new(fake.accept().await).await;
            tokio::spawn(async move {
                while let Some(stream) = peer.try_next().await {
                    stream.answer("ok");
                }
            });
        }
    };
    let (mut go, mut others) = (Vec::new(), Vec::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let scenario = async {
        for worker in 0..2 {
            let (proxy, done) = (proxy.clone(), asked.clone());
            let (sender, receiver) = std::sync::mpsc::channel();
            go.push(sender);
            others.push(std::thread::spawn(move || {
                become_worker(worker);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { assert_eq!(text(proxy.send(get("/")).0.await.unwrap()).await, "ok") });
                done.fetch_add(1, Relaxed);
                // Nobody drives its connection meanwhile, so that what is closed goes on to hold its room.
                receiver.recv().unwrap();
                runtime.block_on(async { tokio::time::sleep(Duration::from_millis(300)).await });
            }));
        }
        until("two workers have a connection each", || asked.load(Relaxed) == 2).await;
        let (answer, _) = proxy.send(get("/"));
        until("a third one waits", || proxy.counts().waiting == 1).await;
        go.iter().for_each(|go| go.send(()).unwrap());
        assert_eq!(text(answer.await.unwrap()).await, "ok");
    };
    tokio::join!(timeout(Duration::from_secs(5), instance), scenario).0.unwrap();
    others.into_iter().for_each(|other| other.join().unwrap());
    assert_eq!((proxy.counts().created, proxy.counts().closed[Closed::Surplus as usize]), (3, 1));
}

/// Answers one request of a connection, says goodbye, and is gone at once, as a thread of its own.
fn answer_and_leave(mut stream: std::net::TcpStream) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface)?;
    stream.write_all(&frame(SETTINGS, 0, 0, ""))?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        std::io::copy(&mut (&stream).take(length), &mut std::io::sink())?;
        if head[3] == HEADERS {
            let last = &head[5..];
            let answered = [
                frame(HEADERS, END_HEADERS, u32::from_be_bytes(last.try_into().unwrap()), block(&[(":status", "200")])),
                frame(DATA, END_STREAM, u32::from_be_bytes(last.try_into().unwrap()), "ok"),
                frame(GOAWAY, 0, 0, [last, &[0; 4]].concat()),
            ];
            return stream.write_all(&answered.concat());
        }
    }
}

/// h2 says goodbye in return and then waits for that to be written. Where the instance was gone by then, and another request
/// had been written to it meanwhile, it waited for ever, and the connection held its room for as long.
#[tokio::test]
async fn an_instance_that_is_gone_with_its_goodbye_gives_its_room_back() {
    let instance = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = instance.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in instance.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer_and_leave(stream));
        }
    });
    let limits = Limits { open: 3, ..Limits::default() };
    let proxy = Proxy::limited(service(&[address]), policy(), Overrides::default(), limits);
    for round in 0..200 {
        let answers: Vec<_> = (0..6).map(|_| proxy.send(get("/")).0).collect();
        for answer in answers {
            let answer = answer.await.unwrap();
            assert_ne!(cause(&answer), Some(Cause::QueueFull), "{round}");
            drop(answer);
        }
    }
    until("all of them are closed", || proxy.counts().open == 0).await;
}
