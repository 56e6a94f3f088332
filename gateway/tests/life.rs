//! The life of a gateway: start, serve, reload, drain; and what a client sees of it.

mod support;

use std::net::SocketAddr;

use portcullis::app::App;
use portcullis::{Gateway, plugins};
use support::gateway::Running;
use support::process::Process;
use support::speaker::*;
use support::{Fake, Wire, header};
use tokio::net::TcpListener;

const HELLO: &str = "[[route]]\nmatch = { path = \"/hello\" }\nrespond = { body = \"hello\" }\n";
const ADIEU: &str = "[[route]]\nmatch = { path = \"/hello\" }\nrespond = { body = \"adieu\" }\n";

#[tokio::test]
async fn a_request_no_route_wants_gets_404_with_cause_and_id() {
    let gateway = Running::start(HELLO).await;
    assert_eq!(gateway.get("/hello").await, (200, "hello".to_owned()));
    let (status, body) = gateway.get("/nowhere").await;
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 404);
    assert_eq!(problem["cause"], "no_route");
    assert_eq!(problem["request_id"].as_str().unwrap().len(), 32, "{body}");
}

#[tokio::test]
async fn a_reload_swaps_the_whole_plan() {
    let gateway = Running::start(HELLO).await;
    let (status, body) = gateway.reload(ADIEU).await;
    assert_eq!(status, 200, "{body}");
    // If the change of the file was noticed first, this reload finds nothing changed.
    assert!(body.contains("changed: route `#1`") || body.contains("sections kept\""), "{body}");
    assert_eq!(gateway.get("/hello").await, (200, "adieu".to_owned()));
}

#[tokio::test]
async fn a_wrong_file_changes_nothing_and_says_why() {
    let gateway = Running::start(HELLO).await;
    let (status, body) = gateway.reload("[[route]]\nrespnd = {}\n[[route]]\nservice = \"nobody\"\n").await;
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("unknown key `respnd`") && body.contains("unknown service `nobody`"), "{body}");
    assert_eq!(gateway.get("/hello").await, (200, "hello".to_owned()));

    let config = portcullis::admin::client::send(gateway.admin, "GET", "/config", &[], String::new()).await.unwrap().1;
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_ne!(config["refused"], 0, "{config}");
    assert_eq!(config["last_refusal"]["faults"][0]["line"], 7, "{config}");
}

#[tokio::test]
async fn a_change_of_the_file_is_a_reload() {
    let gateway = Running::start(HELLO).await;
    let text = std::fs::read_to_string(&gateway.file).unwrap();
    std::fs::write(&gateway.file, text.replace("\"hello\" }", "\"changed\" }")).unwrap();
    gateway.until("/hello", 200, "changed").await;
}

#[tokio::test]
async fn what_changes_only_with_a_restart_is_said() {
    let gateway = Running::start(HELLO).await;
    let text = std::fs::read_to_string(&gateway.file).unwrap();
    std::fs::write(&gateway.file, format!("workers = 77\n{text}")).unwrap();
    let (status, body) = portcullis::admin::client::post(gateway.admin, "/reload", String::new()).await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("`workers` changes only with a restart"), "{body}");
}

