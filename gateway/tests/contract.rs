//! The file's contract, rule by rule: what is written, asked for over a socket, and what comes back.

mod support;

use serde_json::Value;
use support::echo::{echo, got};
use support::gateway::Running;
use support::{Wire, content_length, header};

/// The head and the body of an answer.
async fn ask(gateway: &Running, request: &str) -> (String, String) {
    let mut client = Wire::connect(gateway.address).await;
    let head_only = request.starts_with("HEAD ");
    let request =
        if request.contains("\n") { request.replace('\n', "\r\n") } else { format!("{request}\r\nhost: test") };
    client.put(format!("{request}\r\n\r\n")).await;
    let head = client.head().await;
    let body = if head_only { Vec::new() } else { client.take(content_length(&head)).await };
    (head, String::from_utf8(body).unwrap())
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

async fn told(gateway: &Running, request: &str) -> Value {
    let (head, body) = ask(gateway, request).await;
    serde_json::from_str(&body).unwrap_or_else(|_| panic!("{request}: {head}{body}"))
}

/// A file whose one service `a` is an echo.
async fn with_echo(routes: &str) -> Running {
    let address = echo("a-1").await;
    Running::start(&format!("[service.a]\ninstances = [\"{address}\"]\n{routes}")).await
}

#[tokio::test]
async fn a_prefix_takes_whole_segments_and_a_pattern_is_exact_about_a_trailing_slash() {
    let gateway = Running::start(
        r#"
        [[route]]
        match = { path = { prefix = "/a/" } }
        respond = { body = "prefix" }
        [[route]]
        match = { path = "/b/{id}" }
        respond = { body = "pattern" }
        [[route]]
        match = { path = { regex = "/c[0-9]+" } }
        respond = { body = "regex" }
        "#,
    )
    .await;
    for (path, expected) in [
        ("/a", "prefix"),
        ("/a/", "prefix"),
        ("/a/x/y", "prefix"),
        ("/ab", "404"),
        ("/b/1", "pattern"),
        ("/b/1/", "404"),
        ("/b/", "404"),
        ("/c12", "regex"),
        ("/c12x", "404"),
        ("/xc12", "404"),
    ] {
        let (code, body) = gateway.get(path).await;
        let outcome = if code == 200 { body } else { code.to_string() };
        assert_eq!(outcome, expected, "{path}");
    }
}

#[tokio::test]
async fn header_query_and_cookie_values_are_exact_regex_or_present() {
    let gateway = Running::start(
        r#"
        [[route]]
        match = { path = "/h", headers = { x-env = "canary", x-any = { present = true } } }
        respond = { body = "headers" }
        [[route]]
        match = { path = "/q", query = { debug = { regex = "[0-9]+" } } }
        respond = { body = "query" }
        [[route]]
        match = { path = "/c", cookies = { session = { present = true } } }
        respond = { body = "cookie" }
        [[route]]
        match = { path = "/no", headers = { x-gone = { present = false } } }
        respond = { body = "absent" }
        [[route]]
        respond = { body = "rest" }
        "#,
    )
    .await;
    for (request, expected) in [
        ("GET /h HTTP/1.1\nhost: a\nx-env: canary\nx-any: 1", "headers"),
        ("GET /h HTTP/1.1\nhost: a\nx-env: canary", "rest"),
        ("GET /h HTTP/1.1\nhost: a\nx-env: canaryy\nx-any: 1", "rest"),
        ("GET /q?debug=12 HTTP/1.1\nhost: a", "query"),
        ("GET /q?debug=12x HTTP/1.1\nhost: a", "rest"),
        ("GET /q?debug=%31 HTTP/1.1\nhost: a", "query"),
        ("GET /c HTTP/1.1\nhost: a\ncookie: a=b; session=1", "cookie"),
        ("GET /c HTTP/1.1\nhost: a\ncookie: a=session", "rest"),
        ("GET /no HTTP/1.1\nhost: a", "absent"),
        ("GET /no HTTP/1.1\nhost: a\nx-gone: 1", "rest"),
    ] {
        assert_eq!(ask(&gateway, request).await.1, expected, "{request}");
    }
}

#[tokio::test]
async fn any_of_several_matches_will_do() {
    let gateway = Running::start(
        r#"
        [[route]]
        match = [{ path = "/a", headers = { x = "1" } }, { path = "/b", methods = ["POST"] }]
        respond = { body = "ok" }
        "#,
    )
    .await;
    assert_eq!(status(&ask(&gateway, "GET /a HTTP/1.1\nhost: t\nx: 1").await.0), 200);
    assert_eq!(status(&ask(&gateway, "POST /b HTTP/1.1\nhost: t\ncontent-length: 0").await.0), 200);
    assert_eq!(status(&ask(&gateway, "GET /a HTTP/1.1\nhost: t").await.0), 404);
    let (head, body) = ask(&gateway, "GET /b HTTP/1.1\nhost: t").await;
    assert_eq!(status(&head), 405, "{body}");
    assert_eq!(header(&head, "allow"), Some("POST"));
    assert!(body.contains("method_not_allowed"), "{body}");
}

#[tokio::test]
async fn clients_are_matched_by_the_resolved_address() {
    let gateway = Running::start_whole(
        r#"
        access_log = { output = "off" }
        trusted_proxies = ["127.0.0.1"]
        [listener.web]
        address = "127.0.0.1:0"
        [admin]
        address = "127.0.0.1:0"
        [[route]]
        match = { clients = ["10.0.0.0/8"] }
        respond = { body = "inside" }
        [[route]]
        respond = { body = "outside" }
        "#,
    )
    .await;
    for (forwarded, expected) in [
        ("10.1.2.3", "inside"),
        ("::ffff:10.1.2.3", "inside"),
        ("11.1.2.3", "outside"),
        ("10.1.2.3, 11.1.2.3", "outside"),
        ("11.1.2.3, 10.1.2.3, 127.0.0.1", "inside"),
        ("10.1.2.3, garbage", "outside"),
    ] {
        let request = format!("GET / HTTP/1.1\nhost: t\nx-forwarded-for: {forwarded}");
        assert_eq!(ask(&gateway, &request).await.1, expected, "{forwarded}");
    }
}

#[tokio::test]
async fn respond_has_its_own_length_and_head_no_body() {
    let gateway = Running::start(
        "[[route]]\nmatch = { path = \"/healthz\" }\n\
         respond = { status = 201, headers = { content-type = \"text/plain\" }, body = \"ok\\n\" }\n",
    )
    .await;
    let (head, body) = ask(&gateway, "GET /healthz HTTP/1.1").await;
    assert_eq!((status(&head), header(&head, "content-length"), body.as_str()), (201, Some("3"), "ok\n"));
    assert_eq!(header(&head, "content-type"), Some("text/plain"));
    let mut client = Wire::connect(gateway.address).await;
    client.put("HEAD /healthz HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await;
    let all = String::from_utf8(client.rest().await).unwrap();
    assert!(all.starts_with("HTTP/1.1 201") && all.contains("content-length: 3") && all.ends_with("\r\n\r\n"), "{all}");
}

#[tokio::test]
async fn redirects_keep_the_query_and_leave_out_what_goes_without_saying() {
    let gateway = Running::start(
        r#"
        [[route]]
        match = { hosts = ["old.example.com"] }
        redirect = { scheme = "https", host = "new.example.com", port = 443, status = 301 }
        [[route]]
        match = { path = "/x" }
        redirect = { path = "/y?z=1" }
        [[route]]
        match = { path = { prefix = "/old" } }
        redirect = { prefix = "/new", host = "h.example" }
        [[route]]
        match = { path = "/port" }
        redirect = { scheme = "https", port = 8443 }
        "#,
    )
    .await;
    let port = gateway.address.port();
    for (request, code, location) in [
        ("GET /a?b=c HTTP/1.1\nhost: old.example.com", 301, "https://new.example.com/a?b=c".to_owned()),
        ("GET /x?b=c HTTP/1.1\nhost: t", 302, format!("http://t:{port}/y?z=1")),
        ("GET /old/a/b?q=1 HTTP/1.1\nhost: t", 302, format!("http://h.example:{port}/new/a/b?q=1")),
        ("GET /old HTTP/1.1\nhost: t", 302, format!("http://h.example:{port}/new")),
        ("GET /port HTTP/1.1\nhost: t:1234", 302, "https://t:8443/port".to_owned()),
    ] {
        let (head, _) = ask(&gateway, request).await;
        assert_eq!((status(&head), header(&head, "location")), (code, Some(location.as_str())), "{request}");
    }
    // It cannot lead away from the configured host.
    for path in ["//evil.example/", "/x/..//evil.example", "/old//evil.example"] {
        let (head, _) = ask(&gateway, &format!("GET {path} HTTP/1.1\nhost: old.example.com")).await;
        let location = header(&head, "location").unwrap_or_default();
        assert!(location.starts_with("https://new.example.com/"), "{path} leads to {location}");
    }
    for path in ["/%5cevil.example", "/\\evil.example", "/%2fevil.example"] {
        let (head, _) = ask(&gateway, &format!("GET {path} HTTP/1.1\nhost: old.example.com")).await;
        assert_eq!((status(&head), header(&head, "location")), (400, None), "{path}");
    }
}

#[tokio::test]
async fn rewrite_replaces_the_prefix_of_the_very_match_that_matched() {
    let gateway = with_echo(
        r#"
        [[route]]
        match = [{ path = { prefix = "/api/v1" } }, { path = { prefix = "/old" } }]
        chain = [{ type = "rewrite", prefix = "/v2", host = "inner.example" }]
        service = "a"
        "#,
    )
    .await;
    for (path, target) in [("/api/v1/x?y=1", "/v2/x?y=1"), ("/old/x", "/v2/x"), ("/old", "/v2")] {
        let told = told(&gateway, &format!("GET {path} HTTP/1.1")).await;
        assert_eq!(told["target"], target, "{path}");
        assert_eq!(got(&told, "host"), ["inner.example"]);
    }
}

#[tokio::test]
async fn headers_are_set_added_and_removed_both_ways() {
    let gateway = with_echo(
        r#"
        [[route]]
        chain = [{ type = "headers", request = { set = { x-a = "1" }, add = { x-b = ["2", "3"] }, remove = ["x-c"] }, response = { set = { x-d = "4" }, remove = ["x-instance"] } }]
        service = "a"
        "#,
    )
    .await;
    let request = "GET / HTTP/1.1\nhost: t\nx-a: 0\nx-b: 1\nx-c: 2";
    let told = told(&gateway, request).await;
    assert_eq!(got(&told, "x-a"), ["1"]);
    assert_eq!(got(&told, "x-b"), ["1", "2", "3"]);
    assert_eq!(got(&told, "x-c"), [""; 0]);
    let (head, _) = ask(&gateway, request).await;
    assert_eq!((header(&head, "x-d"), header(&head, "x-instance")), (Some("4"), None), "{head}");
}

#[tokio::test]
async fn the_instance_sees_the_clients_host_and_who_forwards() {
    let gateway = with_echo("[[route]]\nservice = \"a\"\n").await;
    let request = "GET /x HTTP/1.1\nhost: api.example.com\nx-forwarded-for: 1.2.3.4\nx-forwarded-host: evil\nforwarded: for=9.9.9.9\n\
                   x-real-ip: 5.5.5.5\nproxy: evil\nconnection: x-forwarded-for, x-hop\nx-hop: 1\nte: trailers";
    let told = told(&gateway, request).await;
    assert_eq!(got(&told, "host"), ["api.example.com"]);
    assert_eq!(got(&told, "x-forwarded-for"), ["127.0.0.1"], "an untrusted peer speaks for nobody");
    assert_eq!(got(&told, "x-forwarded-host"), ["api.example.com"]);
    assert_eq!(got(&told, "x-forwarded-proto"), ["http"]);
    assert_eq!(got(&told, "connection"), ["te"], "what the client named stays on its own connection");
    for gone in ["forwarded", "proxy", "x-hop"] {
        assert_eq!(got(&told, gone), [""; 0], "{gone}");
    }
}

#[tokio::test]
async fn a_listener_can_say_forwarded_instead() {
    let address = echo("a-1").await;
    let gateway = Running::start_whole(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\nforwarding = \"rfc7239\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [service.a]\ninstances = [\"{address}\"]\nkeep_host = false\n[[route]]\nservice = \"a\"\n"
    ))
    .await;
    let told = told(&gateway, "GET / HTTP/1.1\nhost: api.example.com").await;
    assert_eq!(got(&told, "host"), [address.to_string()]);
    assert_eq!(got(&told, "x-forwarded-for"), [""; 0]);
    let forwarded = got(&told, "forwarded").join("");
    assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), "{forwarded}");
}

