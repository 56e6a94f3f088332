//! Paths that want to be another path behind a guard: encoded, climbing, doubled, in every spelling that some server reads.

use axum::body::Body;
use http::{Request, Uri};

use super::support::frames::Peer;
use super::support::http2::Client;
use super::support::speaker::*;
use super::*;

/// Listeners and routes around a guard that lets nobody pass who is here. `{paths}` is the listener's policy.
fn routes(site: SocketAddr, shared: SocketAddr, paths: &str) -> String {
    format!(
        r#"
{paths}
[service.site]
instances = ["{site}"]
[service.shared]
instances = ["{shared}"]
[middleware.office]
type = "ip_whitelist"
allow = ["192.0.2.0/24"]
[[route]]
name = "admin"
match = {{ path = {{ prefix = "/admin" }} }}
chain = ["office"]
service = "site"
[[route]]
name = "cancel"
match = {{ path = "/v1/{{id}}:cancel" }}
chain = ["office"]
service = "site"
[[route]]
name = "files"
match = {{ path = "/files/{{*rest}}" }}
paths = {{ encoded_slashes = "keep", slashes = "keep" }}
service = "site"
[[route]]
name = "shared"
match = {{ path = {{ prefix = "/public" }} }}
chain = [{{ type = "rewrite", prefix = "/shared" }}]
service = "shared"
[[route]]
name = "tenant"
match = {{ path = "/tenant/{{id}}/{{*rest}}" }}
chain = [{{ type = "rewrite", path = "/shared/{{id}}/x/{{rest}}" }}]
service = "shared"
[[route]]
name = "site"
match = {{ path = {{ prefix = "/" }} }}
service = "site"
"#
    )
}

/// Ways up and around.
const CLIMBS: &[&str] = &[
    "/..",
    "/../",
    "/./..",
    "/%2e%2e",
    "/%2E.",
    "/.%2e",
    "/..;",
    "/..;a=b",
    "/..%3b",
    "/..%00",
    "/..%2f",
    "/..%5c",
    "/..\\",
    "\\..",
    "%2f..",
    "%2F%2e%2e",
    "%5c..",
    "/%252e%252e",
    "/%252e.",
    "/..%252f",
    "/..%255c",
    "/%c0%ae%c0%ae",
    "/..%c0%af",
    "/%e0%80%ae.",
    "//..",
    "/../..",
    "/%u002e.",
    "/..%",
    "/..%2",
    "/.%00.",
    "/%uff0e.",
    "/%ef%bc%8e.",
];

/// Where a climb begins, and what it is for.
const STARTS: &[&str] = &["", "/", "/x", "/files/x", "/files", "/public", "/public/x/y", "/tenant/a/b", "/tenant/a"];

/// What is guarded, in disguise.
const GOALS: &[&str] = &[
    "/admin",
    "/admin/",
    "//admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/admin;x",
    "/;x/admin",
    "/%2561dmin",
    "/%2fadmin",
    "/admin%2f",
    "/admin%2fx",
    "/admin%3b",
    "/admin%253bx",
    "/.;/admin",
    "/%2e/admin",
    "\\admin",
    "/admin\\x",
    "/v1/7:cancel",
    "/v1/7%3acancel",
    "/v1/7%253Acancel",
    "/v1/%37:cancel",
    "/v1//7:cancel",
    "/v1/7:cancel;x",
    "/v1;x/7:cancel",
];

