//! Text that is hardly TOML, and how its faults are drawn.

use portcullis_config::{Document, Faults, File};

fn drawn(text: &str) -> String {
    let (_, faults) = File::parse("gateway.toml", text);
    faults.render(false)
}

#[test]
fn several_syntax_errors_are_reported_at_once() {
    let said = drawn("workers =\n[listener.web]\naddress = \"0.0.0.0:80\nlimits = { headers = 1\n");
    let places: Vec<&str> = said.lines().filter(|line| line.contains("-->")).collect();
    assert_eq!(places, [" --> gateway.toml:1:10", " --> gateway.toml:3:22", " --> gateway.toml:4:23"], "{said}");
}

#[test]
fn a_key_that_is_given_twice_is_an_error() {
    let said = drawn("workers = 1\nworkers = 2\n");
    let expected = "error: duplicate key
 --> gateway.toml:2:1
  |
2 | workers = 2
  | ^^^^^^^

1 error
";
    assert_eq!(said, expected);
}

#[test]
fn after_a_syntax_error_nothing_is_guessed() {
    let said = drawn("wokers = 1\n[listener.web\n");
    assert!(!said.contains("wokers"), "{said}");
}

#[test]
fn an_empty_file_serves_nothing() {
    let expected = "error: `gateway.toml` has no listener, so nothing would be served
 |
 = help: add one: [listener.web] with address = \"0.0.0.0:8080\"

warning: `gateway.toml` has no route, so every request is answered with 404

1 error, 1 warning
";
    assert_eq!(drawn(""), expected);
}

#[test]
fn an_empty_text_has_no_line_to_show() {
    let mut faults = Faults::new();
    let document = Document::parse("gateway.toml", "", &mut faults);
    faults.error(&document, 0..3, "wrong");
    assert_eq!(faults.render(false), "error: wrong\n--> gateway.toml:1:1\n\n1 error\n");
}

#[test]
fn a_byte_order_mark_is_no_character() {
    let said = drawn("\u{feff}wokers = 1\n");
    assert!(said.contains("--> gateway.toml:1:1\n"), "{said}");
    assert!(said.contains("1 | wokers = 1\n  | ^^^^^^ "), "{said}");
}

#[test]
fn tabs_wide_characters_and_carriage_returns_keep_the_carets_in_place() {
    let said = drawn("\r\n[listener.web]\r\naddress = \"127.0.0.1:80\"\r\n\thosts = [\"世界\"]\t# 世\r\n");
    let drawing: Vec<&str> = said.lines().skip(3).take(4).collect();
    let expected = [" --> gateway.toml:4:11", "  |", "4 |     hosts = [\"世界\"]    # 世", "  |              ^^^^^^"];
    assert_eq!(drawing, expected, "{said}");
}

#[test]
fn control_characters_are_drawn_and_not_obeyed() {
    let said = drawn("[listener.web]\naddress = \"\\u001b[2J\"\n");
    assert!(said.contains(r"`\u{1b}[2J` is not an address"), "{said}");
    let said = drawn("a\u{1b}[2J\u{7}\u{9b}b = 1");
    assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
}

#[test]
fn faults_go_from_top_to_bottom_and_what_has_no_place_comes_first() {
    let mut faults = Faults::new();
    let document = Document::parse("gateway.toml", "a = 1\nb = 2\n", &mut faults);
    let other = Document::parse("services.toml", "c = 3\n", &mut faults);
    faults.error(&document, 6..7, "second");
    faults.warning(&other, 0..1, "third");
    faults.warning(&document, 0..1, "first");
    faults.error(&document, 6..7, "second");
    faults.error_without_place("cannot read `x.toml`: no such file");
    let expected = "error: cannot read `x.toml`: no such file

warning: first
 --> gateway.toml:1:1
  |
1 | a = 1
  | ^

error: second
 --> gateway.toml:2:1
  |
2 | b = 2
  | ^

warning: third
 --> services.toml:1:1
  |
1 | c = 3
  | ^

2 errors, 2 warnings
";
    assert_eq!(faults.render(false), expected);
}

