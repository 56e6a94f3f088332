use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::written;

/// Where a listener listens: `"0.0.0.0:8080"`, `"[::]:8080"` or `"unix:/run/portcullis.sock"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

written!(ListenAddress, expecting: "an address such as \"0.0.0.0:8080\"", schema: {
    "type": "string",
    "title": "Listen address",
    "description": "An IP address and a port, or `unix:` and a path.",
    "examples": ["0.0.0.0:8080", "[::]:8080", "unix:/run/portcullis.sock"],
});

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = unix(text)? {
            return Ok(Self::Unix(path));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        if let Some(port) = text.strip_prefix(':').filter(|rest| is_number(rest)) {
            return Err(format!(
                "`{text}` has no address; write \"0.0.0.0:{port}\", or \"[::]:{port}\" for IPv6 as well"
            ));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(format!("`{text}` has no port; write for example {}", with_port(text)));
        }
        if let Some((host, port)) = text.rsplit_once(':')
            && host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4())
        {
            return Err(bad_port(port));
        }
        Err(format!("`{text}` is not an address to listen on; write for example \"0.0.0.0:8080\" or \"[::]:8080\""))
    }
}

impl ListenAddress {
    /// The IP address and the port; `None` for a socket in the file system.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

/// Where the admin listener listens: `"127.0.0.1:9901"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminAddress(SocketAddr);

written!(AdminAddress, expecting: "an address such as \"127.0.0.1:9901\"", schema: {
    "type": "string",
    "title": "Admin address",
    "description": "An IP address and a port.",
    "examples": ["127.0.0.1:9901", "[::1]:9901"],
});

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
        let port = if is_number(port) { port } else { "9901" };
        match text.parse() {
            Ok(ListenAddress::Tcp(address)) => Ok(Self(address)),
            Ok(ListenAddress::Unix(_)) => {
                Err(format!("the admin listener is no socket in the file system; write \"127.0.0.1:{port}\""))
            }
            Err(_) if text.parse::<IpAddr>().is_ok() => {
                Err(format!("`{text}` has no port; write for example {}", with_port(text)))
            }
            Err(_) if port.parse::<u16>().is_err() => Err(bad_port(port)),
            Err(_) => Err(format!("`{text}` is not an address to listen on; write \"127.0.0.1:{port}\"")),
        }
    }
}

impl AdminAddress {
    /// The IP address and the port.
    pub fn tcp(self) -> SocketAddr {
        self.0
    }
}

impl From<SocketAddr> for AdminAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where an instance answers: `"10.0.0.7:9001"`, `"[2001:db8::1]:9001"`, `"orders.internal:9001"` or
/// `"unix:/run/orders.sock"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstanceAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A name that is resolved, and a port.
    Name {
        /// The name, in lowercase.
        host: String,
        /// The port.
        port: u16,
    },
    /// A socket in the file system.
    Unix(PathBuf),
}

written!(InstanceAddress, expecting: "an address such as \"10.0.0.7:9001\"", schema: {
    "type": "string",
    "title": "Instance address",
    "description": "An IP address or a name with a port, or `unix:` and a path.",
    "examples": ["10.0.0.7:9001", "[2001:db8::1]:9001", "orders.internal:9001", "unix:/run/orders.sock"],
});

impl FromStr for InstanceAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = unix(text)? {
            return Ok(Self::Unix(path));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err(bad_port("0"));
            }
            return Ok(Self::Ip(address));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let address = rest.split('/').next().unwrap_or_default();
            let tls = if scheme == "https" { ", and `tls` on the service" } else { "" };
            return Err(format!("an instance is a host and a port: write \"{address}\"{tls} instead of a URL"));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(format!("`{text}` has no port; write for example {}", with_port(text)));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("`{text}` has no port; write for example \"{text}:8080\""));
        };
        let port = match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(bad_port(port)),
        };
        let host = host.to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if !host.strip_suffix('.').unwrap_or(&host).split('.').all(label) || host.len() > 253 {
            return Err(format!("`{host}` is neither an IP address nor a host name"));
        }
        // `10.0.0.256:80` is a slip, not a name: no top-level domain is a number.
        if host.rsplit('.').next().is_some_and(is_number) {
            return Err(format!("`{host}` is not an IP address"));
        }
        Ok(Self::Name { host, port })
    }
}

impl fmt::Display for InstanceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The longest path that a socket address has room for.
const LONGEST_PATH: usize = 107;

fn unix(text: &str) -> Result<Option<PathBuf>, String> {
    let Some(path) = text.strip_prefix("unix:") else { return Ok(None) };
    if !path.starts_with('/') {
        return Err(format!("a unix socket is named by its whole path: \"unix:/…\", not \"unix:{path}\""));
    }
    if path.ends_with('/') {
        return Err(format!("`{path}` is a directory; name the socket in it: \"unix:{path}portcullis.sock\""));
    }
    if path.contains('\0') {
        return Err("the path of a unix socket has no NUL in it".to_owned());
    }
    if path.len() > LONGEST_PATH {
        return Err(format!(
            "the path of a unix socket has at most {LONGEST_PATH} bytes, and this one has {}; choose a shorter one",
            path.len()
        ));
    }
    Ok(Some(path.into()))
}

fn with_port(address: &str) -> String {
    if address.contains(':') {
        let whole = format!("\"[{address}]:8080\"");
        // `::1:8443` is an address, but whoever wrote it may have meant its end as a port.
        return match address.rsplit_once(':') {
            Some((host, port)) if host.parse::<IpAddr>().is_ok() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
                format!("\"[{host}]:{port}\" if `{port}` is the port, else {whole}")
            }
            _ => whole,
        };
    }
    format!("\"{address}:8080\"")
}

fn bad_port(port: &str) -> String {
    format!("`{port}` is not a port; it goes from 1 to 65535")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
