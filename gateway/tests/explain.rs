//! `portcullis explain` says what the server does: asked about the same requests, both agree.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Output};

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis::Gateway;
use portcullis::admin::client;
use portcullis::app::App;
use portcullis::explain::{Asked, Explanation};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

/// How many random requests are compared.
const REQUESTS: usize = 600;

/// Tells in headers what it was asked, and by which name it goes.
async fn upstream(name: &'static str) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    let echo = move |request: Request<Body>| async move {
        let text = |name: &str| {
            let value = request.headers().get(name);
            value.cloned().unwrap_or_else(|| HeaderValue::from_static("none"))
        };
        let mut seen = HeaderMap::new();
        seen.insert("seen-service", HeaderValue::from_static(name));
        seen.insert("seen-method", HeaderValue::try_from(request.method().as_str()).expect("a token"));
        seen.insert("seen-target", HeaderValue::from_bytes(request.uri().to_string().as_bytes()).expect("a target"));
        for header in ["host", "x-forwarded-for", "x-real-ip", "x-forwarded-host", "x-kept"] {
            let name = HeaderName::try_from(format!("seen-{header}")).expect("a name");
            seen.insert(name, text(header));
        }
        seen
    };
    tokio::spawn(axum::serve(socket, axum::Router::new().fallback(echo)).into_future());
    address
}

