//! Clients that say they are somebody else.
//!
//! `127.0.0.2` is the proxy that is trusted, whoever connects from `127.0.0.1` is a stranger, and only `192.0.2.0/24` may in.

use tokio::net::TcpSocket;

use super::*;

const STRANGER: &str = "127.0.0.1";
const PROXY: &str = "127.0.0.2";

async fn guarded(instance: SocketAddr, forwarding: &str) -> Logged {
    guarded_behind(&[PROXY], instance, forwarding).await
}

async fn guarded_behind(proxies: &[&str], instance: SocketAddr, forwarding: &str) -> Logged {
    let text = format!(
        "forwarding = \"{forwarding}\"\n[middleware.office]\ntype = \"ip_whitelist\"\nallow = [\"192.0.2.0/24\"]\n\
         [service.orders]\ninstances = [\"{instance}\"]\n\
         [[route]]\nmatch = {{ path = {{ prefix = \"/in\" }} }}\nchain = [\"office\"]\nservice = \"orders\"\n\
         [[route]]\nmatch = {{ path = {{ prefix = \"/out\" }} }}\nservice = \"orders\"\n"
    );
    Logged::trusting(proxies, &text).await
}

/// The answer's status to a request from this address with these header lines.
async fn ask(target: &Logged, from: &str, path: &str, lines: &str) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let mut wire = Wire::new(socket.connect(target.address).await.unwrap());
    wire.put(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{lines}Connection: close\r\n\r\n")).await;
    let answer = String::from_utf8(wire.rest().await).unwrap();
    answer.get(9..12).unwrap_or_else(|| panic!("no answer to {lines:?}")).parse().unwrap()
}

/// Headers in which one can claim to be somebody.
const CLAIMS: &[&str] = &[
    "X-Forwarded-For: {}",
    "x-forwarded-for:{}",
    "X-Forwarded-For: {}, {}",
    "X-Forwarded-For: {}\r\nX-Forwarded-For: {}",
    "X_Forwarded_For: {}",
    "X-Forwarded_For: {}",
    "Forwarded: for={}",
    "Forwarded: for=\"{}\"",
    "Forwarded: for=\"[{}]\"",
    "Forwarded: proto=https;for={};by={}",
    "X-Real-IP: {}",
    "X-Client-IP: {}",
    "X-Cluster-Client-IP: {}",
    "True-Client-IP: {}",
    "CF-Connecting-IP: {}",
    "Client-IP: {}",
    "X-Originating-IP: {}",
    "X-Remote-Addr: {}",
    "Remote-Addr: {}",
    "Via: 1.1 {}",
    "From: {}",
];

/// Ways to write an address that may in, or something that somebody takes for one.
const SPELLINGS: &[&str] = &[
    "192.0.2.1",
    "192.0.2.1:80",
    "::ffff:192.0.2.1",
    "[::ffff:192.0.2.1]",
    "[::ffff:c000:201]:1",
    "0:0:0:0:0:ffff:192.0.2.1",
    "::192.0.2.1",
    "64:ff9b::192.0.2.1",
    "2002:c000:201::",
    "0300.0.2.1",
    "192.0.2.01",
    "192.0.513",
    "3221225985",
    "0xc0000201",
    "192.0.2.1%eth0",
    "::ffff:192.0.2.1%1",
    "192.0.2.1/32",
    "192.0.2.1;",
    "192.0.2.1\\",
    "\"192.0.2.1",
    "192.0.2.1\"",
    "\"192.0.2.1\"",
    "192.0.2.1\t",
    "192.0.2.1 127.0.0.1",
    "unknown, 192.0.2.1",
    "_hidden",
    "unknown",
    "",
    ",",
    "192.0.2.1,",
    ",192.0.2.1",
    "localhost",
    "127.0.0.1",
    "127.0.0.2",
    "::1",
    "0.0.0.0",
    "\u{ff11}92.0.2.1",
    "1\u{661}2.0.2.1",
];

#[tokio::test]
async fn a_stranger_is_who_he_is_whatever_he_claims() {
    let witness = Witness::new().await;
    let target = guarded(witness.address, "both").await;
    let mut asked = 0;
    for claim in CLAIMS {
        for spelling in SPELLINGS {
            let line = format!("{}\r\n", claim.replace("{}", spelling));
            assert_eq!(ask(&target, STRANGER, "/in", &line).await, 403, "{line}");
            asked += 1;
        }
    }
    assert!(witness.heads().is_empty());
    let lines = target.lines().await;
    assert_eq!(lines.len(), asked);
    assert!(lines.iter().all(|line| line["client"] == STRANGER && line["client_origin"] == "peer"));
}

