//! Lets a request through only from listed networks.
//!
//! ```toml
//! [middleware.office]
//! type        = "ip_whitelist"
//! allow       = ["10.0.0.0/8", "2001:db8::/32"]   # who may pass; without any `allow` list everybody not denied
//! deny        = ["10.66.0.0/16"]                  # wins over `allow`
//! allow_files = ["partners.txt"]                  # one network a line, `#` starts a comment; followed
//! deny_files  = ["blocked.txt"]
//! mode        = "enforce"                         # or "report": let everybody pass, log and count who would not
//! status      = 403
//! ```
//!
//! Anyone else gets `403` with the cause `ip_not_allowed`. The address judged is [`Client::ip`](crate::Client::ip), so `trusted_proxies`
//! decides who may speak for whom. A client without an address (on a unix socket, or relayed by a load balancer that cannot
//! name it) is on no list, so it is refused like any other; in report mode, which changes nothing for anybody, it passes and
//! is reported.
//!
//! Nothing is added to the request. The log says which client came, how its address was found and which entry decided;
//! a refusal carries the same as its note, for the access log. A refusal's own line is `debug`: hostile clients come in
//! floods.
//!
//! **Files.** A missing file or a bad line is an error at start. Later, a bad line keeps the whole list that was read
//! before, and is logged once with its file and line. A blank file never lets more clients pass: a blank allow file
//! allows nobody, a blank deny file is taken for one that is half written (a list of nobody has a comment in it).

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use http::StatusCode;
use ipnet::IpNet;
use tracing::field::display;
use tracing::{debug, info, trace, warn};

use crate::Client;
use crate::follow::{self, Follow};
use crate::ip_set::IpSet;
use crate::metrics::{self, Counter};
use crate::prelude::*;

/// Lets a request through only from listed networks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IpWhitelist {
    /// Networks that may pass, in CIDR form; a bare address is a network of one. Without `allow` and `allow_files`,
    /// everybody passes who is not denied.
    allow: Option<Vec<Network>>,
    /// Networks that may not pass, even if they are allowed too.
    deny: Option<Vec<Network>>,
    /// Files with further networks that may pass, one a line. They are followed.
    allow_files: Option<Vec<PathBuf>>,
    /// Files with further networks that may not pass, one a line. They are followed.
    deny_files: Option<Vec<PathBuf>>,
    /// Whether to refuse, or only to report who would be refused.
    #[serde(default)]
    mode: Mode,
    /// The status of a refusal.
    #[serde(default = "default_status")]
    #[schemars(range(min = 400, max = 499))]
    status: u16,
}

/// What happens to a client that is not allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It passes, and is logged and counted.
    Report,
}

fn default_status() -> u16 {
    403
}

impl Plugin for IpWhitelist {
    const NAME: &'static str = "ip_whitelist";
    const DECIDES_ACCESS: bool = true;
    const EXAMPLE: &'static str = r#"allow = ["10.0.0.0/8", "2001:db8::/32"]"#;

    fn build(self, context: &Context) -> Result<RouteLayer, BuildError> {
        let status = self.check_settings()?;
        let lists = Arc::new(Lists::new(self.read_sources(context)?));
        for (index, path) in lists.files() {
            let lists = lists.clone();
            context.spawn(move |stop| async move {
                stop.run_until_cancelled(lists.follow(index, &path)).await;
            });
        }
        let mode = if self.mode == Mode::Enforce { "enforce" } else { "report" };
        Ok(RouteLayer::guard(Gate {
            refused: metrics::counter(
                "ip_whitelist_refused_total",
                "Requests that an IP whitelist refused, or would have refused in report mode.",
                &[("middleware", context.name()), ("mode", mode)],
            ),
            name: context.name().into(),
            mode: self.mode,
            status,
            lists,
        }))
    }
}

const EVERYONE: &str = "lets every client of its address family pass";

