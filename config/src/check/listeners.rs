//! Listeners: addresses that clash, and what listeners on one address must agree on.

use std::net::SocketAddr;
use std::ops::Range;

use super::Check;
use crate::raw::Step;
use crate::units::{HostPattern, ListenAddress, TrustedProxy};
use crate::{Listener, ListenerTls, Named};

/// HTTP/2 knows no larger window (RFC 9113 §6.9.1), and nothing else of it needs to be larger.
const LARGEST_WINDOW: u64 = (1 << 31) - 1;

/// Every HTTP/2 connection begins with this (RFC 9113 §6.9.2), and it cannot be made smaller.
const SMALLEST_CONNECTION_WINDOW: u64 = 65_535;

/// Below these, in bytes, the shortest request of an ordinary client is refused.
const SMALLEST_REQUEST_LINE: u64 = 64;
const SMALLEST_HEADER_SIZE: u64 = 256;
/// HTTP/2 counts 32 bytes more for each header, and four are the request line.
const SMALLEST_HEADER_LIST: u64 = 512;

/// Each open request has room of its own, so a connection must not have any number of them.
const MOST_STREAMS: u32 = 65_536;

/// What is read of a request is kept until its headers end.
const LARGEST_HEAD: u64 = 16 << 20;

/// What holds a request's headers gives out not far above this.
const MOST_HEADERS: usize = 16_384;