async fn ask(target: &Logged, line: &str) -> u16 {
    let mut client = target.connect().await;
    client.put(format!("GET {line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    let answer = String::from_utf8(client.rest().await).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{line}: {answer}");
    answer[9..12].parse().unwrap()
}

/// The paths that an instance was asked for.
fn targets(witness: &Witness) -> Vec<String> {
    let target = |head: &String| head.split(' ').nth(1).unwrap().to_owned();
    witness.heads().iter().map(target).collect()
}

fn is_guarded(reading: &[Vec<u8>]) -> bool {
    let cancels = |segment: &Vec<u8>| segment.ends_with(b":cancel") && segment.len() > ":cancel".len();
    readers::is_below(reading, &["admin"])
        || reading.len() == 2 && readers::is_below(reading, &["v1"]) && cancels(&reading[1])
}

#[tokio::test]
async fn no_spelling_leads_past_a_guard_or_out_of_a_rewrite() {
    for paths in
        ["", "paths = { slashes = \"keep\", encoded_slashes = \"keep\" }", "paths = { encoded_slashes = \"decode\" }"]
    {
        let (site, shared) = (Witness::new().await, Witness::new().await);
        let target = Logged::with(&routes(site.address, shared.address, paths)).await;
        let mut lines = Vec::new();
        for start in STARTS {
            for goal in GOALS {
                lines.push(format!("{start}{goal}"));
                // In some pairs only, so that there are hundreds and not thousands.
                let some = CLIMBS.iter().skip(lines.len() % 8).step_by(8);
                lines.extend(some.map(|climb| format!("{start}{climb}{goal}")));
            }
            lines.extend(CLIMBS.iter().map(|climb| format!("{start}{climb}/admin")));
        }
        let (mut passed, mut refused) = (0, 0);
        for line in &lines {
            match ask(&target, line).await {
                200 => passed += 1,
                400 | 403 | 404 => refused += 1,
                status => panic!("{status} for {line}"),
            }
        }
        assert!(passed > 20 && refused > lines.len() / 2, "{passed} of {} passed", lines.len());
        assert_eq!(targets(&site).len() + targets(&shared).len(), passed);
        for sent in targets(&site) {
            for reading in readers::readings(&sent) {
                assert!(!is_guarded(&reading), "{sent} went past the guard");
            }
        }
        for sent in targets(&shared) {
            for reading in readers::readings(&sent) {
                assert!(readers::is_below(&reading, &["shared"]), "{sent} left its place");
            }
        }
        assert_eq!(target.lines().await.len(), lines.len());
    }
}

#[tokio::test]
async fn what_is_compared_is_what_goes_on_and_the_log_has_what_was_sent() {
    let (site, shared) = (Witness::new().await, Witness::new().await);
    let target = Logged::with(&routes(site.address, shared.address, "")).await;
    for (line, sent) in [
        ("/a/./b/../c?x=/../y%2f", "/a/c?x=/../y%2f"),
        ("//a///b", "/a/b"),
        ("/%7Euser/caf%c3%a9", "/~user/caf%C3%A9"),
        ("http://a/x/../y", "/y"),
        ("http://a", "/"),
        ("http://a?q", "/?q"),
        ("/files/group%2fproject//x", "/files/group%2Fproject//x"),
        ("/a;v=1,2/b", "/a;v=1,2/b"),
        ("/100%25/a%40b%3Ac", "/100%25/a%40b%3Ac"),
        ("/{a}|\"b\"", "/%7Ba%7D%7C%22b%22"),
    ] {
        assert_eq!(ask(&target, line).await, 200, "{line}");
        assert_eq!(targets(&site).last().unwrap(), sent, "{line}");
        let last = target.lines().await.pop().unwrap();
        let uri: Uri = line.parse().unwrap();
        assert_eq!(last["path"], uri.path(), "{last}");
    }
    for (line, told) in [
        ("/a%2Fb", "encoded slash or backslash, at byte 2: `%2Fb`"),
        ("/a\\b", "a backslash, at byte 2: `\\\\b`"),
        ("/a%00", "a NUL"),
        ("/a%zz", "begins no escape"),
        ("/x/..;/admin", "take for a dot segment"),
        ("/admin;x", "some read it as `/admin`, which is not for route `site`"),
        ("http://a/admin;x", "some read it as `/admin`"),
    ] {
        assert_eq!(ask(&target, line).await, 400, "{line}");
        let last = target.lines().await.pop().unwrap();
        assert_eq!((&last["cause"], &last["status"]), (&"path_rejected".into(), &400.into()), "{last}");
        assert!(last["note"].as_str().unwrap().contains(told), "{told}: {last}");
    }
}

#[tokio::test]
async fn an_asterisk_is_for_options_alone() {
    let (site, shared) = (Witness::new().await, Witness::new().await);
    let target = Logged::with(&routes(site.address, shared.address, "")).await;
    let mut client = target.connect().await;
    client.put("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let answer = String::from_utf8(client.rest().await).unwrap();
    // Where it goes on, it goes on as it is.
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(targets(&site), ["*"]);
    assert_eq!(ask(&target, "*").await, 400);
    assert_eq!(targets(&site).len(), 1);
}

#[tokio::test]
async fn http_2_reads_paths_as_http_1_does() {
    let (site, shared) = (Witness::new().await, Witness::new().await);
    let target = Logged::with(&routes(site.address, shared.address, "")).await;
    let client = Client::connect(target.address).await;
    let mut passed = 0;
    for goal in GOALS.iter().chain(&["/a/../b", "/a%2Fb", "/files/a%2fb", "/x/..;/admin", "/a%00", "/{a}"]) {
        let Ok(uri) = format!("http://a{goal}").parse::<Uri>() else { continue };
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri;
        let newer = client.send(request).await.status().as_u16();
        assert_eq!(newer, ask(&target, goal).await, "{goal}");
        passed += usize::from(newer == 200);
    }
    let targets = targets(&site);
    assert_eq!(targets.len(), 2 * passed);
    for pair in targets.chunks(2) {
        assert_eq!(pair[0], pair[1]);
        assert!(!readers::readings(&pair[0]).iter().any(|reading| is_guarded(reading)), "{}", pair[0]);
    }
}

#[tokio::test]
async fn a_redirect_has_one_line_and_leads_to_no_other_host() {
    let route =
        |path: &str, to: &str| format!("[[route]]\nmatch = {{ path = {{ prefix = \"{path}\" }} }}\nredirect = {to}\n");
    let own = "host = \"new.example\", port = 80";
    let target = Logged::with(
        &[
            route("/kept", &format!("{{ {own} }}")),
            route("/cut", &format!("{{ {own}, prefix = \"/\" }}")),
            route("/moved", &format!("{{ {own}, prefix = \"/to\" }}")),
        ]
        .concat(),
    )
    .await;
    for route in ["/kept", "/cut", "/moved"] {
        for rest in [
            "//evil.example",
            "/\\evil.example",
            "/%5cevil.example",
            "/%2f%2fevil.example",
            "/..//evil.example",
            "/%0d%0aSet-Cookie:%20a=b",
            "/%0D%0A%0D%0A<script>",
            "?x=%0d%0aSet-Cookie:%20a=b",
            "/\u{e5}\u{98}\u{8a}\u{e5}\u{98}\u{8d}Set-Cookie:a",
            "@evil.example",
            ".evil.example",
        ] {
            let mut client = target.connect().await;
            client.put(format!("GET {route}{rest} HTTP/1.1\r\nHost: old.example\r\nConnection: close\r\n\r\n")).await;
            let answer = String::from_utf8(client.rest().await).unwrap();
            let (head, _) = answer.split_once("\r\n\r\n").unwrap();
            assert!(header(head, "set-cookie").is_none(), "{route}{rest}: {head}");
            match (&head[9..12], header(head, "location")) {
                ("302", Some(to)) => {
                    let path = to.strip_prefix("http://new.example/").unwrap_or_else(|| panic!("{route}{rest}: {to}"));
                    assert!(
                        !path.starts_with(['/', '\\']) && !path.contains(['\\', '\r', '\n']),
                        "{route}{rest}: {to}"
                    );
                }
                ("400" | "404", None) => {}
                _ => panic!("{route}{rest}: {head}"),
            }
        }
    }
}

#[tokio::test]
async fn who_asks_about_the_whole_server_asks_an_instance_about_the_whole_of_it() {
    let (older, newer) = (Witness::new().await, Fake::new().await);
    let matched = |matching: &str| {
        format!(
            "[service.older]\ninstances = [\"{}\"]\n[service.newer]\ninstances = [\"{}\"]\nprotocol = \"h2c\"\n\
             [[route]]\nmatch = {{ hosts = [\"older\"] {matching} }}\nservice = \"older\"\n\
             [[route]]\nmatch = {{ hosts = [\"newer\"] {matching} }}\nservice = \"newer\"\n",
            older.address, newer.address
        )
    };
    let over_http2 = |host| {
        let fields = [(":method", "OPTIONS"), (":scheme", "http"), (":authority", host), (":path", "*")];
        frame(HEADERS, END_HEADERS | END_STREAM, 1, block(&fields))
    };
    let mut peer = None;
    for matching in ["", ", path = { prefix = \"/\" }", ", path = { regex = \".*\" }, methods = [\"OPTIONS\"]"] {
        let target = Logged::with(&matched(matching)).await;
        let mut client = target.connect().await;
        client.put("OPTIONS * HTTP/1.1\r\nHost: older\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "), "{matching}");
        let mut speaker = Speaker::connect(target.address).await;
        speaker.put(over_http2("older")).await;
        assert_eq!(speaker.until(DATA).await.payload, b"ok");
        let heads = std::mem::take(&mut *older.heads.lock().unwrap());
        assert!(heads.len() == 2 && heads.iter().all(|head| head.starts_with("OPTIONS * HTTP/1.1\r\n")), "{heads:?}");

        client.take(2).await;
        client.put("OPTIONS * HTTP/1.1\r\nHost: newer\r\n\r\n").await;
        let mut speaker = Speaker::connect(target.address).await;
        speaker.put(over_http2("newer")).await;
        let peer = peer.insert(Peer::new(newer.accept().await).await);
        for _ in 0..2 {
            let stream = peer.next().await;
            let uri = stream.request.uri();
            assert_eq!((stream.request.method().as_str(), uri.path(), uri.host()), ("OPTIONS", "*", Some("newer")));
            stream.answer("ok");
        }
        assert!(client.head().await.starts_with("HTTP/1.1 200 "), "{matching}");
        assert_eq!(speaker.until(DATA).await.payload, b"ok");
    }
    // The other way to say so over HTTP/1.1 (RFC 9112 §3.2.4) is lost where the target is parsed: `http::Uri` takes both for this.
    let target = Logged::with(&matched("")).await;
    for absolute in ["http://older", "http://older/"] {
        let mut client = target.connect().await;
        client.put(format!("OPTIONS {absolute} HTTP/1.1\r\nHost: older\r\n\r\n")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        assert!(older.heads().pop().unwrap().starts_with("OPTIONS / HTTP/1.1\r\n"));
    }
    // It is no path, so what asks for one is not about it; and nobody gets it.
    for matching in [", path = \"/\"", ", path = \"/{*rest}\"", ", path = { prefix = \"/a\" }"] {
        let target = Logged::with(&matched(matching)).await;
        for (ask, status) in
            [("OPTIONS *", 404), ("GET *", 400), ("HEAD *", 400), ("OPTIONS **", 400), ("OPTIONS *?x", 400)]
        {
            let mut client = target.connect().await;
            client.put(format!("{ask} HTTP/1.1\r\nHost: older\r\nConnection: close\r\n\r\n")).await;
            assert!(client.head().await.starts_with(&format!("HTTP/1.1 {status} ")), "{matching}: {ask}");
        }
    }
}