/// A gateway with much of what a file can say.
async fn gateway() -> App {
    let (orders, shop, site) = (upstream("orders").await, upstream("shop").await, upstream("site").await);
    let text = format!(
        r#"
        trusted_proxies = ["127.0.0.1", "10.0.0.0/8"]
        workers = 1
        access_log = {{ output = "off" }}
        [admin]
        address = "127.0.0.1:0"

        [listener.public]
        address = "127.0.0.1:0"
        chain = ["request_id", "crowd", "router"]
        [listener.api]
        address = "127.0.0.1:0"
        hosts = ["api.example.com", "*.api.example.com"]
        [listener.strict]
        address = "127.0.0.1:0"
        hosts = ["strict.example.com"]
        chain = ["office", "router"]

        [registry.default]
        type = "memory"
        [service.orders]
        instances = ["{orders}"]
        [service.shop]
        instances = ["{shop}"]
        keep_host = false
        [service.site]
        instances = ["{site}"]
        [service.empty]
        instances = []

        [middleware.office]
        type = "ip_whitelist"
        allow = ["127.0.0.1", "192.0.2.0/24"]
        [middleware.crowd]
        type = "ip_whitelist"
        deny = ["198.51.100.0/24"]

        [[route]]
        name = "orders"
        match = {{ hosts = ["api.example.com"], path = "/orders/{{id}}", methods = ["GET", "POST"] }}
        chain = [{{ type = "headers", response = {{ set = {{ x-route = "orders" }} }} }}, "office", {{ type = "rewrite", path = "/v2/{{id}}" }}]
        service = "orders"

        [[route]]
        name = "canary"
        match = {{ hosts = ["api.example.com"], path = "/orders/{{id}}", headers = {{ x-env = "canary" }} }}
        chain = [{{ type = "headers", response = {{ set = {{ x-route = "canary" }} }}, request = {{ remove = ["x-kept"] }} }}]
        service = "empty"

        [[route]]
        name = "shop"
        match = [{{ path = {{ prefix = "/shop" }} }}, {{ path = "/shop", query = {{ debug = "1" }}, methods = ["PUT"] }}]
        chain = [{{ type = "headers", response = {{ set = {{ x-route = "shop" }} }} }}, {{ type = "rewrite", prefix = "/inner" }}]
        split = [{{ service = "shop", weight = 1 }}, {{ service = "site", weight = 1, chain = ["office"] }}]
        sticky = {{ header = "x-user" }}

        [[route]]
        name = "pages"
        match = {{ path = "/pages/{{*rest}}" }}
        chain = [{{ type = "headers", response = {{ set = {{ x-route = "pages" }} }} }}, {{ type = "cors", origins = ["https://app.example.com"] }}]
        service = "site"

        [[route]]
        name = "local"
        match = {{ path = {{ regex = "/local/[0-9]+" }}, clients = ["192.0.2.0/24"] }}
        chain = [{{ type = "headers", response = {{ set = {{ x-route = "local" }} }} }}]
        service = "resting"

        [[route]]
        name = "delete-only"
        match = {{ path = "/things", methods = ["DELETE"], cookies = {{ session = {{ present = true }} }} }}
        chain = [{{ type = "headers", response = {{ set = {{ x-route = "delete-only" }} }} }}]
        service = "site"

        [[route]]
        name = "dynamic"
        match = {{ path = "/dyn/{{service}}/{{*rest}}" }}
        chain = [{{ type = "headers", response = {{ set = {{ x-route = "dynamic" }} }} }}]
        service = "{{service}}"

        [[route]]
        name = "health"
        match = {{ path = "/healthz" }}
        chain = [{{ type = "headers", response = {{ set = {{ x-route = "health" }} }} }}]
        respond = {{ status = 203, body = "ok" }}

        [[route]]
        name = "old"
        match = {{ hosts = ["old.example.com"], path = {{ prefix = "/was" }} }}
        chain = [{{ type = "headers", response = {{ set = {{ x-route = "old" }} }} }}]
        redirect = {{ host = "new.example.com", prefix = "/is", status = 308 }}
        "#
    );
    let app = start(&text).await;
    let admin = app.admin().expect("there is an admin listener");
    for registration in [
        format!(r#"{{"service":"listed","address":"{orders}"}}"#),
        format!(r#"{{"service":"resting","address":"{site}","weight":0}}"#),
    ] {
        let (status, body) = client::post(admin, "/register", registration).await.expect("an answer");
        assert_eq!(status, 200, "{body}");
    }
    app
}

async fn start(text: &str) -> App {
    let gateway = Gateway::new(portcullis::plugins());
    let (plan, faults) = gateway.plan_text("gateway.toml", text);
    let plan = plan.unwrap_or_else(|| panic!("the file is right: {}", faults.render(false)));
    App::start(gateway, plan, None).await.expect("ports are free")
}

/// Where the listeners of these tests are.
fn bound(app: &App) -> SocketAddr {
    app.bound("127.0.0.1:0".parse().expect("an address")).expect("it is bound")
}

/// What a client sees of an answer.
struct Seen {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    fn cause(&self) -> Option<String> {
        if let (Some(_), Some(cause)) = (self.header("grpc-status"), self.header("grpc-message")) {
            return Some(cause);
        }
        let problem: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        problem["cause"].as_str().map(str::to_owned)
    }
}

async fn send(address: SocketAddr, asked: &Asked) -> Seen {
    let socket = TcpSocket::new_v4().expect("a socket");
    let client = asked.client.expect("a test says who asks");
    socket.bind(SocketAddr::new(client, 0)).expect("all of 127.0.0.0/8 is ours");
    let stream = socket.connect(address).await.expect("the gateway listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    let connection = tokio::spawn(connection);
    let mut request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
    *request.method_mut() = Method::from_bytes(asked.method.as_bytes()).expect("a method");
    *request.uri_mut() = asked.url.parse::<Uri>().expect("a target");
    for (name, value) in &asked.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    connection.abort();
    let body = String::from_utf8_lossy(&body).into_owned();
    Seen { status: head.status.as_u16(), headers: head.headers, body }
}

fn pick<T: Copy>(random: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[random.usize(..choices.len())]
}

fn asked(random: &mut fastrand::Rng) -> Asked {
    let hosts = [
        "api.example.com",
        "api.example.com",
        "API.Example.com:8080",
        "api.example.com.",
        "deep.api.example.com",
        "strict.example.com",
        "old.example.com",
        "127.0.0.1",
        "[::1]:80",
        "nobody.test",
        "user@api.example.com",
        "a,b",
        "api.example.com:99999",
    ];
    let paths = [
        "/orders/7",
        "/orders/7?x=1&y=%20",
        "/orders/",
        "/orders",
        "/orders/7/8",
        "//orders/7",
        "/orders/%2e%2e",
        "/x/../orders/7",
        "/orders;v=1/7",
        "/orders/7%3A8",
        "/orders/%2f7",
        "/orders/a%2Fb",
        "/shop",
        "/shop/",
        "/shop/a/b?debug=1",
        "/shopping",
        "/pages/a",
        "/local/12",
        "/local/x",
        "/things",
        "/dyn/listed/x",
        "/dyn/nobody/x",
        "/dyn/orders/x",
        "/dyn/%6f/x",
        "/healthz",
        "/was/here?a=b",
        "/",
        "/a;b=c/$!'()*+,:@~",
        "/x://y",
    ];
    let methods = ["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PURGE", "get", "TRACE"];
    let forwarded = [
        "192.0.2.7",
        "198.51.100.1",
        "203.0.113.9, 10.0.0.1",
        "192.0.2.7, 203.0.113.1",
        "::ffff:192.0.2.7",
        "unknown",
        "garbage, 192.0.2.9",
        ", ,",
        "198.51.100.1:80",
    ];
    // Half of all requests are meant for some route; what else they carry is random.
    let meant = [
        ("GET", "api.example.com", "/orders/7"),
        ("DELETE", "api.example.com", "/orders/7"),
        ("GET", "old.example.com", "/was/here?a=b"),
        ("DELETE", "nobody.test", "/things"),
        ("PUT", "nobody.test", "/shop?debug=1"),
        ("OPTIONS", "nobody.test", "/pages/a"),
        ("GET", "nobody.test", "/local/12"),
        ("HEAD", "nobody.test", "/healthz"),
        ("POST", "nobody.test", "/dyn/resting/x"),
        ("GET", "nobody.test", "/dyn/listed/x"),
    ];
    let (method, host, url) = match random.bool() {
        true => pick(random, &meant),
        false => (pick(random, &methods), pick(random, &hosts), pick(random, &paths)),
    };
    let mut headers = vec![("host".to_owned(), host.to_owned())];
    if random.u8(..40) == 0 {
        headers.push(("host".to_owned(), pick(random, &hosts).to_owned()));
    }
    let mut maybe = |chance: f64, name: &str, values: &[&str]| {
        if random.f64() < chance {
            headers.push((name.to_owned(), pick(random, values).to_owned()));
        }
    };
    maybe(0.5, "x-forwarded-for", &forwarded);
    maybe(0.1, "x-forwarded-for", &forwarded);
    maybe(0.2, "forwarded", &["for=192.0.2.7", "for=\"[2001:db8::1]:80\"", "for=_hidden"]);
    maybe(0.3, "x-env", &["canary", "Canary", ""]);
    // Without it a split would draw twice, once for the answer and once for the explanation.
    maybe(1.0, "x-user", &["anna", "bert", "carla", "dora"]);
    maybe(0.3, "cookie", &["session=1", "a=b; session=", "sessions=1"]);
    maybe(0.2, "origin", &["https://app.example.com", "https://evil.example"]);
    maybe(0.2, "access-control-request-method", &["PUT"]);
    maybe(0.1, "content-type", &["application/grpc", "application/grpc+proto", "text/plain"]);
    maybe(0.2, "x-kept", &["1"]);
    maybe(0.1, "connection", &["x-kept", "x-env", "keep-alive"]);
    maybe(0.1, "x-odd", &["ü", "\"", "a  b"]);
    Asked {
        method: method.to_owned(),
        url: url.to_owned(),
        headers,
        client: Some(pick(random, &["127.0.0.1", "127.0.0.1", "127.0.0.9"]).parse().expect("an address")),
        listener: Some("public".to_owned()),
    }
}

#[tokio::test]
async fn the_running_gateway_does_what_it_says_it_would() {
    let app = gateway().await;
    let address = bound(&app);
    let admin = app.admin().expect("there is an admin listener");
    let mut random = fastrand::Rng::with_seed(20);
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..REQUESTS {
        let asked = asked(&mut random);
        let question = serde_json::to_string(&asked).expect("it serialises");
        let (status, body) = client::post(admin, "/explain", question).await.expect("an answer");
        assert_eq!(status, 200, "{asked:?}: {body}");
        let told: Explanation = serde_json::from_str(&body).expect("an explanation");
        let seen = send(address, &asked).await;
        let about = format!("{asked:#?}\n{told:#?}\n{} {:#?} {}", seen.status, seen.headers, seen.body);

        assert_eq!(told.answer.status, seen.status, "status: {about}");
        assert_eq!(told.route, seen.header("x-route"), "route: {about}");
        if !seen.body.is_empty() || asked.method != "HEAD" {
            assert_eq!(told.answer.cause, seen.cause(), "cause: {about}");
        }
        assert_eq!(told.upstream.is_some() && told.answer.forwarded, seen.header("seen-service").is_some(), "{about}");
        // A redirect names the port, which explain can only know from a URL.
        let location = seen.header("location").map(|location| location.replace(&format!(":{}", address.port()), ":0"));
        assert_eq!(told.answer.location.clone(), location, "location: {about}");
        if let Some(upstream) = &told.upstream {
            let service = seen.header("seen-service").expect("it was forwarded");
            assert!(upstream.service == service || told.route.as_deref() == Some("dynamic"), "service: {about}");
            sent(upstream, &seen, &about);
        }
        steps_agree(&told, &about);
        let outcome = format!("{:?} {} {:?}", told.route, told.answer.status, told.answer.cause);
        *outcomes.entry(outcome).or_default() += 1;
    }
    // The test is worth something only if it has seen much.
    assert!(outcomes.len() >= 20, "{outcomes:#?}");
    let routes = ["orders", "canary", "shop", "pages", "local", "delete-only", "dynamic", "health", "old"];
    for route in routes {
        assert!(outcomes.keys().any(|outcome| outcome.contains(&format!("\"{route}\""))), "{route}: {outcomes:#?}");
    }
}

#[tokio::test]
async fn a_request_that_is_only_asked_about_leaves_no_trace() {
    let daemon = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let (site, daemon_at) = (upstream("site").await, daemon.local_addr().expect("it is bound"));
    let text = format!(
        r#"
        trusted_proxies = ["127.0.0.1"]
        workers = 1
        access_log = {{ output = "off" }}
        [admin]
        address = "127.0.0.1:0"
        [listener.web]
        address = "127.0.0.1:0"
        [middleware.trace]
        type = "xray"
        daemon = "{daemon_at}"
        sampling = {{ reservoir = 1, rate = 0 }}
        [[route]]
        match = {{ path = {{ prefix = "/" }} }}
        chain = ["trace", {{ type = "ip_whitelist", deny = ["192.0.2.0/24"] }}]
        service = "site"
        [service.site]
        instances = ["{site}"]
        "#
    );
    let app = start(&text).await;
    let (address, admin) = (bound(&app), app.admin().expect("there is an admin listener"));
    let before = counted(admin).await;
    assert!(before.iter().any(|line| line.starts_with("portcullis_xray_requests_total")), "{before:#?}");
    for client in ["127.0.0.1", "192.0.2.7"] {
        let headers =
            [("host", "a.example"), ("x-forwarded-for", client), ("x-amzn-trace-id", "Sampled=1;Root=nonsense")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let client = Some("127.0.0.1".parse().expect("an address"));
        let asked = Asked { method: "GET".into(), url: "/asked".into(), headers, client, listener: None };
        let question = serde_json::to_string(&asked).expect("it serialises");
        let (status, body) = client::post(admin, "/explain", question).await.expect("an answer");
        assert_eq!(status, 200, "{body}");
    }
    assert_eq!(counted(admin).await, before);

    // The reservoir's one place of this second is still free, and the daemon hears of the real request first.
    let headers = vec![("host".to_owned(), "a.example".to_owned())];
    let client = Some("127.0.0.1".parse().expect("an address"));
    let sent = Asked { method: "GET".into(), url: "/sent".into(), headers, client, listener: None };
    assert_eq!(send(address, &sent).await.status, 200);
    let mut datagram = vec![0; 65_536];
    let length = daemon.recv(&mut datagram).await.expect("a datagram");
    let document = String::from_utf8_lossy(&datagram[..length]);
    assert!(document.contains("/sent") && !document.contains("/asked"), "{document}");
}

/// What was counted of requests so far.
async fn counted(admin: SocketAddr) -> Vec<String> {
    let (_, text) = client::send(admin, "GET", "/metrics", &[], String::new()).await.expect("an answer");
    let about = |line: &&str| ["request", "refus", "xray", "attempt"].iter().any(|word| line.contains(word));
    text.lines().filter(about).map(str::to_owned).collect()
}

/// The instance sees what was foretold.
fn sent(upstream: &portcullis::explain::Upstream, seen: &Seen, about: &str) {
    assert_eq!(Some(upstream.method.clone()), seen.header("seen-method"), "method: {about}");
    assert_eq!(Some(upstream.target.clone()), seen.header("seen-target"), "target: {about}");
    for name in ["host", "x-forwarded-for", "x-real-ip", "x-forwarded-host", "x-kept"] {
        let told = upstream.headers.iter().find(|(told, _)| told == name).map_or("none", |(_, value)| value.as_str());
        if !told.starts_with('(') {
            assert_eq!(Some(told.to_owned()), seen.header(&format!("seen-{name}")), "{name}: {about}");
        }
    }
}

/// The middleware that is said to refuse is the one whose cause the answer carries, and nothing comes after it.
fn steps_agree(told: &Explanation, about: &str) {
    use portcullis::explain::Verdict;
    let stopped = told.chain.iter().position(|step| matches!(step.verdict, Verdict::Refused(_) | Verdict::Answered(_)));
    if let Some(stopped) = stopped {
        if let Verdict::Refused(cause) = &told.chain[stopped].verdict {
            assert_eq!(Some(cause), told.answer.cause.as_ref(), "{about}");
        }
        assert!(told.chain[stopped + 1..].iter().all(|step| step.verdict == Verdict::NotReached), "{about}");
        assert!(!told.answer.forwarded, "{about}");
    } else {
        assert!(told.chain.iter().all(|step| step.verdict != Verdict::NotReached), "{about}");
    }
}

/// Explains a `GET` by a plan that serves nothing yet.
async fn told(file: &str, url: &str, change: impl FnOnce(&mut Asked)) -> Result<Explanation, String> {
    let (plan, faults) = Gateway::new(portcullis::plugins()).plan_text("gateway.toml", file);
    let plan = plan.unwrap_or_else(|| panic!("the file is right: {}", faults.render(false)));
    let mut asked = Asked { method: "GET".into(), url: url.into(), headers: Vec::new(), client: None, listener: None };
    change(&mut asked);
    portcullis::explain::explain(&plan, &asked).await
}

#[tokio::test]
async fn a_listener_is_found_by_its_name_then_by_port_then_by_host() {
    let file = r#"
        [listener.web]
        address = "127.0.0.1:8080"
        [listener.wild]
        address = "127.0.0.1:8081"
        hosts = ["*.example.com"]
        [listener.api]
        address = "127.0.0.1:8082"
        hosts = ["api.example.com"]
        [listener.shop]
        address = "127.0.0.1:8082"
        hosts = ["shop.example.com"]
        [[route]]
        match = { path = "/" }
        respond = { body = "ok" }
    "#;
    let found = async |url: &str, name: Option<&str>| {
        let told = told(file, url, |asked| asked.listener = name.map(str::to_owned)).await.expect("an explanation");
        (told.listener.map_or("none".to_owned(), |listener| listener.name), told.answer.status)
    };
    for (url, name, listener, status) in [
        ("http://api.example.com/", None, "api", 200),
        ("http://www.example.com/", None, "wild", 200),
        ("http://other.test/", None, "web", 200),
        ("http://api.example.com:8080/", None, "web", 200),
        ("http://api.example.com:8081/", None, "wild", 200),
        ("http://other.test:8081/", None, "none", 404),
        ("http://api.example.com/", Some("web"), "web", 200),
        ("http://shop.example.com/", Some("api"), "shop", 200),
        ("http://other.test/", Some("api"), "none", 404),
    ] {
        assert_eq!(found(url, name).await, (listener.to_owned(), status), "{url} {name:?}");
    }
}

#[tokio::test]
async fn a_refusal_in_one_part_of_a_split_is_told_as_that_parts() {
    let file = r#"
        [listener.web]
        address = "127.0.0.1:8080"
        [service.a]
        instances = ["127.0.0.1:1"]
        [service.b]
        instances = ["127.0.0.1:2"]
        [[route]]
        sticky = { header = "x-user" }
        split = [
            { service = "a", weight = 1, chain = [{ type = "ip_whitelist", allow = ["192.0.2.1"] }] },
            { service = "b", weight = 1, chain = [{ type = "headers", request = { set = { x-part = "b" } } }] },
        ]
    "#;
    let (mut refused, mut passed) = (0, 0);
    for user in 0..40 {
        let asking = |asked: &mut Asked| asked.headers = vec![("x-user".to_owned(), format!("user-{user}"))];
        let told = told(file, "http://a.test/", asking).await.expect("an explanation");
        let last = told.chain.last().expect("a middleware");
        match told.answer.cause.as_deref() {
            Some(cause) => {
                refused += 1;
                assert_eq!((cause, last.type_name.as_str()), ("ip_not_allowed", "ip_whitelist"), "{told:#?}");
                assert!(told.upstream.is_none());
            }
            None => {
                passed += 1;
                assert_eq!(last.type_name, "headers", "{told:#?}");
                // What the gateway adds for its services may be a secret.
                let part = ("x-part".to_owned(), "…".to_owned());
                assert!(
                    told.upstream.is_some_and(|upstream| upstream.service == "b" && upstream.headers.contains(&part))
                );
            }
        }
    }
    assert!(refused > 0 && passed > 0);
}

#[tokio::test]
async fn a_running_gateway_whose_registry_is_silent_does_answer_503() {
    let file = "[listener.web]\naddress = \"127.0.0.1:8080\"\n[registry.default]\ntype = \"consul\"\n\
                [[route]]\nservice = \"orders\"\n";
    let told = told(file, "http://a.test/", |_| {}).await.expect("an explanation");
    assert_eq!((told.answer.status, told.answer.cause.as_deref()), (503, Some("no_service")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_asks_the_running_gateway() {
    let app = gateway().await;
    let admin = app.admin().expect("there is an admin listener").to_string();
    let ask = async |arguments: &'static [&'static str]| {
        let arguments = [&["explain", "--admin", &admin], arguments].concat().into_iter().map(str::to_owned).collect();
        let run = |arguments: Vec<String>| Command::new(env!("CARGO_BIN_EXE_portcullis")).args(arguments).output();
        tokio::task::spawn_blocking(move || run(arguments)).await.expect("it ends").expect("it runs")
    };
    let hit = ask(&["GET", "http://api.example.com/orders/7", "--expect", "route=orders,status=200"]).await;
    assert_eq!(hit.status.code(), Some(0), "{}", String::from_utf8_lossy(&hit.stderr));
    assert!(String::from_utf8_lossy(&hit.stdout).contains("route     orders"));
    let wrong = ask(&["GET", "http://api.example.com/", "--listener", "apo"]).await;
    assert_eq!(wrong.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean `api`?"));
}

const FILE: &str = r#"trusted_proxies = ["10.0.0.0/8"]

[listener.web]
address = "127.0.0.1:8080"
chain = [{ type = "headers", request = { set = { x-edge = "1" } } }, "router"]

[service.orders]
instances = ["127.0.0.1:9001", { address = "127.0.0.1:9002", weight = 2 }]
timeouts = { connect = "500ms" }
retry = { attempts = 2, on = ["connect", 503] }

[middleware.office]
type = "ip_whitelist"
allow = ["10.0.0.0/8", "192.0.2.0/24"]

[[route]]
name = "orders"
match = { hosts = ["api.example.com"], path = "/orders/{id}", methods = ["GET", "POST"] }
chain = ["office", { type = "rewrite", path = "/v2/{id}" }]
service = "orders"
timeouts = { total = "15s" }

[[route]]
name = "canary"
match = { hosts = ["api.example.com"], path = "/orders/{id}", headers = { x-env = "canary" } }
service = "orders"
"#;

struct Desk(TempDir);

impl Desk {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("gateway.toml"), file).expect("it can be written");
        Self(folder)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.current_dir(self.0.path()).env_remove("PORTCULLIS_ADMIN").args(arguments);
        command.output().expect("the binary runs")
    }

    /// `explain gateway.toml` with these arguments, and what it prints.
    fn explain(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["explain", "gateway.toml"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Compares with `tests/explain/NAME.txt`; `UPDATE=1` writes it.
#[track_caller]
fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/explain/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(format!("{}/tests/explain", env!("CARGO_MANIFEST_DIR"))).expect("a folder");
        std::fs::write(&path, text).expect("it can be written");
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(wanted == text, "{path} says otherwise; UPDATE=1 rewrites it. Now:\n{text}");
}

#[test]
fn a_hit_a_miss_a_wrong_method_and_a_refusal_read_well() {
    let desk = Desk::new(FILE);
    golden("hit", &desk.explain(&["GET", "http://api.example.com:8080/orders/7?x=1", "--client", "192.0.2.1"]));
    let through_proxy = ["--client", "10.0.0.1", "-H", "X-Forwarded-For: 203.0.113.9"];
    golden("refusal", &desk.explain(&[&["GET", "http://api.example.com/orders/7"], &through_proxy[..]].concat()));
    golden("miss", &desk.explain(&["GET", "http://api.example.com/nothing"]));
    golden("path", &desk.explain(&["GET", "http://api.example.com:8080//x/../orders/%37", "--client", "192.0.2.1"]));
    golden("path_rejected", &desk.explain(&["GET", "http://api.example.com:8080/orders/%2e%2f7"]));
    golden("method", &desk.explain(&["DELETE", "http://api.example.com:8080/orders/7"]));
}

#[test]
fn a_registry_that_was_not_asked_may_know_any_service() {
    let file = "[listener.web]\naddress = \"127.0.0.1:8080\"\n[registry.default]\ntype = \"consul\"\naddress = \"http://127.0.0.1:1\"\n\
                [[route]]\nname = \"any\"\nmatch = { path = \"/{service}/{*rest}\" }\nservice = \"{service}\"\n";
    golden("offline", &Desk::new(file).explain(&["GET", "http://a.example:8080/orders/7"]));
}

#[test]
fn json_is_for_machines() {
    let text = Desk::new(FILE).explain(&["GET", "http://api.example.com/orders/7", "--client", "192.0.2.1", "--json"]);
    let told: Explanation = serde_json::from_str(&text).expect("an explanation");
    assert_eq!((told.route.as_deref(), told.answer.status, told.answer.forwarded), (Some("orders"), 200, true));
    assert_eq!(told.candidates.len(), 2);
    let upstream = told.upstream.expect("it is sent");
    assert_eq!((upstream.target.as_str(), upstream.retry.attempts), ("/v2/7", 2));
}

#[test]
fn an_expectation_that_does_not_hold_is_exit_code_1() {
    let desk = Desk::new(FILE);
    let ask = |expected: &str| {
        let url = "http://api.example.com/orders/7";
        desk.run(&["explain", "gateway.toml", "GET", url, "--client", "192.0.2.1", "--expect", expected])
    };
    let held = ask("route=orders,status=200,cause=none,service=orders,listener=web");
    assert_eq!(held.status.code(), Some(0), "{}", String::from_utf8_lossy(&held.stderr));
    let failed = ask("route=canary,status=200,cause=ip_not_allowed");
    assert_eq!(failed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(
        said,
        "error: expected route canary, and it is orders\nerror: expected cause ip_not_allowed, and it is none\n"
    );
}

#[test]
fn a_question_that_cannot_be_asked_is_a_sentence() {
    let desk = Desk::new(FILE);
    for (arguments, code, wanted) in [
        (&["gateway.toml", "GET", "ftp://a/x"][..], 64, "neither http nor https"),
        (&["gateway.toml", "GET", "/x"], 64, "names no host"),
        (&["gateway.toml", "G T", "http://a/"], 64, "no method"),
        (&["gateway.toml", "GET", "http://a/", "-H", "nonsense"], 64, "no header"),
        (&["gateway.toml", "GET", "http://a/", "--client", "nonsense"], 64, "nonsense"),
        (&["gateway.toml", "GET", "http://a/", "--expect", "rout=x"], 64, "cannot be expected"),
        (&["gateway.toml", "GET", "http://a/", "--listener", "wep"], 64, "did you mean `web`?"),
        (&["GET"], 64, "write METHOD and URL"),
        (&["--config", "gateway.toml", "gateway.toml", "GET", "http://a/"], 64, "named twice"),
        (&["missing.toml", "GET", "http://a/"], 64, "missing.toml"),
        (&["GET", "http://a/", "--admin", "127.0.0.1:1"], 69, "name a FILE to ask it instead"),
    ] {
        let output = desk.run(&[&["explain"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(wanted), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let wrong = Desk::new("[listener.web]\nadress = \"127.0.0.1:1\"\n");
    let output = wrong.run(&["explain", "gateway.toml", "GET", "http://a/"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`adress`"));
}
