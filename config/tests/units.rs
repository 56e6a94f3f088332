//! Values as people write them, through TOML.

use std::fmt::Debug;

use portcullis_config::units::*;
use portcullis_config::{Document, Faults, File, Raw};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holder<T> {
    value: T,
}

/// Reads `value = …` as a plugin's table would be.
fn read<T: DeserializeOwned>(value: &str) -> Result<T, String> {
    let text = format!("[listener.l]\naddress = \"127.0.0.1:80\"\n[middleware.m]\ntype = \"t\"\nvalue = {value}\n");
    let (file, faults) = File::parse("t.toml", &text);
    let file = file.unwrap_or_else(|| panic!("{value}: {}", faults.render(false)));
    let raw: &Raw = &file.middlewares[0].value;
    let mut faults = Faults::new();
    let document: &Document = &file.document;
    match raw.decode::<Holder<T>>("middleware `m`", document, &mut faults) {
        Some(holder) => Ok(holder.value),
        None => {
            let said: Vec<&str> = faults.errors().map(|fault| fault.message.as_str()).collect();
            Err(said.join("; "))
        }
    }
}

#[track_caller]
fn good<T: DeserializeOwned + Debug + PartialEq>(value: &str, meaning: T) {
    assert_eq!(read::<T>(value), Ok(meaning), "{value}");
}

#[track_caller]
fn bad<T: DeserializeOwned + Debug>(value: &str, sentence: &str) {
    let said = read::<T>(value).expect_err(value);
    assert_eq!(said, sentence, "{value}");
}

