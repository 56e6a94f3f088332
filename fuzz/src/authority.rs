//! Any `Host` and any target: whoever is settled on is one host, and what goes on names nobody else, whoever reads it.

use std::net::Ipv6Addr;

use http::header::HOST;
use http::{Uri, Version};
use portcullis::authority::settle;

use crate::input;

/// A request's head.
pub fn authority(input: &[u8]) {
    let Some(mut request) = input::request(input) else { return };
    let asked = request.uri().path_and_query().cloned();
    let Ok(host) = settle(&mut request).map(|host| host.into_owned()) else { return };

    assert!(!host.contains(['@', ',', '/', '\\', ' ']) && host == host.to_ascii_lowercase(), "{host}");
    assert_eq!(request.uri().authority(), None);
    if let Some(asked) = asked {
        assert_eq!(request.uri().path_and_query(), Some(&asked));
    }
    let again = settle(&mut request).map(|host| host.into_owned());
    assert!(again.is_ok_and(|again| again == host), "{host}");

    let mut sent = request.headers().get_all(HOST).iter();
    let (sent, more) = (sent.next(), sent.next());
    assert_eq!(more, None);
    let Some(sent) = sent else {
        return assert!(host.is_empty() && request.version() == Version::HTTP_10, "{host}");
    };
    let sent = sent.to_str().expect("text");
    assert_eq!(read(sent), host, "{sent}");
}

/// The host in an authority, by the way in which most would read it.
fn read(authority: &str) -> String {
    let uri: Uri = format!("http://{authority}/").parse().expect("others can read it");
    let host = uri.host().expect("a host").to_ascii_lowercase();
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => format!("[{}]", address.parse::<Ipv6Addr>().expect("an address")),
        None => host.strip_suffix('.').unwrap_or(&host).to_owned(),
    }
}
