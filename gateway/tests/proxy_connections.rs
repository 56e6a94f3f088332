//! Upstream connections are driven by whoever uses them: what that must not lose, block or wake.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use http_body_util::BodyExt;
use portcullis::admin::client;
use portcullis::proxy::{Closed, Limits, Overrides, Policy, Timeouts};
use portcullis_middleware::Cause;
use portcullis_middleware::layer::Hop;
use portcullis_middleware::worker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout};

mod support;
use support::gateway::Running;
use support::proxy::*;
use support::{Fake, Wire};

/// A waker that counts, and wakes who waits.
#[derive(Default)]
struct Counted {
    wakes: AtomicUsize,
    waits: Mutex<Option<Waker>>,
}

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Relaxed);
        if let Some(waiting) = &*self.waits.lock().unwrap() {
            waiting.wake_by_ref();
        }
    }
}

impl Counted {
    fn wakes(&self) -> usize {
        self.wakes.load(Relaxed)
    }

    /// Runs a future as if it were a task of its own.
    async fn run<F: Future>(self: &Arc<Self>, future: F) -> F::Output {
        let mut future = pin!(future);
        let waker = Waker::from(self.clone());
        poll_fn(|context| {
            *self.waits.lock().unwrap() = Some(context.waker().clone());
            future.as_mut().poll(&mut Context::from_waker(&waker))
        })
        .await
    }
}

/// Asks and reads the answer to its end.
async fn ask(proxy: &Proxy, path: &str) -> String {
    let mut request = get(path);
    arrive(&mut request);
    text(proxy.forward.run(request).await).await
}

/// A connection that was used once and waits for its next request.
async fn idle_connection(proxy: &Proxy, fake: &Fake) -> Wire {
    let (answer, wire) = tokio::join!(ask(proxy, "/"), async {
        let mut wire = fake.accept().await;
        wire.answer(OK).await;
        wire
    });
    assert_eq!((answer.as_str(), proxy.counts().idle), ("ok", 1));
    wire
}

/// Has the runtime hear of everything that happened to its sockets.
async fn hear() {
    let other = Fake::new().await;
    idle_connection(&Proxy::to(&[other.address]), &other).await;
}

#[tokio::test]
async fn no_task_is_spawned_and_nobody_is_woken_but_who_waits() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let tasks = Handle::current().metrics().num_alive_tasks();
    let (first, second) = (Arc::<Counted>::default(), Arc::<Counted>::default());
    let (answer, mut wire) = tokio::join!(first.run(ask(&proxy, "/1")), async {
        let mut wire = fake.accept().await;
        wire.answer(OK).await;
        wire
    });
    assert_eq!(answer, "ok");
    let before = first.wakes();
    for round in 1..=3 {
        let (answer, _) = tokio::join!(second.run(ask(&proxy, "/2")), wire.answer(OK));
        assert_eq!(answer, "ok");
        assert_eq!(second.wakes(), round, "once per exchange: when the answer is there");
    }
    assert_eq!(proxy.counts().reused, 3);
    // The connection ends while nobody uses it.
    drop(wire);
    hear().await;
    assert_eq!((first.wakes(), second.wakes()), (before, 3), "a connection wakes nobody who has given it back");
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
    proxy.pools.sweep();
    assert_eq!((proxy.counts().idle, proxy.counts().closed[Closed::Peer as usize]), (0, 1));
}

#[tokio::test]
async fn what_happened_to_an_idle_connection_is_seen_before_it_is_used() {
    let fake = Fake::new().await;
    for reason in [Closed::Peer, Closed::Unexpected] {
        let proxy = Proxy::to(&[fake.address]);
        let mut wire = idle_connection(&proxy, &fake).await;
        if reason == Closed::Unexpected {
            wire.put("HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n").await;
        } else {
            wire.shut_down().await;
        }
        hear().await;
        // A request that is never sent twice.
        let (answer, exchange) = proxy.send(post("once"));
        let mut fresh = fake.accept().await;
        fresh.answer(OK).await;
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        assert_eq!((exchange.attempts().len(), last(&exchange).reused), (1, false));
        assert_eq!(proxy.counts().closed[reason as usize], 1, "{reason:?}");
        assert_eq!(wire.rest().await, b"");
    }
}

#[tokio::test]
async fn an_end_that_comes_later_than_the_rest_is_waited_for() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n").await;
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
    let waiting = Arc::<Counted>::default();
    let (end, ()) = tokio::join!(waiting.run(body.frame()), wire.put("0\r\n\r\n"));
    assert!(end.is_none());
    assert_eq!((proxy.counts().idle, waiting.wakes()), (1, 1));
    let (answer, _) = tokio::join!(ask(&proxy, "/again"), wire.answer(OK));
    assert_eq!(answer, "ok");
    assert_eq!(proxy.counts().created, 1);
}