#[test]
fn durations_carry_a_unit() {
    good(r#""250ms""#, Duration::from_millis(250));
    good(r#""10s""#, Duration::from_secs(10));
    good(r#""1m 30s""#, Duration::from_secs(90));
    good(r#"" 2h ""#, Duration::from_secs(7200));
    good(r#""1.5s""#, Duration::from_millis(1500));
    good(r#""0s""#, Duration::from_secs(0));
    assert_eq!(Duration::from_secs(0).limit(), None);
    bad::<Duration>("10", "`value` must be a duration with its unit, for example \"10s\", not a number");
    bad::<Duration>(r#""10""#, "durations carry a unit, for example \"10s\" or \"10ms\"");
    bad::<Duration>(r#""""#, "a duration is missing here, for example \"10s\"");
    bad::<Duration>(r#""-1s""#, "a duration cannot be negative: `-1s`");
    bad::<Duration>(r#""10 parsecs""#, "`parsecs` is not a unit of time; write ms, s, m, h or d, for example \"10s\"");
    bad::<Duration>(r#""soon""#, "`soon` is not a duration; write for example \"250ms\", \"10s\" or \"1m 30s\"");
    for long in ["99999999999999999999s", "366d", "365d 1ms", "500000000000y"] {
        bad::<Duration>(&format!("{long:?}"), &format!("`{long}` is too long; write at most \"365d\""));
    }
    bad::<Duration>("true", "`value` must be a duration with its unit, for example \"10s\", not `true`");
}

#[test]
fn sizes_carry_a_unit() {
    good(r#""512B""#, Size::from_bytes(512));
    good(r#""32KiB""#, Size::from_kib(32));
    good(r#""32 kib""#, Size::from_kib(32));
    good(r#""1MB""#, Size::from_bytes(1_000_000));
    good(r#""1.5KiB""#, Size::from_bytes(1536));
    bad::<Size>("4096", "`value` must be a size with its unit, for example \"32KiB\", not a number");
    bad::<Size>(r#""4096""#, "sizes carry a unit, for example \"4096B\" or \"4096KiB\"");
    bad::<Size>(r#""10s""#, "`s` is not a unit of size; write B, kB, MB, GB, KiB, MiB or GiB");
    bad::<Size>(r#""big""#, "`big` is not a size; write for example \"512B\", \"32KiB\" or \"1MB\"");
    bad::<Size>(r#""-1B""#, "`-1B` is not a size; write for example \"512B\", \"32KiB\" or \"1MB\"");
}

#[test]
fn what_a_unit_prints_reads_back_as_the_same() {
    for size in [0, 1, 512, 1024, 1000, 32 << 10, 5 << 30, (5 << 30) + 1] {
        let size = Size::from_bytes(size);
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    for millis in [0, 1, 999, 1000, 90_000, 86_400_000] {
        let duration = Duration::from_millis(millis);
        assert_eq!(duration.to_string().parse(), Ok(duration));
    }
}

#[test]
fn percentages_go_from_0_to_100() {
    assert_eq!(read::<Percent>("20").unwrap().fraction(), 0.2);
    assert_eq!(read::<Percent>("0.5").unwrap().get(), 0.5);
    assert_eq!(read::<Percent>("100").unwrap().fraction(), 1.0);
    bad::<Percent>("101", "a percentage is a number from 0 to 100, not 101");
    bad::<Percent>("-1", "a percentage is a number from 0 to 100, not -1");
    bad::<Percent>("nan", "a percentage is a number from 0 to 100, not NaN");
    bad::<Percent>("\"20%\"", "`value` must be a number from 0 to 100, not a string");
}

#[test]
fn networks_are_written_by_their_first_address() {
    let network = |text: &str| read::<Network>(&format!("\"{text}\"")).map(|network| network.to_string());
    let fine = |text: &str, meaning: &str| assert_eq!(network(text), Ok(meaning.to_owned()));
    fine("10.0.0.0/8", "10.0.0.0/8");
    fine("192.0.2.1", "192.0.2.1/32");
    fine("2001:db8::/32", "2001:db8::/32");
    fine("::1", "::1/128");
    fine("::/0", "::/0");
    bad::<Network>("\"10.0.0.1/8\"", "`10.0.0.1/8` has host bits set; the network is `10.0.0.0/8`");
    bad::<Network>("\"10.0.0.0/33\"", "`/33` is not a prefix length; it goes from 0 to 32");
    bad::<Network>("\"10.0.0.0/255.255.0.0\"", "write the mask as a number of bits: `10.0.0.0/16`");
    bad::<Network>("\"10.0.0/8\"", "`10.0.0` is not an IP address");
    bad::<Network>("\"office\"", "`office` is neither an address nor a network such as \"10.0.0.0/8\"");
    bad::<Network>("10", "`value` must be a network such as \"10.0.0.0/8\", not a number");
}

#[test]
fn a_mapped_network_is_the_ipv4_network_it_maps() {
    let network = |text: &str| read::<Network>(&format!("\"{text}\"")).unwrap();
    assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
    assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    assert_eq!(network("::ffff:0:0/96"), network("0.0.0.0/0"));
    assert!(!network("::/0").contains(&std::net::IpAddr::from([10, 0, 0, 1])));
}

#[test]
fn hosts_are_names_alone_and_folded() {
    let exact = |host: &str| HostPattern::Exact(host.to_owned());
    good("\"API.Example.COM.\"", exact("api.example.com"));
    good("\"localhost\"", exact("localhost"));
    good("\"my_host\"", exact("my_host"));
    good("\"192.0.2.1\"", exact("192.0.2.1"));
    good("\"[2001:DB8::1]\"", exact("[2001:db8::1]"));
    good("\"*.Example.org\"", HostPattern::Wildcard("example.org".into()));
    good("\"*\"", HostPattern::Any);
    bad::<HostPattern>("\"a.example:8080\"", "a host is matched without its port: write `a.example`");
    bad::<HostPattern>(
        "\"https://a.example/x\"",
        "a host is a name alone: write `a.example` instead of `https://a.example/x`",
    );
    bad::<HostPattern>("\"a.example/x\"", "`a.example/x` is not a host: a path belongs into `path`");
    bad::<HostPattern>(
        "\"api-*.example.org\"",
        "`*` stands only for the whole first label: `api-*.example.org` could be `*.example.org`",
    );
    bad::<HostPattern>(
        "\"a.*.example.org\"",
        "`*` stands only for the whole first label: `a.*.example.org` could be `*.example.org`",
    );
    bad::<HostPattern>("\"::1\"", "write an IPv6 address as a host in brackets: `[::1]`");
    bad::<HostPattern>(
        "\"bücher.example\"",
        "write `bücher.example` in its ASCII form (xn--…), which is what clients send",
    );
    bad::<HostPattern>("\"a..b\"", "`a..b` is not a host: an empty label between dots");
    bad::<HostPattern>("\"\"", "a host's name cannot be empty");
    bad::<HostPattern>("\"a b\"", "`a b` is not a host: ` ` cannot stand in a name");
}

#[test]
fn addresses_have_a_port() {
    bad::<ListenAddress>("\":80\"", "`:80` has no address; write \"0.0.0.0:80\", or \"[::]:80\" for IPv6 as well");
    bad::<ListenAddress>("\"127.0.0.1\"", "`127.0.0.1` has no port; write for example \"127.0.0.1:8080\"");
    bad::<ListenAddress>("\"::\"", "`::` has no port; write for example \"[::]:8080\"");
    bad::<ListenAddress>("\"127.0.0.1:99999\"", "`99999` is not a port; it goes from 1 to 65535");
    bad::<ListenAddress>(
        "\"localhost:80\"",
        "`localhost:80` is not an address to listen on; write for example \"0.0.0.0:8080\" or \"[::]:8080\"",
    );
    bad::<ListenAddress>(
        "\"unix:run/p.sock\"",
        "a unix socket is named by its whole path: \"unix:/…\", not \"unix:run/p.sock\"",
    );
    good("\"Orders.Internal:80\"", InstanceAddress::Name { host: "orders.internal".into(), port: 80 });
    good("\"unix:/run/o.sock\"", InstanceAddress::Unix("/run/o.sock".into()));
    let both =
        "`::1:9001` has no port; write for example \"[::1]:9001\" if `9001` is the port, else \"[::1:9001]:8080\"";
    bad::<ListenAddress>("\"::1:9001\"", both);
    bad::<InstanceAddress>("\"::1:9001\"", both);
    bad::<InstanceAddress>("\"orders\"", "`orders` has no port; write for example \"orders:8080\"");
    bad::<InstanceAddress>("\"orders:0\"", "`0` is not a port; it goes from 1 to 65535");
    bad::<InstanceAddress>("\"127.0.0.1:0\"", "`0` is not a port; it goes from 1 to 65535");
    bad::<InstanceAddress>("\"10.0.0.256:80\"", "`10.0.0.256` is not an IP address");
    bad::<InstanceAddress>("\"a b:80\"", "`a b` is neither an IP address nor a host name");
    bad::<InstanceAddress>(
        "\"https://orders:443/x\"",
        "an instance is a host and a port: write \"orders:443\", and `tls` on the service instead of a URL",
    );
}

#[test]
fn header_names_texts_and_methods_are_what_http_allows() {
    assert_eq!(read::<HeaderName>("\"X-Request-ID\"").unwrap().as_str(), "x-request-id");
    let text: http::HeaderValue = read::<HeaderText>("\"good day\"").unwrap().into();
    assert_eq!(text, "good day");
    assert_eq!(read::<Method>("\"PURGE\"").unwrap().as_str(), "PURGE");
    bad::<HeaderName>("\"\"", "a header's name cannot be empty");
    bad::<HeaderName>("\"x y\"", "`x y` is not a header's name: letters, digits and !#$%&'*+-.^_`|~ only");
    bad::<HeaderText>("\"a\\r\\nb\"", "a header's text cannot hold line breaks or control characters");
    bad::<Method>("\"get\"", "`get` is not a request method; did you mean `GET`?");
    bad::<Method>("\"G T\"", "`G T` is not a request method");
}

#[test]
fn an_expression_matches_the_whole_text() {
    let regex = |text: &str| read::<Regex>(&format!("'{text}'")).unwrap();
    assert!(regex("v[0-9]+").is_match("v12"));
    assert!(!regex("v[0-9]+").is_match("xv12"));
    assert!(!regex("v[0-9]+").is_match("v12/"));
    assert!(regex("a|ab").is_match("ab"));
    assert!(!regex("a|b").is_match("ab"));
    assert!(regex("(?x) a b # a comment").is_match("ab"));
    assert!(!regex("(?m)^a$").is_match("a\na"));
    bad::<Regex>("'(a'", "this is not a regular expression: unclosed group");
    bad::<Regex>("'a)(b'", "this is not a regular expression: unopened group");
    bad::<Regex>(
        "'(?=a)'",
        "this is not a regular expression: look-around, including look-ahead and look-behind, is not supported",
    );
    bad::<Regex>(r"'(\w{200}){200}'", "this expression is too large when compiled; make its repetitions smaller");
}

#[test]
fn a_secret_is_looked_up_and_never_prints() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hunter2\n").unwrap();
    let path = file.path().display();
    let written = read::<Secret>("\"hunter2\"").unwrap();
    assert_eq!(written.expose(), "hunter2");
    assert_eq!(format!("{written:?} {written}"), "… …");
    assert_eq!(serde_json::to_string(&written).unwrap(), "\"…\"");
    assert_eq!(read::<Secret>(&format!("{{ file = \"{path}\" }}")).unwrap().expose(), "hunter2");
    assert!(!read::<Secret>("{ env = \"PATH\" }").unwrap().expose().is_empty());
    bad::<Secret>("{ env = \"PORTCULLIS_UNSET\" }", "the environment has no variable `PORTCULLIS_UNSET`");
    bad::<Secret>("{ env = \"A=B\" }", "`A=B` is not the name of a variable");
    bad::<Secret>("{ file = \"/no/such\" }", "cannot read `/no/such`: No such file or directory (os error 2)");
    bad::<Secret>("{ evn = \"X\" }", "unknown key `evn`; did you mean `env`?");
    bad::<Secret>("{ env = \"X\", file = \"/x\" }", "`env` and `file` exclude each other");
    bad::<Secret>("3", "`value` must be a string, { env = \"…\" } or { file = \"…\" }, not a number");
    bad::<Secret<u32>>("\"hunter2\"", "the secret's value does not fit here");
}

// It was looked for from the working directory, where a test finds it and a service does not.
#[test]
fn a_secrets_file_is_looked_for_beside_the_configuration_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    std::fs::write(directory.path().join("token"), "hunter2\n").unwrap();
    std::fs::write(&file, "value = { file = \"token\" }\nother = { file = \"no/such\" }").unwrap();
    #[derive(serde::Deserialize)]
    struct Both {
        value: Option<Secret>,
        other: Option<Secret>,
    }
    let mut faults = Faults::new();
    let document = Document::read(&file, &mut faults).unwrap();
    let raw = Raw::whole("secrets", &document);
    assert!(raw.decode::<Both>("secrets", &document, &mut faults).is_none());
    let wanted = format!("cannot read `{}`", directory.path().join("no/such").display());
    let said: Vec<_> = faults.errors().map(|fault| fault.message.clone()).collect();
    assert!(matches!(&said[..], [one] if one.starts_with(&wanted)), "{said:?}");

    std::fs::write(&file, "value = { file = \"token\" }").unwrap();
    let document = Document::read(&file, &mut faults).unwrap();
    let both = Raw::whole("secrets", &document).decode::<Both>("secrets", &document, &mut faults).unwrap();
    assert_eq!(both.value.unwrap().expose(), "hunter2");
    assert!(both.other.is_none());
}

#[test]
fn one_or_many_and_pairs_keep_their_order() {
    assert_eq!(read::<OneOrMany<String>>("\"a\"").unwrap().0, ["a"]);
    assert_eq!(read::<OneOrMany<String>>("[\"b\", \"a\"]").unwrap().0, ["b", "a"]);
    let pairs = read::<Pairs<String, u8>>("{ z = 1, a = 2 }").unwrap();
    assert_eq!(pairs.0, [("z".to_owned(), 1), ("a".to_owned(), 2)]);
    bad::<OneOrMany<String>>("3", "`value` must be one value or a list of them, not a number");
    bad::<Pairs<String, u8>>(
        "{ z = 300, a = \"x\" }",
        "`z` must be a whole number from 0 to 255, not 300; `a` must be a whole number from 0 to 255, not a string",
    );
}
