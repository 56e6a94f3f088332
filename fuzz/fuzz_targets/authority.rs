//! Any `Host` and any target: whoever is settled on is one host, and what goes on names nobody else.
#![no_main]

use http::header::HOST;
use http::{HeaderValue, Version};
use libfuzzer_sys::fuzz_target;
use portcullis::authority::settle;
use portcullis_middleware::testing;

fuzz_target!(|input: (u8, &str, Vec<Vec<u8>>)| {
    let (version, target, hosts) = input;
    if target.parse::<http::Uri>().is_err() {
        return;
    }
    let mut request = testing::request("GET", target);
    *request.version_mut() = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][usize::from(version) % 3];
    request.headers_mut().remove(HOST);
    for host in hosts.iter().take(3) {
        let Ok(value) = HeaderValue::from_bytes(host) else { continue };
        request.headers_mut().append(HOST, value);
    }
    let Ok(host) = settle(&mut request).map(|host| host.into_owned()) else { return };
    assert!(!host.contains(['@', ',', '/', '\\', ' ']) && host == host.to_ascii_lowercase(), "{host}");
    assert!(request.headers().get_all(HOST).iter().count() <= 1);
    assert_eq!(request.uri().authority(), None);
    let again = settle(&mut request).map(|host| host.into_owned());
    assert!(again.is_ok_and(|again| again == host), "{host}");
});
