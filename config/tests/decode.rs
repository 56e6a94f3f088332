//! Tables of plugins that this crate has never heard of: read with their own types, at their own places.

use std::collections::HashMap;

use portcullis_config::units::{Duration, Network};
use portcullis_config::{File, Kind, Raw, Spanned, Step, open_tables, unknown_names, unknown_type};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Limiter {
    rate: u32,
    per: Duration,
    #[serde(default)]
    exempt: Vec<Spanned<Network>>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    store: Option<Store>,
    #[serde(default)]
    labels: HashMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Enforce,
    Report,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Store {
    address: String,
    pool: u16,
}

const HEAD: &str = "[listener.l]\naddress = \"127.0.0.1:80\"\n[[route]]\nchain = [\"limit\"]\nrespond = {}\n";

/// The faults of a `[middleware.limit]` with these lines, as a terminal shows them.
fn faults_of(lines: &str) -> String {
    let (raw, file) = limiter(lines);
    let mut faults = portcullis_config::Faults::new();
    let settings: Option<Limiter> = raw.decode("middleware `limit` (limiter)", &file.document, &mut faults);
    assert_eq!(settings.is_none(), faults.has_errors());
    faults.render(false)
}

fn limiter(lines: &str) -> (Raw, File) {
    let text = format!("{HEAD}[middleware.limit]\ntype = \"limiter\"\n{lines}");
    let (file, faults) = File::parse("gateway.toml", &text);
    let file = file.unwrap_or_else(|| panic!("{}", faults.render(false)));
    (file.middlewares[0].value.clone(), file)
}

#[test]
fn a_good_table_is_read_and_spans_are_kept() {
    let (raw, file) = limiter("rate = 3\nper = \"1s\"\nexempt = [\"10.0.0.0/8\", \"::1\"]\nmode = \"report\"\n");
    let mut faults = portcullis_config::Faults::new();
    let settings: Limiter = raw.decode("limit", &file.document, &mut faults).unwrap();
    assert_eq!(settings.rate, 3);
    assert_eq!(settings.mode, Mode::Report);
    assert_eq!(&file.document.text[settings.exempt[1].span.clone()], "\"::1\"");
    assert_eq!(file.document.place(&settings.exempt[1].span).to_string(), "10:25");
    assert_eq!(raw.place.line, 6);
}

#[test]
fn a_build_error_finds_the_value_it_is_about() {
    let (raw, file) = limiter("rate = 3\nstore = { address = \"a\", pool = 1 }\nexempt = [\"10.0.0.0/8\", \"::1\"]\n");
    let text = |path: &[Step]| &file.document.text[raw.span_of(path)];
    assert_eq!(text(&["rate".into()]), "3");
    assert_eq!(text(&["exempt".into(), 1.into()]), "\"::1\"");
    assert_eq!(text(&["store".into(), "pool".into()]), "1");
    // What is not there is looked for as far as it goes.
    assert_eq!(text(&["exempt".into(), 7.into()]), "[\"10.0.0.0/8\", \"::1\"]");
    assert_eq!(text(&["nothing".into()]), "[middleware.limit]");
}

#[test]
fn all_faults_of_a_table_are_found_in_one_run() {
    let said = faults_of(
        "rat = 3\nper = 10\nexempt = [\"10.0.0.1/8\", \"::1\", 7, \"x\"]\nmode = \"of\"\nstore = { adress = \"a\", pool = 70000 }\nlabels = { a = 1, b = \"c\", d = [] }\n",
    );
    let expected = r#"error: unknown key `rat`; did you mean `rate`?
 --> gateway.toml:8:1
  |
8 | rat = 3
  | ^^^ middleware `limit` (limiter) takes: exempt, labels, mode, per, rate, store

error: `per` must be a duration with its unit, for example "10s", not a number
 --> gateway.toml:9:7
  |
9 | per = 10
  |       ^^

error: `10.0.0.1/8` has host bits set; the network is `10.0.0.0/8`
  --> gateway.toml:10:11
   |
10 | exempt = ["10.0.0.1/8", "::1", 7, "x"]
   |           ^^^^^^^^^^^^

error: an item of `exempt` must be a network such as "10.0.0.0/8", not a number
  --> gateway.toml:10:32
   |
10 | exempt = ["10.0.0.1/8", "::1", 7, "x"]
   |                                ^

error: `x` is neither an address nor a network such as "10.0.0.0/8"
  --> gateway.toml:10:35
   |
10 | exempt = ["10.0.0.1/8", "::1", 7, "x"]
   |                                   ^^^

error: `mode` cannot be `of`
  --> gateway.toml:11:8
   |
11 | mode = "of"
   |        ^^^^ one of: enforce, report

error: unknown key `adress`; did you mean `address`?
  --> gateway.toml:12:11
   |
12 | store = { adress = "a", pool = 70000 }
   |           ^^^^^^ `store` of middleware `limit` (limiter) takes: address, pool

error: `pool` must be a whole number from 0 to 65535, not 70000
  --> gateway.toml:12:32
   |
12 | store = { adress = "a", pool = 70000 }
   |                                ^^^^^

error: `a` must be a string, not a number
  --> gateway.toml:13:16
   |
13 | labels = { a = 1, b = "c", d = [] }
   |                ^

error: `d` must be a string, not a list
  --> gateway.toml:13:32
   |
13 | labels = { a = 1, b = "c", d = [] }
   |                                ^^

10 errors
"#;
    assert_eq!(said, expected);
}

#[test]
fn a_key_that_is_wrong_is_not_also_missing() {
    let said = faults_of("rate = \"3\"\nper = \"1s\"\n");
    assert!(said.contains("`rate` must be a whole number from 0 to 4294967295, not a string"), "{said}");
    assert!(said.ends_with("1 error\n"), "{said}");
}

#[test]
fn a_key_that_is_missing_is_said_to_be() {
    let said = faults_of("per = \"1s\"\n");
    let expected = "error: `rate` is missing
 --> gateway.toml:6:1
  |
6 | [middleware.limit]
  | ^^^^^^^^^^^^^^^^^^ middleware `limit` (limiter) needs `rate`

1 error
";
    assert_eq!(said, expected);
}

#[test]
fn tables_that_say_the_same_are_the_same_across_a_reload() {
    let (one, _) = limiter("rate = 3\nper = \"1s\" # a comment\nstore = { address = \"a\", pool = 1 }\n");
    let (other, _) = limiter("\n\nper = '1s'\nrate = 3\n[middleware.limit.store]\npool = 1\naddress = \"a\"\n");
    let (different, _) = limiter("rate = 3\nper = \"1s\"\nstore = { address = \"a\", pool = 2 }\n");
    assert_eq!(one.canonical(), other.canonical());
    assert_ne!(one.canonical(), different.canonical());
    assert_ne!(limiter("rate = 3").0.canonical(), limiter("rate = \"3\"").0.canonical());
}

#[test]
fn open_tables_can_be_read_although_the_file_has_faults() {
    let text = format!(
        "{HEAD}wrong = 1\n[middleware.limit]\ntype = \"limiter\"\nrat = 1\n[registry.default]\ntype = \"x\"\n\
         [[route]]\nchain = [{{ type = \"a\" }}, \"limit\", {{ typ = 1 }}]\n[[route.split]]\nchain = [{{ type = \"b\" }}]\n"
    );
    let (file, mut faults) = File::parse("gateway.toml", &text);
    assert!(file.is_none());
    let document = faults.errors().find_map(|fault| fault.document.clone()).unwrap();
    let tables = open_tables(&document);
    let found: Vec<_> = tables.iter().map(|it| (it.kind, it.name.as_deref(), it.raw.type_name.as_str())).collect();
    let (registry, middleware) = (Kind::Registry, Kind::Middleware);
    assert_eq!(
        found,
        [
            (registry, Some("default"), "x"),
            (middleware, Some("limit"), "limiter"),
            (middleware, None, "a"),
            (middleware, None, "b")
        ]
    );
    unknown_type(Kind::Registry, &tables[0].raw.type_name, &["static", "memory"], &document, &mut faults);
    assert!(faults.render(false).contains("unknown registry type `x`"));
}

#[test]
fn a_name_that_no_chain_can_use_is_explained() {
    let text = format!("{HEAD}wrong = 1\n[middleware.limit]\n[[route]]\nchain = [\"limt\", \"router\", 3]\n");
    let mut faults = portcullis_config::Faults::new();
    let document = portcullis_config::Document::parse("gateway.toml", &text, &mut faults);
    unknown_names(&document, &["router", "request_id"], &mut faults);
    let expected = r#"error: unknown middleware `limt`; did you mean `limit`?
 --> gateway.toml:9:10
  |
9 | chain = ["limt", "router", 3]
  |          ^^^^^^ declared: limit
  |
  = help: a type may stand here too, if it needs no settings: router, request_id

1 error
"#;
    assert_eq!(faults.render(false), expected);
}

#[test]
fn a_chain_that_is_left_out_stands_where_its_listener_does() {
    let text = "\n\n[listener.web]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = {}\n";
    let (file, _) = File::parse("gateway.toml", text);
    let file = file.expect("a good file");
    let place = file.document.place(&file.listeners[0].value.chain[0].span());
    assert_eq!(place.to_string(), "3:11");
}