#[tokio::test]
async fn weights_are_relative_and_zero_gets_nothing() {
    let (one, two, three) = (echo("one").await, echo("two").await, echo("three").await);
    let gateway = Running::start(&format!(
        "[service.one]\ninstances = [\"{one}\"]\n[service.two]\ninstances = [\"{two}\"]\n[service.three]\ninstances = [\"{three}\"]\n\
         [[route]]\nsplit = [{{ service = \"one\", weight = 3 }}, {{ service = \"two\", weight = 1 }}, {{ service = \"three\", weight = 0 }}]\n"
    ))
    .await;
    let mut counts = std::collections::HashMap::new();
    for _ in 0..400 {
        let (_, body) = gateway.get("/").await;
        let told: Value = serde_json::from_str(&body).unwrap();
        *counts.entry(told["name"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert!(!counts.contains_key("three"), "{counts:?}");
    assert!((240..=360).contains(&counts["one"]), "{counts:?}");
}

#[tokio::test]
async fn a_service_named_by_the_path_comes_from_the_registry() {
    let address = echo("orders-1").await;
    let gateway = Running::start(
        "[registry.default]\ntype = \"memory\"\n[[route]]\nmatch = { path = \"/{service}/{*rest}\" }\nservice = \"{service}\"\n",
    )
    .await;
    let (code, body) = gateway.get("/orders/7").await;
    assert_eq!(code, 404, "{body}");
    assert!(body.contains("no_route"), "{body}");
    let register = format!(r#"{{"service": "orders", "address": "{address}"}}"#);
    let (code, body) = portcullis::admin::client::post(gateway.admin, "/register", register).await.unwrap();
    assert_eq!(code, 200, "{body}");
    gateway_tells(&gateway, "/orders/7", "orders-1").await;

    let deregister = format!(r#"{{"id": "{address}"}}"#);
    let (code, body) = portcullis::admin::client::post(gateway.admin, "/deregister", deregister).await.unwrap();
    assert_eq!(code, 200, "{body}");
    // The registry knows the name; nobody is behind it any more.
    gateway.until_status("/orders/7", 503).await;
}

async fn gateway_tells(gateway: &Running, path: &str, name: &str) {
    gateway.until_status(path, 200).await;
    let (_, body) = gateway.get(path).await;
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(told["name"], name);
    assert_eq!(told["target"], path);
}

#[tokio::test]
async fn a_service_that_only_the_registry_knows_answers_503_while_unknown() {
    let gateway = Running::start("[registry.default]\ntype = \"memory\"\n[[route]]\nservice = \"later\"\n").await;
    let (code, body) = gateway.get("/").await;
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("no_service"), "{body}");
    let address = echo("later-1").await;
    let register = format!(r#"{{"service": "later", "address": "{address}", "ttl": "1h"}}"#);
    portcullis::admin::client::post(gateway.admin, "/register", register).await.unwrap();
    gateway.until_status("/", 200).await;
}

#[tokio::test]
async fn no_instances_is_allowed_and_answers_503() {
    let gateway = Running::start("[service.a]\ninstances = []\n[[route]]\nservice = \"a\"\n").await;
    let (code, body) = gateway.get("/").await;
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("no_instance"), "{body}");
}

#[tokio::test]
async fn a_registry_that_is_away_neither_stops_the_start_nor_the_rest() {
    let nobody = support::nobody().await;
    let gateway = Running::start(&format!(
        "[registry.default]\ntype = \"consul\"\naddress = \"http://{nobody}\"\n\
         [[route]]\nmatch = {{ path = \"/a\" }}\nservice = \"a\"\n[[route]]\nmatch = {{ path = \"/b\" }}\nrespond = {{ body = \"b\" }}\n"
    ))
    .await;
    assert_eq!(gateway.get("/b").await, (200, "b".to_owned()));
    assert_eq!(gateway.get("/a").await.0, 503);
}

#[tokio::test]
async fn two_registries_at_once_and_a_service_picks_one() {
    let (one, two) = (echo("one").await, echo("two").await);
    let gateway = Running::start(&format!(
        "[registry.default]\ntype = \"memory\"\n[registry.fixed]\ntype = \"static\"\nservices = {{ orders-v2 = [\"{one}\"] }}\n\
         [service.orders]\nregistry = \"fixed\"\nname = \"orders-v2\"\n[[route]]\nmatch = {{ path = \"/fixed\" }}\nservice = \"orders\"\n\
         [[route]]\nmatch = {{ path = \"/memory\" }}\nservice = \"shop\"\n"
    ))
    .await;
    let register = format!(r#"{{"service": "shop", "address": "{two}"}}"#);
    portcullis::admin::client::post(gateway.admin, "/register", register).await.unwrap();
    gateway_tells(&gateway, "/fixed", "one").await;
    gateway_tells(&gateway, "/memory", "two").await;
}

#[tokio::test]
async fn a_routes_total_ends_in_504_with_its_cause() {
    let fake = support::Fake::new().await;
    let gateway = Running::start(&format!(
        "[service.a]\ninstances = [\"{}\"]\n\
         [[route]]\nmatch = {{ path = \"/total\" }}\ntimeouts = {{ total = \"100ms\" }}\nservice = \"a\"\n\
         [[route]]\nmatch = {{ path = \"/attempt\" }}\ntimeouts = {{ attempt = \"100ms\" }}\nservice = \"a\"\n",
        fake.address
    ))
    .await;
    let (code, body) = gateway.get("/total").await;
    assert_eq!(code, 504, "{body}");
    assert!(body.contains("route_timeout"), "{body}");
    let (code, body) = gateway.get("/attempt").await;
    assert_eq!(code, 504, "{body}");
    assert!(body.contains("first_byte_timeout"), "{body}");
}

#[tokio::test]
async fn cors_answers_preflights_and_marks_answers() {
    let gateway = with_echo(
        r#"
        [[route]]
        chain = [{ type = "cors", origins = ["https://*.example.com"], methods = ["GET", "PUT"], headers = ["x-a"], credentials = true, max_age = "1h" }]
        service = "a"
        "#,
    )
    .await;
    let preflight = "OPTIONS / HTTP/1.1\nhost: t\norigin: https://shop.example.com\naccess-control-request-method: PUT";
    let (head, _) = ask(&gateway, preflight).await;
    assert_eq!(header(&head, "access-control-allow-origin"), Some("https://shop.example.com"), "{head}");
    assert_eq!(header(&head, "access-control-max-age"), Some("3600"), "{head}");
    let (head, _) = ask(&gateway, "GET / HTTP/1.1\nhost: t\norigin: https://evil.com").await;
    assert_eq!(header(&head, "access-control-allow-origin"), None, "{head}");
}

#[tokio::test]
async fn grpc_clients_get_a_trailers_only_answer() {
    let gateway = Running::start("[[route]]\nmatch = { path = \"/x\" }\nrespond = {}\n").await;
    let (head, body) = ask(
        &gateway,
        "POST /pkg.Service/Call HTTP/1.1\nhost: t\ncontent-type: application/grpc+proto\ncontent-length: 0",
    )
    .await;
    assert_eq!((status(&head), header(&head, "grpc-status"), body.as_str()), (200, Some("12"), ""), "{head}");
    assert_eq!(header(&head, "content-type"), Some("application/grpc"));
}

#[tokio::test]
async fn priority_beats_a_more_specific_path() {
    let gateway = Running::start(
        r#"
        [[route]]
        match = { path = "/a/b" }
        allow_shadowed = true
        respond = { body = "exact" }
        [[route]]
        match = { path = { prefix = "/" } }
        priority = 1
        respond = { body = "first" }
        "#,
    )
    .await;
    assert_eq!(gateway.get("/other").await.1, "first");
    assert_eq!(gateway.get("/a/b").await.1, "first");
}