#[tokio::test]
async fn an_answer_may_end_with_its_connection() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, ()) = tokio::join!(ask(&proxy, "/"), async {
        let mut wire = fake.accept().await;
        wire.answer("HTTP/1.1 200 OK\r\n\r\nhalf ").await;
        hear().await;
        wire.put("and half").await;
    });
    assert_eq!(answer, "half and half");
    let (answer, _) = tokio::join!(ask(&proxy, "/"), async {
        fake.accept().await.answer("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
    });
    assert_eq!(answer, "ok");
    let counts = proxy.counts();
    assert_eq!((counts.open, counts.idle, counts.closed[Closed::Peer as usize]), (0, 0, 2));
}

#[tokio::test]
async fn a_client_that_pauses_holds_up_the_instance_and_loses_nothing() {
    const SIZE: usize = 32 << 20;
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (answer, _) = proxy.send(get("/"));
    let mut wire = fake.accept().await;
    wire.answer(&format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")).await;
    let writer = tokio::spawn(async move {
        wire.put(vec![b'x'; SIZE]).await;
        wire
    });
    let mut body = answer.await.unwrap().into_body();
    let mut got = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    for _ in 0..20 {
        hear().await;
    }
    assert!(!writer.is_finished(), "an answer that nobody reads is not read either");
    while let Some(frame) = body.frame().await {
        got += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!((got, proxy.counts().idle), (SIZE, 1));
}

/// Takes a request with a body of this size and sends the body back as it comes. It goes on reading when nobody reads
/// what it sends.
async fn echo_all(socket: TcpListener, size: usize) {
    let mut wire = Wire::new(socket.accept().await.unwrap().0);
    wire.head().await;
    let (stream, begin) = wire.into_parts();
    let (mut reader, mut writer) = stream.into_split();
    let (give, mut take) = mpsc::unbounded_channel();
    give.send(begin).unwrap();
    tokio::spawn(async move {
        loop {
            let mut part = Vec::with_capacity(64 * 1024);
            if reader.read_buf(&mut part).await.unwrap_or(0) == 0 || give.send(part).is_err() {
                return;
            }
        }
    });
    let mut left = size;
    writer.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes()).await.unwrap();
    while left > 0 {
        let part = take.recv().await.unwrap();
        left -= part.len();
        writer.write_all(&part).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_read_nothing_of_an_answer_before_it_has_sent_everything() {
    // The answer begins with the first byte of the request and is as long. Driven by its reader alone, the upload would
    // stand still as soon as the client's socket is full; it is much more than all sockets on the way can hold.
    const SIZE: usize = 64 << 20;
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Running::start(&format!(
        "[service.echo]\ninstances = [\"{}\"]\n[[route]]\nmatch = {{ path = \"/\" }}\nservice = \"echo\"\n",
        socket.local_addr().unwrap()
    ))
    .await;
    tokio::spawn(echo_all(socket, SIZE));
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(16 * 1024).unwrap();
    let mut client = client.connect(gateway.address).await.unwrap();
    let body: Vec<u8> = (0..SIZE).map(|index| (index % 251) as u8).collect();
    let exchange = async {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(&body[SIZE - 1024..]) || answer.len() < SIZE {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0);
        }
        answer
    };
    let answer = timeout(Duration::from_secs(60), exchange).await.expect("the upload goes on");
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(&body));
}

#[tokio::test]
async fn an_exchange_that_a_task_drove_leaves_its_connection_usable() {
    let fake = Fake::new().await;
    let proxy = Proxy::to(&[fake.address]);
    let (sender, frames) = mpsc::channel::<Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>>(1);
    let frames = futures_util::stream::unfold(frames, |mut frames| async { Some((frames.recv().await?, frames)) });
    let body = axum::body::Body::new(http_body_util::StreamBody::new(frames));
    let (answer, _) = proxy.send(post(body));
    let mut wire = fake.accept().await;
    wire.head().await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    wire.put("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
    let answer = answer.await.unwrap();
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks, "one for the request, now one for its connection");
    // Nobody reads the answer, and the request goes on.
    sender.send(Ok(http_body::Frame::data("more".into()))).await.unwrap();
    wire.take_until("4\r\nmore\r\n").await;
    drop(sender);
    wire.take_until("0\r\n\r\n").await;
    wire.put("ok").await;
    assert_eq!(text(answer).await, "ok");
    while proxy.counts().idle == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks - 1);
    let (answer, _) = tokio::join!(ask(&proxy, "/again"), wire.answer(OK));
    assert_eq!((answer.as_str(), proxy.counts().created), ("ok", 1));

    // A client that leaves takes the task with it.
    let (answer, _) = proxy.send(post(endless(64 * 1024, Arc::default())));
    wire.head().await;
    wire.put("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
    drop(answer.await.unwrap());
    wire.rest().await;
    assert_eq!((proxy.counts().open, proxy.counts().closed[Closed::Broken as usize]), (0, 1));
}

#[tokio::test]
async fn a_task_that_used_up_its_turn_misses_nothing() {
    // tokio lets a task do so much at a time and then makes everything look pending. A connection that was polled with
    // a waker that wakes nobody must not be left at that.
    let fake = Fake::new().await;
    // Without clocks, or one of them would wake the task.
    let timeouts = Timeouts { connect: None, first_byte: None, idle: None, tunnel: None, attempt: None };
    let proxy = Arc::new(Proxy::with(&[fake.address], Policy { timeouts, ..Policy::default() }));
    let big = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", 1 << 20, "x".repeat(1 << 20));
    tokio::spawn(fake.answer(big.leak()));
    // Which of every three polls come to a task whose turn is nearly over, and how many steps are left then.
    for (polls, left) in (1..7).flat_map(|polls| (0..5).map(move |left| (polls, left))) {
        let proxy = proxy.clone();
        let exchange = tokio::spawn(async move {
            let mut exchange = pin!(ask(&proxy, "/"));
            let mut poll = 0;
            poll_fn(|context| {
                poll = (poll + 1) % 3;
                // A turn is 128 steps long.
                for _ in left..if polls & (1 << poll) == 0 { left } else { 128 } {
                    let _ = pin!(consume_budget()).poll(context);
                }
                exchange.as_mut().poll(context)
            })
            .await
            .len()
        });
        let got = timeout(Duration::from_secs(30), exchange).await;
        assert_eq!(got.expect("it must not hang").unwrap(), 1 << 20, "{polls:03b} with {left} steps left");
    }
    assert_eq!(proxy.counts().created, 1);
}

/// A service of these instances, each with so much room.
fn narrow(fakes: &[&Fake], limits: Limits) -> Proxy {
    let addresses: Vec<_> = fakes.iter().map(|fake| fake.address).collect();
    Proxy::limited(service(&addresses), Policy::default(), Overrides::default(), limits)
}

#[tokio::test]
async fn who_finds_all_connections_in_use_waits_for_one_and_the_first_is_first() {
    let fake = Fake::new().await;
    let proxy = narrow(&[&fake], Limits { open: 1, ..Limits::default() });
    let (one, _) = proxy.send(get("/1"));
    let mut wire = fake.accept().await;
    wire.head().await;
    let [second, third, gone] = ["/2", "/3", "/gone"].map(|path| proxy.send(get(path)).0);
    while proxy.counts().waiting < 3 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(proxy.counts().waiting, 2);
    wire.put(OK).await;
    assert_eq!(text(one.await.unwrap()).await, "ok");
    for (path, answer) in [("/2", second), ("/3", third)] {
        assert!(wire.head().await.starts_with(&format!("GET {path} ")));
        wire.put(OK).await;
        assert_eq!(text(answer.await.unwrap()).await, "ok");
    }
    let counts = proxy.counts();
    assert_eq!((counts.created, counts.reused, counts.open, counts.waiting, counts.refused), (1, 2, 1, 0, 0));
    assert!(!fake.is_wanted().await);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_short_and_so_is_the_wait() {
    let fake = Fake::new().await;
    let limits = Limits { open: 1, waiting: 1, wait: Duration::from_secs(3), ..Limits::default() };
    let proxy = narrow(&[&fake], limits);
    let (_one, _) = proxy.send(get("/1"));
    let mut wire = fake.accept().await;
    wire.head().await;
    let begin = Instant::now();
    let (second, _) = proxy.send(get("/2"));
    while proxy.counts().waiting < 1 {
        tokio::task::yield_now().await;
    }
    let third = proxy.send(get("/3")).0.await.unwrap();
    assert_eq!((third.status().as_u16(), cause(&third), begin.elapsed().as_secs()), (503, Some(Cause::QueueFull), 0));
    let second = second.await.unwrap();
    assert_eq!((second.status().as_u16(), cause(&second), begin.elapsed().as_secs()), (503, Some(Cause::QueueFull), 3));
    assert_eq!((proxy.counts().waiting, proxy.counts().refused), (0, 2));
}

#[tokio::test]
async fn an_instance_without_room_gives_way_to_one_that_has_some() {
    let fakes = [Fake::new().await, Fake::new().await];
    let proxy = narrow(&[&fakes[0], &fakes[1]], Limits { open: 1, waiting: 0, ..Limits::default() });
    let (_held, exchange) = proxy.send(get("/held"));
    let (free, mut busy) = tokio::select! {
        wire = fakes[0].accept() => (&fakes[1], wire),
        wire = fakes[1].accept() => (&fakes[0], wire),
    };
    busy.head().await;
    assert_eq!(exchange.attempts().len(), 1);
    let (answer, _) = proxy.send(get("/first"));
    let mut wire = free.accept().await;
    wire.answer(OK).await;
    assert_eq!(text(answer.await.unwrap()).await, "ok");
    let mut tries = 0;
    for _ in 0..4 {
        let (answer, exchange) = proxy.send(get("/again"));
        wire.answer(OK).await;
        assert_eq!(text(answer.await.unwrap()).await, "ok");
        tries += exchange.attempts().len();
    }
    assert_eq!((tries, proxy.counts().refused), (6, 2), "every other one asked the full one first");
}

#[tokio::test]
async fn a_connection_that_has_had_its_requests_is_closed() {
    let fake = Fake::new().await;
    let proxy = narrow(&[&fake], Limits { requests: Some(2), ..Limits::default() });
    tokio::spawn(fake.answer(OK));
    for _ in 0..5 {
        assert_eq!(ask(&proxy, "/").await, "ok");
    }
    let counts = proxy.counts();
    assert_eq!((counts.created, counts.reused, counts.open, counts.closed[Closed::Spent as usize]), (3, 2, 1, 2));
}

#[tokio::test]
async fn the_file_says_how_many_connections_there_may_be() {
    let fake = Fake::new().await;
    let gateway = Running::start(&format!(
        "[service.orders]\ninstances = [\"{}\"]\nconnections = {{ open = 1, waiting = 0 }}\n[[route]]\nservice = \"orders\"\n",
        fake.address
    ))
    .await;
    let mut client = Wire::connect(gateway.address).await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut wire = fake.accept().await;
    wire.head().await;
    let (status, body) = gateway.get("/").await;
    assert!(status == 503 && body.contains("queue_full"), "{status} {body}");
    wire.put(OK).await;
    client.take_until("\r\n\r\nok").await;
    let metrics = client::send(gateway.admin, "GET", "/metrics", &[], String::new()).await.unwrap().1;
    for line in
        ["portcullis_upstream_refused_total{service=\"orders\"} 1", "portcullis_upstream_waiting{service=\"orders\"} 0"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
}

/// Does something on a thread that has another place than this one. Threads that are no workers share a few places, so
/// it may take more than one to find it.
async fn elsewhere<F: Future>(act: impl Fn() -> F + Clone + Send + 'static) {
    let here = worker::index();
    let mut done = false;
    while !done {
        let act = act.clone();
        let try_it = move || {
            let elsewhere = worker::index() != here;
            if elsewhere {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(act());
            }
            elsewhere
        };
        done = tokio::task::spawn_blocking(|| thread::spawn(try_it).join().unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn an_idle_connection_of_one_worker_makes_room_for_another_worker() {
    let fake = Fake::new().await;
    let proxy = Arc::new(narrow(&[&fake], Limits { open: 1, ..Limits::default() }));
    tokio::spawn(fake.answer(OK));
    assert_eq!(ask(&proxy, "/").await, "ok");
    let other = proxy.clone();
    elsewhere(move || {
        let proxy = other.clone();
        async move { assert_eq!(ask(&proxy, "/").await, "ok") }
    })
    .await;
    let counts = proxy.counts();
    assert_eq!((counts.created, counts.open, counts.closed[Closed::Surplus as usize]), (2, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_worker_has_connections_of_its_own() {
    let fake = Fake::new().await;
    let proxy = Arc::new(Proxy::to(&[fake.address]));
    tokio::spawn(fake.answer(OK));
    let mut served = Vec::new();
    // Threads that are no workers share a few places, so it may take more than two threads to have two places.
    while served.len() < 2 {
        let (proxy, taken) = (proxy.clone(), served.clone());
        let serve = move || {
            let place = worker::index();
            let is_new = !taken.contains(&place);
            if is_new {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    for _ in 0..3 {
                        assert_eq!(ask(&proxy, "/").await, "ok");
                    }
                });
            }
            is_new.then_some(place)
        };
        served.extend(tokio::task::spawn_blocking(|| thread::spawn(serve).join().unwrap()).await.unwrap());
    }
    let counts = proxy.counts();
    assert_eq!((counts.created, counts.reused, counts.open, counts.idle), (2, 4, 2, 2));
    // Their runtimes are gone, and the connections with them.
    proxy.pools.sweep();
    assert_eq!((proxy.counts().open, proxy.counts().idle), (0, 0));
}
