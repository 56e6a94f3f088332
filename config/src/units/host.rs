use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::written;

/// A host to match: `"api.example.com"`, `"*.example.org"`, or `"*"` for any.
///
/// Folded to what is compared: lowercase, without the root's dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This host and no other.
    Exact(String),
    /// Any host that ends in a dot and this: `example.org` for `*.example.org`.
    Wildcard(String),
    /// Any host.
    Any,
}

written!(HostPattern, expecting: "a host name", schema: {
    "type": "string",
    "title": "Host",
    "description": "A host name without a port. `*.example.org` is every name below example.org, `*` is any.",
    "examples": ["api.example.com", "*.example.org"],
});

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let folded = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if folded.is_empty() {
            return Err("a host's name cannot be empty".into());
        }
        if folded == "*" {
            return Ok(Self::Any);
        }
        if let Some(address) = folded.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return match address.parse::<Ipv6Addr>() {
                Ok(address) => Ok(Self::Exact(format!("[{address}]"))),
                Err(_) => Err(format!("`{text}` is not an IPv6 address in brackets")),
            };
        }
        if folded.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("write an IPv6 address as a host in brackets: `[{text}]`"));
        }
        match folded.strip_prefix("*.") {
            Some(parent) => {
                check(parent, text)?;
                Ok(Self::Wildcard(parent.to_owned()))
            }
            None => {
                check(&folded, text)?;
                Ok(Self::Exact(folded))
            }
        }
    }
}

fn check(name: &str, text: &str) -> Result<(), String> {
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':', '?', '#']).next().unwrap_or_default();
        return Err(format!("a host is a name alone: write `{host}` instead of `{text}`"));
    }
    if name.contains('/') {
        return Err(format!("`{text}` is not a host: a path belongs into `path`"));
    }
    if let Some((host, port)) = text.split_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(format!("a host is matched without its port: write `{host}`"));
    }
    if name.contains('*') {
        return Err(format!(
            "`*` stands only for the whole first label: `{text}` could be `*.{}`",
            name.rsplit_once('*').map_or(name, |(_, rest)| rest.trim_start_matches(['.', '-']))
        ));
    }
    if !name.is_ascii() {
        return Err(format!("write `{text}` in its ASCII form (xn--…), which is what clients send"));
    }
    if name.len() > 253 {
        return Err(format!("a host has at most 253 characters, this one has {}", name.len()));
    }
    for label in name.split('.') {
        let odd = |byte: u8| !byte.is_ascii_alphanumeric() && byte != b'-' && byte != b'_';
        if label.is_empty() {
            return Err(format!("`{text}` is not a host: an empty label between dots"));
        }
        if label.len() > 63 {
            return Err(format!("a label of a host has at most 63 characters, `{label}` has more"));
        }
        if let Some(byte) = label.bytes().find(|byte| odd(*byte)) {
            let odd = char::from(byte).escape_default();
            return Err(format!("`{text}` is not a host: `{odd}` cannot stand in a name"));
        }
    }
    Ok(())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("*"),
        }
    }
}