#[tokio::test]
async fn what_a_client_wrote_before_the_proxy_did_admits_nobody() {
    let witness = Witness::new().await;
    let target = guarded(witness.address, "both").await;
    for spelling in SPELLINGS {
        for line in [
            format!("X-Forwarded-For: {spelling}, 203.0.113.9\r\n"),
            format!("X-Forwarded-For: {spelling}\r\nX-Forwarded-For: 203.0.113.9\r\n"),
            format!("X-Forwarded-For: {spelling}, 203.0.113.9, 127.0.0.2\r\n"),
            format!("Forwarded: for={spelling}\r\nX-Forwarded-For: 203.0.113.9\r\n"),
            format!("Forwarded: for={spelling}, for=203.0.113.9\r\n"),
            format!("Forwarded: for=\"{spelling}\", for=203.0.113.9;by=127.0.0.2\r\n"),
            format!("X-Real-IP: {spelling}\r\nX-Forwarded-For: 203.0.113.9\r\n"),
            format!("X-Forwarded-For: 203.0.113.9\r\nX_Forwarded_For: {spelling}\r\n"),
            // Nor does something that is no address let anybody look behind it.
            format!("X-Forwarded-For: {spelling}, nobody\r\n"),
            format!("X-Forwarded-For: {spelling}, 203.0.113.256\r\n"),
            format!("Forwarded: for={spelling}, for=nobody\r\n"),
            format!("Forwarded: for={spelling}, by=203.0.113.9\r\n"),
        ] {
            assert_eq!(ask(&target, PROXY, "/in", &line).await, 403, "{line}");
        }
    }
    assert!(witness.heads().is_empty());
}

#[tokio::test]
async fn an_address_means_the_same_in_every_spelling_and_nothing_else_means_it() {
    let witness = Witness::new().await;
    let target = guarded(witness.address, "x").await;
    for (entry, status) in [
        ("192.0.2.1", 200),
        (" 192.0.2.1\t", 200),
        ("192.0.2.1:65535", 200),
        ("::ffff:192.0.2.1", 200),
        ("::FFFF:C000:0201", 200),
        ("[::ffff:192.0.2.1]:80", 200),
        ("0:0:0:0:0:ffff:192.0.2.1", 200),
        ("192.0.2.1, 127.0.0.2", 200),
        ("192.0.2.1, ::ffff:127.0.0.2", 200),
        ("::192.0.2.1", 403),
        ("64:ff9b::192.0.2.1", 403),
        ("2002:c000:201::", 403),
        ("0300.0.2.1", 403),
        ("192.0.2.01", 403),
        ("192.0.513", 403),
        ("3221225985", 403),
        ("0xc0.0.2.1", 403),
        ("192.0.2.1:99999", 403),
        ("192.0.2.1:", 403),
        ("192.0.2.1%eth0", 403),
        ("192.0.2.1/24", 403),
        ("192.0.2.1 ,", 200),
        ("192.0.2.1, 198.51.100.1", 403),
    ] {
        assert_eq!(ask(&target, PROXY, "/in", &format!("X-Forwarded-For: {entry}\r\n")).await, status, "{entry}");
    }
}

/// The header lines of a head that speak of the client.
fn spoken(head: &str) -> Vec<String> {
    let told = |line: &&str| {
        let name = line.split(':').next().unwrap().to_ascii_lowercase().replace('_', "-");
        name.starts_with("x-forwarded") || matches!(&*name, "x-real-ip" | "forwarded" | "proxy")
    };
    let mut lines: Vec<_> = head.lines().skip(1).filter(told).map(str::to_owned).collect();
    lines.sort();
    lines
}

const EVERYTHING: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n\
    X-Forwarded-Port: 443\r\nX-Real-IP: 192.0.2.1\r\nForwarded: for=192.0.2.1;host=evil.example\r\nX_Forwarded_For: 192.0.2.1\r\nX-Forwarded_Host: evil\r\n\
    X_Real_IP: 192.0.2.1\r\nFORWARDED: for=192.0.2.3\r\nProxy: http://evil.example\r\n";

