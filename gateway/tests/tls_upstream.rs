//! TLS towards instances: whom the gateway trusts, whom it asks for, and who it says it is.

mod support;

use std::path::Path;
use std::time::Duration;

use portcullis::{Gateway, plugins};
use rustls::DEFAULT_VERSIONS;
use rustls::version::TLS12;
use support::gateway::Running;
use support::pki::{Authority, SecureInstance, TlsClient, replace};
use support::{Fake, Wire, nobody};
use tempfile::TempDir;
use tokio::time::Instant;

/// A route to one service.
fn service(instances: &str, keys: &str) -> String {
    format!("[[route]]\nservice = \"orders\"\n[service.orders]\ninstances = [{instances}]\n{keys}\n")
}

fn ca(directory: &Path, authority: &Authority) -> String {
    let path = directory.join("ca.pem");
    replace(&path, &authority.pem);
    format!("ca = \"{}\"", path.display())
}

async fn cause(gateway: &Running) -> (u16, String) {
    let (status, body) = gateway.get("/").await;
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    (status, problem["cause"].as_str().unwrap_or("none").to_owned())
}

#[tokio::test]
async fn an_instance_is_asked_for_by_its_host_or_by_the_name_that_is_given() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let ca = ca(directory.path(), &authority);
    let instance = SecureInstance::start(&authority.issue(&["localhost", "orders"]), DEFAULT_VERSIONS, None).await;
    let port = instance.address.port();
    for (host, keys, name) in [
        ("127.0.0.1", "", None),
        ("localhost", "", Some("localhost")),
        ("127.0.0.1", ", server_name = \"orders\"", Some("orders")),
    ] {
        let gateway = Running::start(&service(&format!("\"{host}:{port}\""), &format!("tls = {{ {ca}{keys} }}"))).await;
        for _ in 0..3 {
            let (status, told) = gateway.get("/path?query").await;
            assert_eq!(status, 200, "{told}");
            assert!(told.starts_with("GET /path?query HTTP/1.1\r\n"), "{told}");
        }
        let seen: Vec<_> = std::mem::take(&mut *instance.seen.lock().unwrap());
        assert_eq!(seen, [(name.map(str::to_owned), false)], "three requests over one connection");
    }
}

#[tokio::test]
async fn an_instance_that_cannot_be_trusted_gets_nothing() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let ca = ca(directory.path(), &authority);
    let good = SecureInstance::start(&authority.issue(&["localhost"]), DEFAULT_VERSIONS, None).await;
    let stranger = SecureInstance::start(&Authority::new("other").issue(&["localhost"]), DEFAULT_VERSIONS, None).await;
    let late = SecureInstance::start(&authority.issue_expired(&["localhost"]), DEFAULT_VERSIONS, None).await;
    let old = SecureInstance::start(&authority.issue(&["localhost"]), &[&TLS12], None).await;
    let plain = Fake::new().await;
    let plain_address = plain.address;
    tokio::spawn(async move {
        loop {
            plain.accept().await.put("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    for (address, keys, expected) in [
        (good.address, "", (200, "none")),
        (good.address, ", server_name = \"somebody.else\"", (502, "tls_upstream")),
        (stranger.address, "", (502, "tls_upstream")),
        (late.address, "", (502, "tls_upstream")),
        (old.address, "", (200, "none")),
        (old.address, ", min_version = \"1.3\"", (502, "tls_upstream")),
        (plain_address, "", (502, "tls_upstream")),
        (nobody().await, "", (502, "connect_refused")),
    ] {
        let gateway = Running::start(&service(&format!("\"{address}\""), &format!("tls = {{ {ca}{keys} }}"))).await;
        assert_eq!(cause(&gateway).await, (expected.0, expected.1.to_owned()), "{address} {keys}");
    }
}

#[tokio::test]
async fn without_a_file_the_systems_authorities_decide() {
    let good = SecureInstance::start(&Authority::new("internal").issue(&["localhost"]), DEFAULT_VERSIONS, None).await;
    let service = service(&format!("\"{}\"", good.address), "tls = {}");
    let text = format!("[listener.web]\naddress = \"127.0.0.1:0\"\n{service}");
    let (plan, faults) = Gateway::new(plugins()).plan_text("gateway.toml", &text);
    match plan {
        Some(_) => assert_eq!(cause(&Running::start(&service).await).await, (502, "tls_upstream".to_owned())),
        None => assert!(faults.render(false).contains("this system has no list of certificate authorities")),
    }
}

#[tokio::test]
async fn an_instance_may_ask_who_the_gateway_is() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let (ca, us) = (ca(directory.path(), &authority), authority.issue(&["gateway"]).write(directory.path(), "us"));
    for versions in [DEFAULT_VERSIONS, &[&TLS12]] {
        let instance = SecureInstance::start(&authority.issue(&["orders"]), versions, Some(&authority)).await;
        let of = |keys: &str| service(&format!("\"{}\"", instance.address), &format!("tls = {{ {ca}{keys} }}"));
        let known = Running::start(&of(&format!(", client = {us}"))).await;
        assert_eq!(cause(&known).await.0, 200);
        assert_eq!(instance.seen(), [(None, true)]);
        let unknown = Running::start(&of("")).await;
        assert_eq!(cause(&unknown).await, (502, "tls_upstream".to_owned()));
    }
}

#[tokio::test]
async fn another_instance_takes_what_one_could_not_be_trusted_with() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let ca = ca(directory.path(), &authority);
    let good = SecureInstance::start(&authority.issue(&[]), DEFAULT_VERSIONS, None).await;
    let stranger = SecureInstance::start(&Authority::new("other").issue(&[]), DEFAULT_VERSIONS, None).await;
    let both = format!("\"{}\", \"{}\"", stranger.address, good.address);
    let gateway = Running::start(&service(&both, &format!("tls = {{ {ca} }}"))).await;
    for _ in 0..4 {
        // Nothing was sent to the other, so it does not matter that a POST may not be done twice.
        assert_eq!(gateway.send("POST", "/", &[]).await.0, 200);
    }
}