impl IpWhitelist {
    /// Refuses settings that would let everybody pass, or nobody.
    fn check_settings(&self) -> Result<StatusCode, BuildError> {
        let is_empty = |list: Option<usize>, files: Option<usize>| list.unwrap_or(0) + files.unwrap_or(0) == 0;
        let (allow, allow_files) = (self.allow.as_ref().map(Vec::len), self.allow_files.as_ref().map(Vec::len));
        let (deny, deny_files) = (self.deny.as_ref().map(Vec::len), self.deny_files.as_ref().map(Vec::len));
        if allow.or(allow_files).is_some() {
            if is_empty(allow, allow_files) {
                let key = if allow.is_some() { "allow" } else { "allow_files" };
                return Err(BuildError::at(key, "is empty, so nobody could pass"));
            }
        } else if deny.or(deny_files).is_none() {
            return Err(BuildError::whole("`allow` or `deny`, or files of either, must say who may pass"));
        } else if is_empty(deny, deny_files) {
            let key = if deny.is_some() { "deny" } else { "deny_files" };
            return Err(BuildError::at(key, "is empty, so everybody would pass"));
        }
        match StatusCode::from_u16(self.status) {
            Ok(status) if status.is_client_error() => Ok(status),
            _ => Err(BuildError::at("status", format!("is {}; a refusal's goes from 400 to 499", self.status))),
        }
    }

    /// Reads all lists; every file that cannot be used is a fault of its own.
    fn read_sources(&self, context: &Context) -> Result<Vec<Source>, BuildError> {
        let (mut sources, mut faults) = (Vec::new(), BuildError::default());
        for (side, key, networks) in [(Side::Allow, "allow", &self.allow), (Side::Deny, "deny", &self.deny)] {
            let Some(networks) = networks else { continue };
            for index in (0..networks.len()).filter(|&index| side == Side::Allow && networks[index].is_everyone()) {
                context.warn((key, index), format!("has `{}`, which {EVERYONE}", networks[index]));
            }
            sources.push(Source::of_setting(side, key, networks));
        }
        for (side, key, files) in
            [(Side::Allow, "allow_files", &self.allow_files), (Side::Deny, "deny_files", &self.deny_files)]
        {
            for (index, file) in files.iter().flatten().enumerate() {
                match Source::of_file(side, file, context.path(file)) {
                    Ok(source) => {
                        if let Some(entry) = source.everyone() {
                            context.warn((key, index), format!("has {entry}, which {EVERYONE}"));
                        }
                        sources.push(source);
                    }
                    Err(fault) => faults.add((key, index), fault),
                }
            }
        }
        faults.into_result()?;
        let mut allowing = sources.iter().filter(|source| source.side == Side::Allow).peekable();
        if allowing.peek().is_some() && allowing.all(|source| source.entries.is_empty()) {
            context.warn("allow_files", "hold no network at present, so nobody can pass");
        }
        Ok(sources)
    }
}

/// The middleware: a client at the gate.
struct Gate {
    name: Box<str>,
    lists: Arc<Lists>,
    mode: Mode,
    status: StatusCode,
    refused: Arc<Counter>,
}

impl Guard for Gate {
    fn check(&self, request: &mut Request) -> Result<(), Rejection> {
        let exchange = Exchange::of(request);
        let Ok(client) = exchange.client() else {
            return self.refuse(&exchange, None, &"the client has no address");
        };
        let rules = self.lists.rules.load();
        match rules.judge(client.ip) {
            Ok(entry) => {
                trace!(middleware = %self.name, client = %client.ip, origin = %client.origin, entry = %entry, "allowed a client");
                Ok(())
            }
            Err(entry) => self.refuse(&exchange, Some(client), &entry),
        }
    }
}

impl Gate {
    /// Refuses a client for the entry that decided, or for the reason that there is none.
    fn refuse(&self, exchange: &Exchange, client: Option<&Client>, entry: &dyn fmt::Display) -> Result<(), Rejection> {
        let counts = !exchange.is_rehearsal();
        let (ip, origin) = (client.map(|client| display(client.ip)), client.map(|client| display(client.origin)));
        if counts {
            self.refused.increment();
        }
        match self.mode {
            Mode::Enforce => {
                if counts {
                    debug!(middleware = %self.name, client = ip, origin, %entry, "refused a client");
                }
                let note = match client {
                    Some(client) => format!("{}: client {} ({}), {entry}", self.name, client.ip, client.origin),
                    None => format!("{}: {entry}", self.name),
                };
                Err(Rejection::new(Cause::IpNotAllowed).status(self.status).note(note))
            }
            Mode::Report => {
                if counts {
                    info!(middleware = %self.name, client = ip, origin, %entry, "would refuse a client");
                }
                Ok(())
            }
        }
    }
}