#[test]
fn colour_changes_nothing_but_the_colour() {
    let (_, faults) = File::parse("gateway.toml", "wokers = 1\n");
    let coloured = faults.render(true);
    assert!(coloured.contains("\u{1b}["));
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').expect("only colours are escaped").1;
    }
    plain.push_str(rest);
    assert_eq!(plain, faults.render(false));
}

#[test]
fn a_hundred_faults_are_enough_to_begin_with() {
    let text: String = (0..150).map(|n| format!("[service.s{n}]\nnmae = \"x\"\n")).collect();
    let said = drawn(&text);
    assert_eq!(said.matches("-->").count(), 98);
    assert!(said.contains("… and 52 more"), "{said}");
}

#[test]
fn faults_are_data_for_the_admin_api() {
    let (_, faults) =
        File::parse("gateway.toml", "[listener.web]\naddress = \"1.2.3.4:80\"\nhots = []\n[[route]]\nrespond = {}\n");
    let json = serde_json::to_value(&faults).unwrap();
    let expected = serde_json::json!([{
        "level": "error",
        "message": "unknown key `hots`; did you mean `hosts`?",
        "file": "gateway.toml",
        "line": 3,
        "column": 1,
        "label": "listener `web` takes: address, chain, forwarding, hosts, limits, paths, proxy_protocol, timeouts, tls",
        "help": null,
    }]);
    assert_eq!(json, expected);
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let (file, faults) = File::read("/no/such/gateway.toml");
    assert!(file.is_none());
    let expected = "error: cannot read `/no/such/gateway.toml`: No such file or directory (os error 2)\n\n1 error\n";
    assert_eq!(faults.render(false), expected);
}

#[test]
fn a_file_that_is_no_text_is_a_fault_with_its_place() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"workers = 1\nx = \"\xff\"\n").unwrap();
    let (_, faults) = File::read(file.path());
    let fault = faults.errors().next().unwrap();
    assert_eq!(fault.message, "this is not UTF-8, and TOML is");
    assert_eq!(fault.place().unwrap().to_string(), "2:6");
}

#[test]
fn places_that_are_far_apart_are_drawn_apart() {
    let text = format!("first = 1\n{}second = 2\n", "# nothing\n".repeat(200));
    let mut faults = Faults::new();
    let document = Document::parse("gateway.toml", &text, &mut faults);
    let second = text.find("second").unwrap();
    faults.error(&document, second..second + 6, "twice").label("here").also(0..5, "and here");
    let expected = "error: twice
   --> gateway.toml:202:1
    |
202 | second = 2
    | ^^^^^^ here
    |
   ::: gateway.toml:1:1
    |
  1 | first = 1
    | ----- and here

1 error
";
    assert_eq!(faults.render(false), expected);
}

#[test]
fn ten_thousand_routes_are_read_in_no_time() {
    let mut text = String::from("[listener.web]\naddress = \"127.0.0.1:80\"\n[registry.default]\ntype = \"memory\"\n");
    for n in 0..10_000 {
        text.push_str(&format!(
            "[[route]]\nname = \"r{n}\"\nmatch = {{ path = \"/a/{n}/{{id}}\" }}\nservice = \"s{n}\"\n"
        ));
    }
    let start = std::time::Instant::now();
    let (file, faults) = File::parse("gateway.toml", &text);
    assert!(faults.is_empty(), "{}", faults.render(false));
    assert_eq!(file.unwrap().routes.len(), 10_000);
    // Far more than it takes even without optimisation, and far less than anything quadratic.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn brackets_without_end_are_a_fault_and_not_a_crash() {
    for bracket in ["[", "{a=", "[{a="] {
        let said = drawn(&format!("a = {}", bracket.repeat(100_000)));
        assert!(said.contains("error: "), "{said}");
    }
    let said = drawn(&format!("[{}]", "a.".repeat(50_000)));
    assert!(said.contains("error: "), "{said}");
    let said = drawn(&format!("{}a = 1", "a.".repeat(50_000)));
    assert!(said.contains("error: "), "{said}");
}