#[tokio::test]
async fn the_admin_api_takes_no_orders_from_web_pages() {
    let gateway = Running::start(HELLO).await;
    let own = gateway.admin;
    for (target, headers, status) in [
        ("/reload", format!("host: {own}\r\n"), 200),
        ("/reload", "host: localhost\r\n".to_owned(), 200),
        ("/reload", format!("host: {own}\r\nsec-fetch-site: same-origin\r\n"), 200),
        ("/reload", format!("host: {own}\r\norigin: http://evil.example\r\n"), 403),
        ("/reload", format!("host: {own}\r\nsec-fetch-site: cross-site\r\n"), 403),
        ("/reload", "host: evil.example\r\n".to_owned(), 403),
        // The absolute form wins over `Host`, here as everywhere.
        ("http://evil.example/reload", format!("host: {own}\r\n"), 403),
        ("/reload", format!("host: {own}\r\nhost: evil.example\r\n"), 400),
    ] {
        let mut client = Wire::connect(own).await;
        client.put(format!("POST {target} HTTP/1.1\r\n{headers}content-length: 0\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target} {headers:?}: {head}");
    }
}

#[tokio::test]
async fn a_request_in_flight_finishes_on_the_plan_it_began_with() {
    let fake = Fake::new().await;
    let to_fake = format!("[service.a]\ninstances = [\"{}\"]\n[[route]]\nservice = \"a\"\n", fake.address);
    let gateway = Running::start(&to_fake).await;
    let mut client = Wire::connect(gateway.address).await;
    client.put("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut instance = fake.accept().await;
    instance.head().await;

    assert_eq!(gateway.reload(HELLO).await.0, 200);
    assert_eq!(gateway.get("/slow").await.0, 404, "the new plan serves");
    instance.put("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
    assert!(client.take_until("late").await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_hundred_reloads_under_load_fail_no_request() {
    let fake = Fake::new().await;
    let address = fake.address;
    let upstream = tokio::spawn(fake.answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    let toml =
        |n: usize| format!("[service.a]\ninstances = [\"{address}\"]\n[[route]]\nname = \"r{n}\"\nservice = \"a\"\n");
    let gateway = Running::start(&toml(0)).await;
    let target = gateway.address;
    let load = tokio::spawn(async move {
        let mut answered = 0;
        let mut client = Wire::connect(target).await;
        loop {
            client.put("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            client.take(support::content_length(&head)).await;
            answered += 1;
            if answered % 64 == 0 {
                tokio::task::yield_now().await;
            }
            if answered == 5_000 {
                return answered;
            }
        }
    });
    for n in 0..100 {
        let wrong = n % 10 == 9;
        let (status, body) = gateway.reload(&if wrong { "nonsense".to_owned() } else { toml(n) }).await;
        assert_eq!(status, if wrong { 422 } else { 200 }, "{body}");
    }
    assert_eq!(load.await.unwrap(), 5_000);
    upstream.abort();
}

#[tokio::test]
async fn a_taken_port_names_the_listener_and_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let gateway = Gateway::new(plugins());
    let (plan, _) = gateway.plan_text("gateway.toml", &format!("[listener.web]\naddress = \"{address}\"\n{HELLO}"));
    let error = App::start(gateway, plan.unwrap(), None).await.err().expect("the port is taken").to_string();
    assert!(error.contains("`web`") && error.contains(&address.to_string()) && error.contains("in use"), "{error}");
}

#[tokio::test]
async fn an_access_log_that_cannot_be_written_stops_the_start_and_refuses_the_reload() {
    let toml =
        |output| format!("access_log = {{ output = {output} }}\n[listener.web]\naddress = \"127.0.0.1:0\"\n{HELLO}");
    let nowhere = r#"{ file = "/nowhere/at/all.log" }"#;
    let gateway = Gateway::new(plugins());
    let (plan, _) = gateway.plan_text("gateway.toml", &toml(nowhere));
    let error = App::start(gateway, plan.unwrap(), None).await.err().expect("there is no such directory").to_string();
    assert!(error.contains("access log") && error.contains("/nowhere/at/all.log"), "{error}");

    let gateway = Running::start(HELLO).await;
    let text = std::fs::read_to_string(&gateway.file).unwrap();
    std::fs::write(&gateway.file, text.replace("\"off\"", nowhere)).unwrap();
    let (status, body) = portcullis::admin::client::post(gateway.admin, "/reload", String::new()).await.unwrap();
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("/nowhere/at/all.log"), "{body}");
    assert_eq!(gateway.get("/hello").await, (200, "hello".to_owned()));
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_finish_and_then_ends_with_0() {
    let fake = Fake::new().await;
    let (mut gateway, address) = before(&fake).await;
    let admin = gateway.says("the admin API listens").await["address"].as_str().unwrap().parse().unwrap();
    let mut client = Wire::connect(address).await;
    client.put("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut instance = fake.accept().await;
    instance.head().await;

    gateway.signal("TERM");
    gateway.says("draining").await;
    // It waited for an answer until the process ended.
    let (status, body) = portcullis::admin::client::post(admin, "/reload", String::new()).await.unwrap();
    assert_eq!(status, 503, "{body}");
    instance.put("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert_eq!(header(&head, "connection"), Some("close"));
    assert_eq!(client.take(4).await, b"late");

    let (ended, access_log) = gateway.end().await;
    assert!(ended.success(), "{ended}");
    assert_eq!(access_log.lines().count(), 1, "{access_log}");
}

#[tokio::test]
async fn a_tunnel_lives_while_the_gateway_drains_and_is_cut_by_a_second_word() {
    let fake = Fake::new().await;
    let (mut gateway, address) = before(&fake).await;
    gateway.says("the admin API listens").await;
    let mut client = Wire::connect(address).await;
    client.put("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let mut instance = fake.accept().await;
    instance.head().await;
    instance.put("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    client.head().await;

    gateway.signal("TERM");
    gateway.says("draining").await;
    client.put("still").await;
    assert_eq!(instance.take(5).await, b"still");
    instance.put("there").await;
    assert_eq!(client.take(5).await, b"there");

    gateway.signal("TERM");
    assert_eq!((client.rest().await, instance.rest().await), (vec![], vec![]));
    let (ended, access_log) = gateway.end().await;
    assert!(ended.success(), "{ended}");
    let line: serde_json::Value = serde_json::from_str(access_log.trim()).expect("one line");
    assert_eq!((&line["status"], &line["cause"]), (&101.into(), &"draining".into()), "{line}");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &5.into()), "{line}");
}

#[tokio::test]
async fn what_a_library_says_of_a_clients_frames_does_not_fill_the_log() {
    let fake = Fake::new().await;
    let (mut gateway, address) = before(&fake).await;
    let mut client = Speaker::connect(address).await;
    for _ in 0..50 {
        client.put(frame(PING, ACK, 0, [1; 8])).await;
    }
    client.put(get(1, "/")).await;
    fake.accept().await.answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    client.until(HEADERS).await;
    let said = gateway.said();
    assert!(
        said.iter().all(|line| line["target"].as_str().is_some_and(|target| target.starts_with("portcullis"))),
        "{said:?}"
    );
}

/// Starts a process before this instance; where it listens.
async fn before(instance: &Fake) -> (Process, SocketAddr) {
    let (address, rest) = (instance.address, "[[route]]\nservice = \"a\"\n");
    Process::start(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\n[service.a]\ninstances = [\"{address}\"]\n{rest}"
    ))
    .await
}

#[tokio::test(start_paused = true)]
async fn a_head_that_takes_too_long_is_answered_and_ends_the_connection() {
    let gateway = Running::start(HELLO).await;
    let mut client = Wire::connect(gateway.address).await;
    client.put("GET /hello HTTP/1.1\r\nhos").await;
    // After ten seconds of the test's clock.
    assert!(client.rest().await.starts_with(b"HTTP/1.1 408 "));
}

#[tokio::test]
async fn hosts_that_can_be_read_two_ways_are_refused() {
    let gateway = Running::start(HELLO).await;
    for hosts in ["host: a\r\nhost: b\r\n", "host: a,b\r\n", "host: user@a\r\n", ""] {
        let mut client = Wire::connect(gateway.address).await;
        client.put(format!("GET /hello HTTP/1.1\r\n{hosts}\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 400"), "{hosts:?}: {head}");
    }
}

#[tokio::test]
async fn listeners_that_share_an_address_are_told_apart_by_host_without_fall_through() {
    let gateway = Running::start_whole(
        r#"
        [admin]
        address = "127.0.0.1:0"
        [listener.api]
        address = "127.0.0.1:0"
        hosts = ["api.example.com"]
        [listener.rest]
        address = "127.0.0.1:0"
        [[route]]
        listeners = ["api"]
        match = { path = "/api" }
        respond = { body = "api" }
        [[route]]
        listeners = ["rest"]
        respond = { body = "rest" }
        "#,
    )
    .await;
    for (host, path, status) in [
        ("other.example", "/api", 200),
        ("127.0.0.1", "/", 200),
        ("API.example.com.:80", "/api", 200),
        ("api.example.com", "/other", 404),
    ] {
        let mut client = Wire::connect(gateway.address).await;
        client.put(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{host}{path}: {head}");
    }
}

#[tokio::test]
async fn a_panic_in_a_chain_refuses_the_request_and_the_gateway_lives_on() {
    use portcullis_middleware::prelude::*;

    /// Panics on demand.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Fragile {}
    impl Plugin for Fragile {
        const NAME: &'static str = "fragile";
        const EXAMPLE: &'static str = "";
        fn build(self, _: &Context<'_>) -> Result<RouteLayer, BuildError> {
            Ok(RouteLayer::guard(self))
        }
    }
    impl Guard for Fragile {
        fn check(&self, request: &mut Request) -> Result<(), Rejection> {
            assert_ne!(request.uri().path(), "/panic");
            Ok(())
        }
    }
    let toml =
        "[listener.web]\naddress = \"127.0.0.1:0\"\n[[route]]\nchain = [\"fragile\"]\nrespond = { body = \"ok\" }\n";
    let gateway = Gateway::new(plugins().middleware::<Fragile>());
    let (plan, faults) = gateway.plan_text("gateway.toml", toml);
    let app = App::start(gateway, plan.unwrap_or_else(|| panic!("{}", faults.render(false))), None).await.unwrap();
    let address = app.bound("127.0.0.1:0".parse().unwrap()).unwrap();
    let app = tokio::spawn(app.until_stopped());
    for (path, status) in [("/", 200), ("/panic", 500), ("/", 200)] {
        let answer = portcullis::admin::client::send(address, "GET", path, &[], String::new()).await.unwrap();
        assert_eq!(answer.0, status, "{answer:?}");
    }
    app.abort();
}