impl Check<'_> {
    pub(super) fn listeners(&mut self) {
        let listeners = &self.file.listeners;
        for (position, listener) in listeners.iter().enumerate() {
            self.listener(listener);
            for earlier in &listeners[..position] {
                self.pair(earlier, listener);
            }
            self.against_admin(listener);
        }
    }

    fn listener(&mut self, listener: &Named<Listener>) {
        let Named { name, value, .. } = listener;
        self.no_duplicates(&value.hosts);
        if let Some(tls) = &value.tls {
            self.tls(name, tls);
        }
        if value.proxy_protocol.value {
            self.proxy_protocol(listener);
        }
        for (key, limit) in [
            ("headers", value.limits.headers),
            ("connections", value.limits.connections),
            ("handshakes", value.limits.handshakes),
            ("streams", value.limits.streams as usize),
            ("resets", value.limits.resets as usize),
            ("stream_errors", value.limits.stream_errors),
            ("control_frames", value.limits.control_frames as usize),
        ] {
            if limit == 0 {
                let span = self.span_in(listener, &["limits", key]);
                let said = match key {
                    "resets" | "stream_errors" | "control_frames" => {
                        format!("`{key}` is 0, so the first one would end an HTTP/2 connection; write 1 or more")
                    }
                    _ => format!("`{key}` is 0, so listener `{name}` would refuse everyone"),
                };
                self.error(&span, said);
            }
        }
        if value.limits.streams > MOST_STREAMS {
            let span = self.span_in(listener, &["limits", "streams"]);
            self.error(&span, format!("`streams` goes up to {MOST_STREAMS}; no connection needs more at once"));
        }
        if value.limits.headers > MOST_HEADERS {
            let span = self.span_in(listener, &["limits", "headers"]);
            self.error(&span, format!("`headers` goes up to {MOST_HEADERS}; no request has more"));
        }
        self.sizes(listener);
    }

    fn sizes(&mut self, listener: &Named<Listener>) {
        let (name, limits) = (&listener.name, &listener.value.limits);
        let http2 = [
            ("stream_window", limits.stream_window),
            ("connection_window", limits.connection_window),
            ("send_buffer", limits.send_buffer),
            ("header_list", limits.header_list),
        ];
        for (key, size) in http2 {
            let said = match size.bytes() {
                bytes if bytes > LARGEST_WINDOW => {
                    format!("`{key}` is larger than HTTP/2 allows, which is 2 GiB less a byte")
                }
                1..SMALLEST_CONNECTION_WINDOW if key == "connection_window" => {
                    format!("`{key}` is smaller than the 65535 bytes that every HTTP/2 connection begins with")
                }
                _ => continue,
            };
            let span = self.span_in(listener, &["limits", key]);
            self.error(&span, said);
        }
        for (key, size, so) in [
            ("send_buffer", limits.send_buffer, "no HTTP/2 client would get the body of an answer"),
            ("stream_window", limits.stream_window, "no HTTP/2 client could send a body"),
            ("connection_window", limits.connection_window, "no HTTP/2 client could send a body"),
        ] {
            if size.bytes() == 0 {
                let span = self.span_in(listener, &["limits", key]);
                self.error(&span, format!("`{key}` is 0, so {so} at listener `{name}`"));
            }
        }
        for (key, size, least) in [
            ("request_line", limits.request_line, SMALLEST_REQUEST_LINE),
            ("header_size", limits.header_size, SMALLEST_HEADER_SIZE),
            ("header_list", limits.header_list, SMALLEST_HEADER_LIST),
        ] {
            let said = match size.bytes() {
                bytes if bytes < least => {
                    format!(
                        "`{key}` is too small, so listener `{name}` would refuse everyone; it is at least \"{least}B\""
                    )
                }
                bytes if bytes > LARGEST_HEAD && key != "header_list" => {
                    format!("`{key}` is too large to bound anything; it is at most \"16MiB\"")
                }
                _ => continue,
            };
            let span = self.span_in(listener, &["limits", key]);
            self.error(&span, said);
        }
    }

    fn tls(&mut self, name: &str, tls: &ListenerTls) {
        if tls.certificates.is_empty() && !self.faults.is_any_within(&tls.certificates.span) {
            let said = format!("`certificates` is empty, so listener `{name}` would refuse everyone");
            self.error(&tls.certificates.span, said).help("add one: { cert = \"site.pem\", key = \"site.key\" }");
        }
        if let (Some(wanted), None) = (&tls.client_certificate, &tls.client_ca) {
            self.error(&wanted.span, "`client_certificate` says nothing without `client_ca`")
                .label("whose certificates?")
                .help("name the file of the authorities that sign clients' certificates: client_ca = \"clients.pem\"");
        }
    }

    fn proxy_protocol(&mut self, listener: &Named<Listener>) {
        let Named { name, value, .. } = listener;
        let (believed, help) = match value.address.value {
            ListenAddress::Tcp(_) => (
                self.file.trusted_proxies.iter().any(|trusted| matches!(trusted, TrustedProxy::Network(_))),
                "name the load balancers in front of it: trusted_proxies = [\"10.0.0.0/8\"]",
            ),
            ListenAddress::Unix(_) => (
                self.file.trusted_proxies.contains(&TrustedProxy::Unix),
                "trust whoever connects over a unix socket: trusted_proxies = [\"unix:\"]",
            ),
        };
        if !believed {
            let said =
                format!("nobody's PROXY protocol header is believed, so listener `{name}` would refuse everyone");
            self.error(&value.proxy_protocol.span, said)
                .label("headers are taken from `trusted_proxies` only")
                .help(help);
        }
    }

    fn pair(&mut self, one: &Named<Listener>, other: &Named<Listener>) {
        let (here, there) = (&other.value.address, &one.value.address);
        // The same address is the same socket, also with port 0.
        if **here != **there {
            if let Some(wide) = covers(here, there).or(covers(there, here)) {
                let said = format!("listener `{}` and listener `{}` both take this port", one.name, other.name);
                self.error(&here.span, said)
                    .label(wide)
                    .also(there.span.clone(), "the same port")
                    .help("keep the wider one, or give both the same address");
            }
            return;
        }
        let hosts = (&one.value.hosts, &other.value.hosts);
        let any = |listener: &Listener| {
            listener.hosts.is_empty() || listener.hosts.iter().any(|host| host.value == HostPattern::Any)
        };
        if any(&one.value) && any(&other.value) {
            let said = format!("listener `{}` has the address and the hosts of listener `{}`", other.name, one.name);
            self.error(&here.span, said)
                .label("again here, for any host")
                .also(there.span.clone(), "first here, for any host")
                .help("give one of them `hosts`, or another address");
        }
        for host in hosts.1.iter().filter(|host| host.value != HostPattern::Any) {
            if let Some(first) = hosts.0.iter().find(|first| first.value == host.value) {
                let said = format!("`{host}` belongs to two listeners of this address");
                self.error(&host.span, said)
                    .label(format!("listener `{}`", other.name))
                    .also(first.span.clone(), format!("listener `{}`", one.name));
            }
        }
        self.agreement(one, other);
    }

    /// A connection is accepted before anyone knows which host it wants.
    fn agreement(&mut self, one: &Named<Listener>, other: &Named<Listener>) {
        let (a, b) = (&one.value, &other.value);
        for (key, agree) in [
            ("proxy_protocol", a.proxy_protocol == b.proxy_protocol),
            ("limits", a.limits == b.limits),
            ("timeouts", a.timeouts == b.timeouts),
            ("tls", a.tls.is_some() == b.tls.is_some()),
        ] {
            if agree {
                continue;
            }
            let said = match key {
                "tls" => format!(
                    "listeners `{}` and `{}` share an address, so both or neither must have `tls`",
                    one.name, other.name
                ),
                _ => format!(
                    "listeners `{}` and `{}` share an address, so they must agree on `{key}`",
                    one.name, other.name
                ),
            };
            let about = |listener: &Named<Listener>| match self.find(listener, &[key]) {
                Some(span) => (span, format!("`{key}` of listener `{}`", listener.name)),
                None => (listener.name.span.clone(), format!("no `{key}` here, so it has the default")),
            };
            let ((here, label), (there, other_label)) = (about(other), about(one));
            self.error(&here, said).label(label).also(there, other_label);
        }
    }

    fn against_admin(&mut self, listener: &Named<Listener>) {
        let Some(admin) = &self.file.admin else {
            return;
        };
        let admin_address = admin.address.as_ref().map(|address| ListenAddress::Tcp(address.tcp()));
        let here = &listener.value.address;
        let is_admins = **here == *admin_address && admin.address.tcp().port() != 0;
        let wide = covers(here, &admin_address).or(covers(&admin_address, here));
        if is_admins || wide.is_some() {
            let said = format!("listener `{}` has the address of the admin listener", listener.name);
            self.error(&here.span, said)
                .label(wide.unwrap_or("the same address"))
                .also(admin_address.span, "the admin listener");
        }
    }

    /// Where a listener writes a key, or its name if it leaves the key out.
    fn span_in(&self, listener: &Named<Listener>, keys: &[&str]) -> Range<usize> {
        self.find(listener, keys).unwrap_or_else(|| listener.name.span.clone())
    }

    fn find(&self, listener: &Named<Listener>, keys: &[&str]) -> Option<Range<usize>> {
        let start = ["listener", listener.name.as_str()];
        let path: Vec<Step> = start.iter().chain(keys).map(|key| Step::from(*key)).collect();
        let node = self.file.document.root.find(&path)?;
        Some(node.span.clone())
    }
}

/// Why one of these addresses takes the other's port as well, if it does. Port 0 is a new port every time.
fn covers(wide: &ListenAddress, narrow: &ListenAddress) -> Option<&'static str> {
    let (ListenAddress::Tcp(wide), ListenAddress::Tcp(narrow)) = (wide, narrow) else { return None };
    if wide == narrow || wide.port() != narrow.port() || wide.port() == 0 || !wide.ip().is_unspecified() {
        return None;
    }
    match (wide, narrow) {
        (SocketAddr::V6(_), _) => Some("`[::]` takes IPv4 as well as IPv6"),
        (SocketAddr::V4(_), SocketAddr::V4(_)) => Some("`0.0.0.0` takes every IPv4 address"),
        (SocketAddr::V4(_), SocketAddr::V6(_)) => None,
    }
}