/// Which list an entry is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Allow,
    Deny,
}

/// One network and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    network: IpNet,
    /// The setting, or the file as the settings name it.
    list: Arc<str>,
    /// Counts lines of a file from 1, entries of a setting from 0.
    place: u32,
    in_file: bool,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, list, place, in_file } = self;
        if *in_file { write!(f, "{network} ({list}:{place})") } else { write!(f, "{network} ({list}[{place}])") }
    }
}

/// One list as it is written: a setting, or a file.
struct Source {
    side: Side,
    name: Arc<str>,
    path: Option<PathBuf>,
    entries: Vec<Entry>,
}

impl Source {
    fn of_setting(side: Side, key: &str, networks: &[Network]) -> Self {
        let name: Arc<str> = key.into();
        let entries = networks
            .iter()
            .zip(0..)
            .map(|(network, place)| Entry { network: network.get(), list: name.clone(), place, in_file: false })
            .collect();
        Self { side, name, path: None, entries }
    }

    fn of_file(side: Side, file: &Path, path: PathBuf) -> Result<Self, String> {
        let name: Arc<str> = file.display().to_string().into();
        let content = follow::read(&path)
            .map_err(|error| format!("names `{}`, which cannot be read: {error}", path.display()))?;
        let mut source = Self { side, name, path: Some(path), entries: Vec::new() };
        source.entries = source.parse(&content).map_err(|fault| format!("cannot be used: {fault}"))?;
        Ok(source)
    }

    /// The networks of a file, one a line, or what is wrong with it.
    fn parse(&self, content: &[u8]) -> Result<Vec<Entry>, String> {
        if self.side == Side::Deny && content.trim_ascii().is_empty() {
            return Err(format!("{}: is blank; a list that denies nobody has a comment in it", self.name));
        }
        let (mut entries, mut faults) = (Vec::new(), Vec::new());
        let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
        for (line, place) in content.split(|byte| *byte == b'\n').zip(1..) {
            let line = String::from_utf8_lossy(line);
            let network = line.split('#').next().unwrap_or_default().trim();
            if network.is_empty() {
                continue;
            }
            match network.parse::<Network>() {
                Ok(network) => {
                    entries.push(Entry { network: network.get(), list: self.name.clone(), place, in_file: true })
                }
                Err(fault) => faults.push(format!("{}:{place}: {fault}", self.name)),
            }
        }
        match faults.len() {
            0 => Ok(entries),
            1..=5 => Err(faults.join("; ")),
            more => Err(format!("{}; and {} more", faults[..5].join("; "), more - 5)),
        }
    }

    /// An entry that allows everyone, which is rarely meant.
    fn everyone(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| self.side == Side::Allow && entry.network.prefix_len() == 0)
    }
}

/// All lists of one whitelist, and the rules they make together.
struct Lists {
    sources: Mutex<Vec<Source>>,
    rules: ArcSwap<Rules>,
}

impl Lists {
    fn new(sources: Vec<Source>) -> Self {
        Self { rules: ArcSwap::from_pointee(Rules::new(&sources)), sources: Mutex::new(sources) }
    }

    /// The sources that are files, by their index.
    fn files(&self) -> Vec<(usize, PathBuf)> {
        let sources = self.sources();
        sources.iter().enumerate().filter_map(|(index, source)| Some((index, source.path.clone()?))).collect()
    }

    async fn follow(&self, index: usize, path: &Path) {
        let mut file = Follow::new(path);
        // It may have changed since the whitelist was built.
        if let Ok(content) = follow::read(path) {
            self.take(index, &content);
        }
        loop {
            let content = file.changed().await;
            self.take(index, &content);
        }
    }

