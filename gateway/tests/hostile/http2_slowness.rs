//! Clients that speak HTTP/2 and take their time.

use std::time::Duration;

use tokio::time::Instant;

use super::support::speaker::*;
use super::*;

const CLOCKS: &str = "timeouts = { header = \"10s\", idle = \"40s\", body_idle = \"20s\", ping = \"0s\" }";

/// How the connection ends from now on: after how many seconds, and with which code.
async fn end(client: &mut Speaker) -> (u64, Option<u32>) {
    let begin = Instant::now();
    let frames = client.rest().await;
    let goodbye = frames.iter().rev().find(|frame| frame.kind == GOAWAY);
    (begin.elapsed().as_secs(), goodbye.map(|frame| frame.number(4)))
}

#[tokio::test(start_paused = true)]
async fn half_a_preface_is_answered_with_408_when_its_time_is_over() {
    let target = Logged::before(support::nobody().await, CLOCKS).await;
    for said in [&PREFACE[..10], &PREFACE[..20]] {
        let begin = Instant::now();
        let mut client = target.connect().await;
        client.put(said).await;
        assert_eq!(refused(&mut client).await, (408, "header_timeout".into()));
        assert!((10..13).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    }
    assert_eq!(target.lines().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_while_to_begin_may_speak_it_all_the_same() {
    // A connection that rests is left to a socket and a clock, and what comes then is its first word all the same.
    let witness = Witness::new().await;
    let target = Logged::before(witness.address, "").await;
    let mut client = target.connect().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.put([PREFACE, &frame(SETTINGS, 0, 0, ""), &get(1, "/")].concat()).await;
    let mut client = Speaker { wire: client };
    assert_eq!(client.until(DATA).await.payload, b"ok");

    let mut client = target.connect().await;
    client.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.take_until("\r\n\r\nok").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.put(PREFACE).await;
    assert_eq!(refused(&mut client).await.0, 505);
}

#[tokio::test(start_paused = true)]
async fn a_header_block_that_is_never_whole_ends_the_connection() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, CLOCKS).await;
    let block = block(&asks("GET", "/"));
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    for (what, bytes) in [
        ("half a frame", whole[..whole.len() / 2].to_vec()),
        ("half a block", frame(HEADERS, END_STREAM, 1, &block[..20])),
        (
            "a continuation that goes on",
            [frame(HEADERS, END_STREAM, 1, &block[..9]), frame(CONTINUATION, 0, 1, &block[9..20])].concat(),
        ),
    ] {
        let before = target.lines().await.len();
        let mut client = Speaker::connect(target.address).await;
        client.put(bytes).await;
        assert_eq!(end(&mut client).await, (10, Some(ENHANCE_YOUR_CALM)), "{what}");
        let lines = target.first_lines(before + 1).await;
        let line = lines.last().unwrap();
        assert_eq!((&line["status"], &line["cause"]), (&408.into(), &"header_timeout".into()), "{what}: {line}");
    }
    assert!(!fake.is_wanted().await, "something went upstream");
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_nothing_is_told_to_go_and_who_does_not_go_is_left() {
    let target = Logged::before(support::nobody().await, CLOCKS).await;
    let mut client = Speaker::connect(target.address).await;
    client.until_some(|frame| frame.kind == SETTINGS && frame.flags == ACK).await;
    // It was told, and two seconds later it was still there.
    assert_eq!(end(&mut client).await, (42, Some(NO_ERROR)));
    assert_eq!(target.lines().await.len(), 0, "nothing is wrong with that");

    let mut client = Speaker::connect(target.address).await;
    client.until_some(|frame| frame.kind == SETTINGS && frame.flags == ACK).await;
    let begin = Instant::now();
    client.until(GOAWAY).await;
    let ping = client.until(PING).await;
    client.put(frame(PING, ACK, 0, ping.payload)).await;
    assert_eq!(end(&mut client).await.1, Some(NO_ERROR));
    assert_eq!(begin.elapsed().as_secs(), 40, "who answers is let go at once");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_still_on_its_way_keeps_the_connection() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "timeouts = { idle = \"5s\" }").await;
    let mut client = Speaker::connect(target.address).await;
    client.put(get(1, "/")).await;
    let mut instance = fake.accept().await;
    instance.head().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        client.put(frame(PING, 0, 0, b"patient!")).await;
        client.until(PING).await;
    }
    instance.put(OK).await;
    assert_eq!(client.until(DATA).await.payload, b"ok");
    assert_eq!(end(&mut client).await.0, 7);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_is_answered_with_408_and_others_go_on() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, CLOCKS).await;
    let mut client = Speaker::connect(target.address).await;
    client.put(frame(HEADERS, END_HEADERS, 1, block(&asks("POST", "/slow")))).await;
    client.put(frame(DATA, 0, 1, "a part")).await;
    let mut instance = fake.accept().await;
    instance.head().await;
    let begin = Instant::now();
    client.put(get(3, "/quick")).await;
    let mut other = fake.accept().await;
    other.answer(OK).await;
    assert_eq!(client.until(DATA).await.stream, 3);
    assert_eq!(client.until(HEADERS).await.stream, 1);
    assert_eq!(begin.elapsed().as_secs(), 20);
    let lines = target.first_lines(2).await;
    assert_eq!((&lines[1]["status"], &lines[1]["cause"]), (&408.into(), &"idle_timeout".into()), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_takes_is_given_up() {
    // A window of nothing: each stream keeps an answer in memory, and its connection to the instance.
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, CLOCKS).await;
    let mut client = Speaker::with(target.address, &[(4, 0)]).await;
    for stream in [1, 3, 5] {
        client.put(get(stream, "/")).await;
    }
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 10 << 20);
    let mut sending = Vec::new();
    for _ in 0..3 {
        let mut instance = fake.accept().await;
        instance.head().await;
        let head = head.clone();
        sending.push(tokio::spawn(async move {
            instance.put(head).await;
            while instance.try_put([b'x'; 4096]).await.is_ok() {}
        }));
    }
    let begin = Instant::now();
    for _ in 0..3 {
        let reset = client.until(RST_STREAM).await;
        assert_eq!(reset.number(0), CANCEL);
    }
    assert_eq!(begin.elapsed().as_secs(), 20);
    for sending in sending {
        sending.await.unwrap();
    }
    let lines = target.first_lines(3).await;
    assert!(lines.iter().all(|line| line["cause"] == "idle_timeout"), "{lines:?}");
    // Somebody who takes what little comes is served as long as it lasts.
    client.put([numbered(WINDOW_UPDATE, 0, 1000), get(7, "/")].concat()).await;
    let mut instance = fake.accept().await;
    instance.answer(OK).await;
    for byte in [b"o", b"k"] {
        tokio::time::sleep(Duration::from_secs(15)).await;
        client.put(numbered(WINDOW_UPDATE, 7, 1)).await;
        assert_eq!(client.until(DATA).await.payload, byte);
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_answer_that_nobody_takes_is_no_success() {
    // It was all there at once, and the log said that it was all sent.
    let route = "[[route]]\nmatch = { path = \"/\" }\nrespond = { body = \"hello\" }\n";
    let target = Logged::with(&format!("{CLOCKS}\n{route}")).await;
    let mut client = Speaker::with(target.address, &[(4, 0)]).await;
    client.put([get(1, "/"), get(3, "/")].concat()).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    client.put(numbered(WINDOW_UPDATE, 3, 5)).await;
    assert_eq!(client.until(DATA).await.payload, b"hello");
    let reset = client.until(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (1, CANCEL));
    let lines = target.first_lines(2).await;
    assert_eq!((&lines[0]["cause"], &lines[0]["bytes_out"]), (&Value::Null, &5.into()), "{lines:?}");
    assert_eq!((&lines[1]["cause"], &lines[1]["bytes_out"]), (&"idle_timeout".into(), &0.into()), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_gives_no_sign_of_life_is_asked_for_one_and_closed_without() {
    let fake = Fake::new().await;
    let target = Logged::before(fake.address, "timeouts = { ping = \"5s\" }").await;
    let mut client = Speaker::connect(target.address).await;
    client.put(get(1, "/")).await;
    fake.accept().await.head().await;
    let begin = Instant::now();
    let ping = client.until_some(|frame| frame.kind == PING && frame.flags == 0).await;
    assert_eq!(begin.elapsed().as_secs(), 5);
    client.put(frame(PING, ACK, 0, ping.payload)).await;
    client.until_some(|frame| frame.kind == PING && frame.flags == 0).await;
    assert_eq!(end(&mut client).await.0, 5, "its request would wait much longer");
    assert_eq!(target.line().await["cause"], "client_closed");
}