#[tokio::test]
async fn long_bodies_pass_over_tls_on_both_sides() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let ca = ca(directory.path(), &authority);
    let instance = SecureInstance::start(&authority.issue(&[]), DEFAULT_VERSIONS, None).await;
    let certificate = authority.issue(&["a.example"]).write(directory.path(), "site");
    let file = format!(
        "access_log = {{ output = \"off\" }}\n[admin]\naddress = \"127.0.0.1:0\"\n[listener.web]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{certificate}] }}\n{}",
        service(&format!("\"{}\"", instance.address), &format!("tls = {{ {ca} }}"))
    );
    let gateway = Running::start_whole(&file).await;
    let mut client = TlsClient::new(&authority).connect(gateway.address, "a.example").await.unwrap();
    for length in [0, 1, 16 * 1024, 16 * 1024 + 1, 3 << 20] {
        let body: Vec<u8> = (0..length).map(|index: u32| index.to_le_bytes()[0] ^ index.to_le_bytes()[1]).collect();
        let echoed = client.post("a.example", "/", &body).await.unwrap();
        assert!(echoed.starts_with(b"POST / HTTP/1.1\r\n"));
        assert!(echoed.ends_with(&body), "{length} bytes come back as they went");
    }
    assert_eq!(instance.seen().len(), 1, "over one connection");
}

#[tokio::test]
async fn an_answer_that_an_attacker_could_have_cut_is_visibly_broken() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let ca = ca(directory.path(), &authority);
    // It says no length, so its end is the connection's; and only TLS' own farewell says that this is it.
    for farewell in [true, false] {
        let answer = "HTTP/1.1 200 OK\r\n\r\nall there is";
        let address = SecureInstance::closing(&authority.issue(&[]), answer, farewell).await;
        let gateway = Running::start(&service(&format!("\"{address}\""), &format!("tls = {{ {ca} }}"))).await;
        let mut wire = Wire::connect(gateway.address).await;
        wire.put("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let answer = String::from_utf8(wire.rest().await).unwrap();
        assert_eq!(answer.ends_with("all there is\r\n0\r\n\r\n"), farewell, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_handshake_is_part_of_the_time_to_connect() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let ca = ca(directory.path(), &authority);
    // It accepts, and says nothing.
    let silent = Fake::new().await;
    let keys = format!("tls = {{ {ca} }}\ntimeouts = {{ connect = \"2s\" }}\nretry = {{ attempts = 1 }}");
    let gateway = Running::start(&service(&format!("\"{}\"", silent.address), &keys)).await;
    let began = Instant::now();
    assert_eq!(cause(&gateway).await, (504, "connect_timeout".to_owned()));
    assert!(began.elapsed() >= Duration::from_secs(2) && began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn open_connections_outlive_a_reload_unless_the_settings_change() {
    let (directory, authority) = (TempDir::new().unwrap(), Authority::new("internal"));
    let ca = ca(directory.path(), &authority);
    let instance = SecureInstance::start(&authority.issue(&["orders"]), DEFAULT_VERSIONS, None).await;
    let of = |keys: &str| service(&format!("\"{}\"", instance.address), &format!("tls = {{ {ca}{keys} }}"));
    let gateway = Running::start(&of("")).await;
    assert_eq!(gateway.get("/").await.0, 200);
    assert_eq!(gateway.reload(&format!("{}# changed", of(""))).await.0, 200);
    assert_eq!((gateway.get("/").await.0, instance.seen().len()), (200, 1), "the connection is used on");
    assert_eq!(gateway.reload(&of(", server_name = \"orders\"")).await.0, 200);
    assert_eq!(gateway.get("/").await.0, 200);
    assert_eq!(instance.seen(), [(None, false), (Some("orders".to_owned()), false)]);
}

#[tokio::test]
async fn new_authorities_and_certificates_are_used_as_soon_as_they_are_there() {
    let (directory, old, new) = (TempDir::new().unwrap(), Authority::new("old"), Authority::new("new"));
    let ca = ca(directory.path(), &old);
    let us = old.issue(&["gateway"]).write(directory.path(), "us");
    let instance = SecureInstance::start(&new.issue(&["orders"]), DEFAULT_VERSIONS, Some(&new)).await;
    let keys = format!("tls = {{ {ca}, client = {us} }}");
    let gateway = Running::start(&service(&format!("\"{}\"", instance.address), &keys)).await;
    assert_eq!(cause(&gateway).await, (502, "tls_upstream".to_owned()));
    replace(&directory.path().join("ca.pem"), &new.pem);
    new.issue(&["gateway"]).write(directory.path(), "us");
    gateway.until_status("/", 200).await;
    assert_eq!(instance.seen().last(), Some(&(None, true)));
}