    /// Takes a file's new content, unless there is something wrong with it.
    fn take(&self, index: usize, content: &[u8]) {
        let mut sources = self.sources();
        let source = &mut sources[index];
        match source.parse(content) {
            Ok(entries) if entries == source.entries => {}
            Ok(entries) => {
                info!(file = %source.name, networks = entries.len(), "took over a changed list");
                source.entries = entries;
                if let Some(entry) = source.everyone() {
                    warn!(file = %source.name, %entry, "an allow list {EVERYONE}");
                }
                self.rules.store(Arc::new(Rules::new(&sources)));
            }
            Err(fault) => warn!(file = %source.name, fault, "kept the old list: the new one cannot be used"),
        }
    }

    fn sources(&self) -> MutexGuard<'_, Vec<Source>> {
        self.sources.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Who may pass, ready to be asked.
struct Rules {
    /// `None`: everybody who is not denied. An empty list is somebody's, and means nobody.
    allow: Option<List>,
    deny: List,
}

impl Rules {
    fn new(sources: &[Source]) -> Self {
        let of = |side| sources.iter().filter(move |source| source.side == side);
        let list = |side| List::new(of(side).flat_map(|source| &source.entries).cloned().collect());
        Self { allow: of(Side::Allow).next().map(|_| list(Side::Allow)), deny: list(Side::Deny) }
    }

    /// Whether this address may pass, and why.
    fn judge(&self, ip: IpAddr) -> Result<Verdict<'_>, Verdict<'_>> {
        if let Some(entry) = self.deny.find(ip) {
            return Err(Verdict::Denied(entry));
        }
        match &self.allow {
            None => Ok(Verdict::NotDenied),
            Some(allow) => allow.find(ip).map(Verdict::Allowed).ok_or(Verdict::NotAllowed),
        }
    }
}

/// What decided about a client.
#[derive(Debug, PartialEq)]
enum Verdict<'a> {
    Allowed(&'a Entry),
    NotDenied,
    Denied(&'a Entry),
    NotAllowed,
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Allowed(entry) => write!(f, "allowed by {entry}"),
            Verdict::NotDenied => f.write_str("on no list, and only deny lists are given"),
            Verdict::Denied(entry) => write!(f, "denied by {entry}"),
            Verdict::NotAllowed => f.write_str("on no allow list"),
        }
    }
}

/// Entries, found by the addresses they cover.
struct List {
    set: IpSet,
    entries: Vec<Entry>,
}

impl List {
    fn new(entries: Vec<Entry>) -> Self {
        Self { set: entries.iter().map(|entry| entry.network).collect(), entries }
    }