/// What `Connection` may name, to have what we write removed.
const NAMED: &[&str] = &[
    "",
    "Connection: X-Forwarded-For\r\n",
    "Connection: close, x-forwarded-for, X-Forwarded-Proto, x-forwarded-host, X-Real-IP, forwarded, host\r\n",
    "Connection: Forwarded\r\nConnection: X-REAL-IP , x-forwarded-for\r\n",
    "Keep-Alive: x-forwarded-for\r\nProxy-Connection: x-forwarded-for\r\n",
];

#[tokio::test]
async fn what_a_stranger_says_of_himself_is_replaced_and_cannot_be_had_removed() {
    let ours = [
        (
            "x",
            &[
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: http",
                "x-real-ip: 127.0.0.1",
            ][..],
        ),
        ("rfc7239", &["forwarded: for=127.0.0.1;host=\"shop.example\";proto=http"]),
        ("off", &[]),
    ];
    for (forwarding, wanted) in ours {
        let witness = Witness::new().await;
        let target = guarded(witness.address, forwarding).await;
        for named in NAMED {
            assert_eq!(ask(&target, STRANGER, "/out", &format!("{EVERYTHING}{named}")).await, 200, "{named}");
            let head = witness.heads().pop().unwrap();
            assert_eq!(spoken(&head), wanted, "{named}");
            assert_eq!(header(&head, "host"), Some("shop.example"), "{named}");
        }
    }
}

#[tokio::test]
async fn what_the_proxy_says_is_added_to_and_cannot_be_had_removed() {
    let witness = Witness::new().await;
    let target = guarded(witness.address, "both").await;
    for named in NAMED {
        assert_eq!(ask(&target, PROXY, "/out", &format!("{EVERYTHING}{named}")).await, 200, "{named}");
        assert_eq!(
            spoken(&witness.heads().pop().unwrap()),
            [
                // Not the list that came. The client was found in the other one.
                "forwarded: for=192.0.2.2, for=127.0.0.2;host=\"shop.example\";proto=http",
                "x-forwarded-for: 192.0.2.1, 192.0.2.2, 127.0.0.2",
                "x-forwarded-host: evil.example",
                "x-forwarded-port: 443",
                "x-forwarded-proto: https",
                "x-real-ip: 192.0.2.2",
            ],
            "{named}"
        );
    }
}

#[tokio::test]
async fn whom_a_chain_of_proxies_names_on_the_way_stays_in_the_list_that_was_read() {
    let witness = Witness::new().await;
    let target = guarded_behind(&[PROXY, "10.0.0.1"], witness.address, "both").await;
    let (list, elements) = ("192.0.2.1, 10.0.0.1", "for=192.0.2.1, for=10.0.0.1");
    let own = "for=127.0.0.2;host=\"shop.example\";proto=http";
    for (lines, x, rfc7239) in [
        // Whoever is between the client and the last proxy is not written anew.
        (format!("X-Forwarded-For: {list}\r\n"), format!("{list}, 127.0.0.2"), format!("for=192.0.2.1, {own}")),
        (format!("Forwarded: {elements}\r\n"), "192.0.2.1, 127.0.0.2".to_owned(), format!("{elements}, {own}")),
    ] {
        assert_eq!(ask(&target, PROXY, "/in", &lines).await, 200, "{lines}");
        let head = witness.heads().pop().unwrap();
        assert_eq!(header(&head, "x-forwarded-for"), Some(&*x), "{lines}");
        assert_eq!(header(&head, "forwarded"), Some(&*rfc7239), "{lines}");
    }
}