    fn find(&self, ip: IpAddr) -> Option<&Entry> {
        self.set.find(ip).map(|index| &self.entries[index])
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::testing::{self, BuiltPlugin, Chain, Setting, build, chain};

    #[test]
    fn it_keeps_the_promises_of_every_plugin() {
        testing::conformance::<IpWhitelist>();
    }

    async fn status(app: &Chain, ip: &str) -> u16 {
        app.clone().client(ip).get("/").await.status.as_u16()
    }

    #[tokio::test]
    async fn only_listed_networks_pass() {
        let app = chain::<IpWhitelist>(r#"allow = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]"#);
        for ip in ["10.0.0.0", "10.255.255.255", "192.0.2.7", "2001:db8::1"] {
            assert_eq!(status(&app, ip).await, 200, "{ip}");
        }
        for ip in ["9.255.255.255", "11.0.0.0", "192.0.2.8", "2001:db9::", "::1"] {
            let answer = app.clone().client(ip).get("/").await;
            answer.expect_status(403).expect_cause(Cause::IpNotAllowed);
        }
        assert_eq!(app.seen().len(), 4, "who is refused does not come through");
    }

    #[tokio::test]
    async fn deny_wins_over_allow() {
        let app = chain::<IpWhitelist>(
            r#"allow = ["10.0.0.0/8", "10.66.1.0/24"]
               deny  = ["10.66.0.0/16"]"#,
        );
        assert_eq!(status(&app, "10.65.0.1").await, 200);
        assert_eq!(status(&app, "10.66.1.1").await, 403);
        assert_eq!(status(&app, "192.0.2.1").await, 403);
    }

    #[tokio::test]
    async fn with_only_deny_everybody_else_passes() {
        let app = chain::<IpWhitelist>(r#"deny = ["10.66.0.0/16"]"#);
        assert_eq!(status(&app, "203.0.113.9").await, 200);
        assert_eq!(status(&app, "10.66.1.1").await, 403);
    }

    #[tokio::test]
    async fn a_mapped_address_is_judged_as_ipv4_and_so_is_a_mapped_network() {
        let app = chain::<IpWhitelist>(
            r#"allow = ["::ffff:10.0.0.0/104"]
               deny  = ["10.66.0.0/16"]"#,
        );
        assert_eq!(status(&app, "10.0.0.1").await, 200);
        assert_eq!(status(&app, "::ffff:10.0.0.1").await, 200);
        assert_eq!(status(&app, "::ffff:10.66.0.1").await, 403);
        assert_eq!(status(&app, "::ffff:192.0.2.1").await, 403);
    }

    #[tokio::test]
    async fn everything_ipv6_is_nothing_ipv4_and_is_warned_about() {
        let built = build::<IpWhitelist>(r#"allow = ["::/0"]"#).expect("it builds");
        assert!(built.warnings.contains("`::/0`, which lets every client"), "{}", built.warnings);
        let app = Chain::new(vec![built]);
        assert_eq!(status(&app, "2001:db8::1").await, 200);
        assert_eq!(status(&app, "192.0.2.1").await, 403);
        assert_eq!(status(&app, "::ffff:192.0.2.1").await, 403);
    }

    #[tokio::test]
    async fn a_client_without_an_address_is_refused_like_any_other() {
        // It was a 500, as if the gateway had failed.
        for (toml, status) in [
            (r#"allow = ["0.0.0.0/0", "::/0"]"#, 403),
            (r#"deny = ["10.0.0.0/8"]"#, 403),
            ("deny = [\"10.0.0.0/8\"]\nstatus = 404", 404),
        ] {
            let app = chain::<IpWhitelist>(toml).from_client(None);
            let started = app.start(testing::request("GET", "/")).await;
            let note = Rejection::of(&started.response).and_then(Rejection::noted).expect("a note");
            assert_eq!(note, "ip_whitelist: the client has no address");
            started.read().await.expect_status(status).expect_cause(Cause::IpNotAllowed);
            assert!(app.seen().is_empty());
        }
    }

    #[tokio::test]
    async fn a_spoofed_forwarding_header_admits_nobody() {
        use crate::client::{Source, TrustedProxies, settle};

        let app = chain::<IpWhitelist>(r#"allow = ["10.0.0.0/8"]"#);
        let proxies = TrustedProxies::new(["192.0.2.0/24".parse().expect("a network")]);
        let ask = async |peer: &str, lines: &[(&'static str, &str)]| {
            let mut request = testing::request("GET", "/");
            for (name, value) in lines {
                request.headers_mut().append(*name, value.parse().expect("a value"));
            }
            let client = settle(peer.parse().expect("an address"), Source::Itself, request.headers(), &proxies);
            app.clone().from_client(client).send(request).await.status.as_u16()
        };
        for spoofed in ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1, 10.0.0.1", "for=10.0.0.1"] {
            for name in ["x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip"] {
                assert_eq!(ask("203.0.113.9:1", &[(name, spoofed)]).await, 403, "a stranger says {name}: {spoofed}");
                // What the proxy wrote stands behind what the client did.
                let lines = [(name, spoofed), ("x-forwarded-for", "203.0.113.9")];
                assert_eq!(ask("[::ffff:192.0.2.1]:1", &lines).await, 403, "through a proxy, {name}: {spoofed}");
            }
        }
        assert_eq!(ask("[::ffff:192.0.2.1]:1", &[("x-forwarded-for", "::ffff:10.0.0.1")]).await, 200);
    }

    #[tokio::test]
    async fn a_refusal_may_have_another_status_and_its_note_names_client_origin_and_entry() {
        let app = chain::<IpWhitelist>(
            r#"deny = ["192.0.2.0/24", "10.66.0.0/16"]
               status = 404"#,
        );
        let started = app.clone().client("10.66.1.1").start(testing::request("GET", "/")).await;
        let note = Rejection::of(&started.response).and_then(Rejection::noted).expect("a note").to_owned();
        assert_eq!(note, "ip_whitelist: client 10.66.1.1 (peer), denied by 10.66.0.0/16 (deny[1])");
        let answer = started.read().await.expect_status(404);
        assert!(!String::from_utf8_lossy(&answer.body).contains("10.66"), "the note is not for the client");
    }

    #[tokio::test]
    async fn report_mode_lets_everybody_pass_and_counts_who_would_be_refused() {
        // The counter is the process's: no other test reports.
        let app = chain::<IpWhitelist>(
            r#"allow = ["10.0.0.0/8"]
               mode  = "report""#,
        );
        for ip in ["10.0.0.1", "192.0.2.1", "192.0.2.2"] {
            assert_eq!(status(&app, ip).await, 200);
        }
        app.clone().from_client(None).get("/").await.expect_status(200);
        let labels = [("middleware", "ip_whitelist"), ("mode", "report")];
        assert_eq!(metrics::counter("ip_whitelist_refused_total", "", &labels).get(), 3);
    }

    #[test]
    fn an_empty_list_never_means_everyone() {
        for (toml, fault) in [
            ("", "`allow` or `deny`, or files of either, must say who may pass"),
            ("allow = []", "`allow` is empty, so nobody could pass"),
            ("allow_files = []", "`allow_files` is empty, so nobody could pass"),
            ("allow = []\ndeny = [\"10.0.0.0/8\"]", "`allow` is empty, so nobody could pass"),
            ("deny = []", "`deny` is empty, so everybody would pass"),
            ("deny_files = []", "`deny_files` is empty, so everybody would pass"),
        ] {
            let faults = build::<IpWhitelist>(toml).map(drop).expect_err(toml);
            assert!(faults.contains(fault), "{toml}: {faults}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_with_their_line() {
        for (toml, fault) in [
            ("allow = [\"10.0.0.1/8\"]", "the network is `10.0.0.0/8`"),
            ("allow = [\"10.0.0.0/8\"]\nstatus = 200", "`status` is 200; a refusal's goes from 400 to 499"),
            ("allow = [\"10.0.0.0/8\"]\nstatus = 500", "`status` is 500"),
            ("allow_files = [\"no/such/file\"]", "cannot be read"),
            ("allow = [\"10.0.0.0/8\"]\nmode = \"watch\"", "watch"),
        ] {
            let faults = build::<IpWhitelist>(toml).map(drop).expect_err(toml);
            assert!(faults.contains(fault), "{toml}: {faults}");
        }
    }

    /// A whitelist with files, and the directory they are in.
    fn with_files(files: &[(&str, &str)], toml: &str) -> (tempfile::TempDir, Result<BuiltPlugin, String>) {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, content) in files {
            fs::write(directory.path().join(name), content).expect("written");
        }
        let built = Setting { directory: directory.path().to_owned(), ..Setting::default() }.build::<IpWhitelist>(toml);
        (directory, built)
    }

    #[tokio::test]
    async fn files_hold_one_network_a_line_and_comments() {
        let content = "\u{feff}# partners\r\n10.0.0.0/8\r\n\n 2001:db8::/32  # theirs\n192.0.2.7";
        let (_directory, built) = with_files(&[("partners.txt", content)], r#"allow_files = ["partners.txt"]"#);
        let app = Chain::new(vec![built.expect("it builds")]);
        for ip in ["10.0.0.1", "2001:db8::1", "192.0.2.7"] {
            assert_eq!(status(&app, ip).await, 200, "{ip}");
        }
        assert_eq!(status(&app, "192.0.2.8").await, 403);
    }

    #[test]
    fn bad_lines_at_start_are_faults_with_file_and_line() {
        let files = [("list.txt", "10.0.0.0/8\n10.0.0.1/8\nten\n")];
        let (_directory, built) = with_files(&files, r#"deny_files = ["list.txt"]"#);
        let faults = built.map(drop).expect_err("two bad lines");
        assert!(faults.contains("list.txt:2: `10.0.0.1/8` has host bits set"), "{faults}");
        assert!(faults.contains("list.txt:3: `ten` is neither"), "{faults}");
    }

    #[tokio::test]
    async fn blank_files_never_let_more_pass() {
        let (_directory, built) = with_files(&[("list.txt", "")], r#"allow_files = ["list.txt"]"#);
        let built = built.expect("it builds");
        assert!(built.warnings.contains("nobody can pass"), "{}", built.warnings);
        assert_eq!(status(&Chain::new(vec![built]), "127.0.0.1").await, 403);

        let (_directory, built) = with_files(&[("list.txt", " \n")], r#"deny_files = ["list.txt"]"#);
        assert!(built.map(drop).expect_err("blank").contains("a list that denies nobody has a comment in it"));

        let (_directory, built) = with_files(&[("list.txt", "# nobody yet\n")], r#"deny_files = ["list.txt"]"#);
        assert_eq!(status(&Chain::new(vec![built.expect("it builds")]), "127.0.0.1").await, 200);
    }

    #[test]
    fn a_file_that_allows_everyone_is_warned_about() {
        let files = [("list.txt", "10.0.0.0/8\n0.0.0.0/0\n")];
        let (_directory, built) = with_files(&files, r#"allow_files = ["list.txt"]"#);
        let warnings = built.expect("it builds").warnings;
        assert!(warnings.contains("has 0.0.0.0/0 (list.txt:2), which lets every client"), "{warnings}");
    }

    #[test]
    fn a_bad_line_keeps_the_whole_old_list() {
        let networks = |lists: &Lists| {
            lists.sources()[0].entries.iter().map(|entry| entry.network.to_string()).collect::<Vec<_>>()
        };
        for (side, kept) in [(Side::Allow, false), (Side::Deny, true)] {
            let source = Source { side, name: "list.txt".into(), path: None, entries: Vec::new() };
            let lists = Lists::new(vec![source]);
            lists.take(0, b"10.0.0.0/8\n192.0.2.0/24");
            assert_eq!(networks(&lists), ["10.0.0.0/8", "192.0.2.0/24"]);
            for bad in [&b"10.0.0.0/8\n192.0.2.0/2"[..], b"\xff\xfe", b"10.0.0.0/8, 10.0.0.0/9"] {
                lists.take(0, bad);
                assert_eq!(networks(&lists), ["10.0.0.0/8", "192.0.2.0/24"]);
            }
            lists.take(0, b"");
            assert_eq!(!networks(&lists).is_empty(), kept, "a blank file of {side:?}");
            lists.take(0, b"#\n");
            assert!(networks(&lists).is_empty());
            assert_eq!(lists.rules.load().judge("10.0.0.1".parse().expect("an address")).is_ok(), side == Side::Deny);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_followed_from_when_it_was_read() {
        let files = [("list.txt", "10.0.0.0/8\n")];
        let (directory, built) = with_files(&files, r#"allow_files = ["list.txt"]"#);
        let mut built = built.expect("it builds");
        let tasks = std::mem::take(&mut built.tasks);
        let app = Chain::new(vec![built]);
        assert_eq!(status(&app, "192.0.2.1").await, 403);

        // Changed before anything follows it.
        fs::write(directory.path().join("list.txt"), "192.0.2.0/24\n").expect("written");
        let stop = CancellationToken::new();
        let following: Vec<_> = tasks.into_iter().map(|task| tokio::spawn(task(stop.clone()))).collect();
        until(&app, "192.0.2.1", 200).await;
        assert_eq!(status(&app, "10.0.0.1").await, 403);

        fs::write(directory.path().join("new.txt"), "203.0.113.0/24\n").expect("written");
        fs::rename(directory.path().join("new.txt"), directory.path().join("list.txt")).expect("renamed");
        until(&app, "203.0.113.1", 200).await;
        assert_eq!(status(&app, "192.0.2.1").await, 403);

        stop.cancel();
        for task in following {
            task.await.expect("it stops when it is told to");
        }
    }

    /// Waits for an answer; the clock is paused, so waiting takes no time.
    async fn until(app: &Chain, ip: &str, wanted: u16) {
        for _ in 0..600 {
            if status(app, ip).await == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{ip} never got {wanted}");
    }
}