/// What asked for an address that nobody had was a 500 `internal`, which pages somebody.
#[tokio::test]
async fn whom_nobody_can_name_is_refused_where_an_address_decides_and_slips_to_no_other_route() {
    let witness = Witness::new().await;
    let instance = witness.address;
    let target = Logged::trusting(
        &["127.0.0.0/8"],
        &format!(
            "proxy_protocol = true\n\
             [service.open]\ninstances = [\"{instance}\"]\n\
             [service.told]\ninstances = [\"{instance}\"]\nproxy_protocol = \"v1\"\n\
             [[route]]\nname = \"office\"\nmatch = {{ path = \"/in\", clients = [\"192.0.2.0/24\"] }}\nservice = \"open\"\n\
             [[route]]\nname = \"blocked\"\nmatch = {{ path = \"/out\", clients = [\"192.0.2.0/24\"] }}\nrespond = {{ status = 403 }}\n\
             [[route]]\nname = \"told\"\nmatch = {{ path = \"/told\" }}\nservice = \"told\"\n\
             [[route]]\nname = \"split\"\nmatch = {{ path = \"/split\" }}\nsplit = [{{ service = \"open\", weight = 1 }}]\nsticky = {{ client = true }}\n\
             [[route]]\nname = \"rest\"\nmatch = {{ path = {{ prefix = \"/\" }} }}\nservice = \"open\"\n"
        ),
    )
    .await;
    let paths = ["/in", "/out", "/told", "/split", "/other"];
    for (path, wanted) in paths.into_iter().zip([403, 403, 403, 403, 200]) {
        let mut wire = target.connect().await;
        wire.put(format!("PROXY UNKNOWN\r\nGET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        let answer = String::from_utf8(wire.rest().await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted} ")), "{path}: {answer}");
    }
    let lines = target.first_lines(paths.len()).await;
    let notes: Vec<_> = lines.iter().map(|line| line["note"].as_str().unwrap_or_default()).collect();
    let nobody = "the client has no address";
    assert_eq!(
        notes,
        [&*format!("route `office`: {nobody}"), &*format!("route `blocked`: {nobody}"), nobody, nobody, ""]
    );
    assert!(lines[..4].iter().all(|line| line["cause"] == "ip_not_allowed"), "{lines:?}");
    assert_eq!(witness.heads().len(), 1, "nothing else went upstream");
}

#[tokio::test]
async fn a_list_of_nobody_names_nobody_and_leaves_no_empty_element() {
    let witness = Witness::new().await;
    let target = guarded(witness.address, "x").await;
    for lines in ["X-Forwarded-For:\r\n", "X-Forwarded-For: ,\r\n", "X-Forwarded-For:\r\nX-Forwarded-For: , ,\r\n"] {
        assert_eq!(ask(&target, PROXY, "/out", lines).await, 200, "{lines:?}");
        let head = witness.heads().pop().unwrap();
        assert_eq!(
            (header(&head, "x-forwarded-for"), header(&head, "x-real-ip")),
            (Some(PROXY), Some(PROXY)),
            "{lines:?}"
        );
        assert_eq!(ask(&target, PROXY, "/in", lines).await, 403, "{lines:?}");
        // Nor does it let the other family be read, which its client may have written.
        assert_eq!(ask(&target, PROXY, "/in", &format!("Forwarded: for=192.0.2.1\r\n{lines}")).await, 403, "{lines:?}");
    }
    for (line, list) in [("192.0.2.1,", "192.0.2.1, 127.0.0.2"), (",192.0.2.1", "192.0.2.1, 127.0.0.2")] {
        assert_eq!(ask(&target, PROXY, "/in", &format!("X-Forwarded-For: {line}\r\n")).await, 200, "{line}");
        assert_eq!(header(&witness.heads().pop().unwrap(), "x-forwarded-for"), Some(list), "{line}");
    }
}

#[tokio::test]
async fn what_the_proxy_says_in_one_family_of_how_a_client_asked_is_told_in_the_other() {
    let witness = Witness::new().await;
    let target = guarded(witness.address, "x").await;
    for (lines, proto, host) in [
        ("Forwarded: for=192.0.2.1;proto=https;host=a.example\r\n", "https", "a.example"),
        // What the client wrote into an element of its own is not asked for, nor the family that was not read.
        ("Forwarded: for=192.0.2.9;proto=ftp;host=b, for=192.0.2.1;proto=https\r\n", "https", "shop.example"),
        ("Forwarded: for=192.0.2.1\r\nX-Forwarded-Proto: ftp\r\nX-Forwarded-Host: b\r\n", "http", "shop.example"),
        ("X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1;proto=ftp;host=b\r\n", "http", "shop.example"),
    ] {
        assert_eq!(ask(&target, PROXY, "/in", lines).await, 200, "{lines:?}");
        let head = witness.heads().pop().unwrap();
        let told = (header(&head, "x-forwarded-proto"), header(&head, "x-forwarded-host"));
        assert_eq!(told, (Some(proto), Some(host)), "{lines:?}");
        assert_eq!(ask(&target, STRANGER, "/out", lines).await, 200);
        let head = witness.heads().pop().unwrap();
        assert_eq!(header(&head, "x-forwarded-proto"), Some("http"), "a stranger has no say: {lines:?}");
    }
}
