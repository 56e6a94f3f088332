use portcullis_config::units::HostPattern;
use portcullis_config::{Faults, File, Level};

use super::*;
use crate::router::testing::{REGISTRY, claims};

/// What `check` says of a file, as the user would see it, each with the line it points at.
fn said(toml: &str) -> Vec<String> {
    let (file, faults) = File::parse("gateway.toml", &format!("{toml}\n{REGISTRY}"));
    assert!(!faults.has_errors(), "{}", faults.render(false));
    let file = file.expect("a file without errors");
    let names: Vec<_> = file.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let hosts: Vec<Vec<HostPattern>> =
        file.listeners.iter().map(|it| it.value.hosts.iter().map(|host| host.value.clone()).collect()).collect();
    let claims = claims(&file.routes, &names);
    let mut faults = Faults::new();
    for finding in check(&claims, &hosts) {
        finding.report(&file.document, &mut faults);
    }
    let level = |level| if level == Level::Error { "error" } else { "warning" };
    let all = faults.errors().chain(faults.warnings());
    all.map(|fault| format!("{}: {}", level(fault.level), fault.message)).collect()
}

fn said_of(routes: &str) -> Vec<String> {
    said(&format!("[listener.web]\naddress = \"127.0.0.1:0\"\n{routes}"))
}

#[test]
fn two_routes_with_the_same_match_are_an_error_that_names_both() {
    let routes = r#"
        [[route]]
        name = "a"
        match = { hosts = ["x.example", "y.example"], path = "/{id}", headers = { a = "1", b = "2" } }
        service = "s"
        [[route]]
        name = "b"
        match = { hosts = ["y.example", "z.example"], path = "/{key}", headers = { b = "2", a = "1" } }
        service = "t"
    "#;
    assert_eq!(said_of(routes), ["error: route `b` has the same match as route `a` on host `y.example`"]);
    assert!(said_of(&format!("{routes}\nallow_shadowed = true")).is_empty());
    assert!(said_of(&format!("{routes}\npriority = 1")).is_empty(), "who gives priorities has decided");
}

#[test]
fn a_route_that_never_wins_is_an_error() {
    for (first, second) in [
        (r#"{ path = { prefix = "/a" } }"#, r#"{ path = "/a/{*rest}" }"#),
        (r#"{ path = "/a/{*rest}" }"#, r#"{ path = "/a/{id}" }"#),
        (r#"{ path = "/a/{id}" }"#, r#"{ path = "/a/v{id}" }"#),
        (r#"{ path = "/a/v{id}" }"#, r#"{ path = "/a/v1{id}.json" }"#),
        (r#"{ path = { prefix = "/" }, methods = ["GET"] }"#, r#"{ path = { prefix = "/" }, methods = ["HEAD"] }"#),
        (r#"{ clients = ["10.0.0.0/8"] }"#, r#"{ clients = ["10.1.0.0/16"] }"#),
        (r#"{ headers = { a = { present = true } } }"#, r#"{ headers = { a = "1" } }"#),
        (r#"{ query = { a = { regex = "[0-9]" } } }"#, r#"{ query = { a = "1" } }"#),
    ] {
        let routes = format!(
            "[[route]]\nname = \"a\"\nmatch = {first}\nservice = \"s\"\n[[route]]\nname = \"b\"\nmatch = {second}\nservice = \"t\""
        );
        assert_eq!(said_of(&routes), ["error: route `b` never wins: route `a` takes its requests"], "{first} {second}");
        let swapped = format!(
            "[[route]]\nname = \"a\"\nmatch = {second}\nservice = \"s\"\n[[route]]\nname = \"b\"\nmatch = {first}\nservice = \"t\""
        );
        assert!(said_of(&swapped).is_empty(), "{second} {first}");
    }
}

#[test]
fn a_priority_can_shadow_an_exact_path() {
    let routes = |path: &str| {
        format!(
            r#"
            [[route]]
            name = "exact"
            match = {{ path = "/a/b7" }}
            service = "s"
            [[route]]
            name = "all"
            priority = 1
            match = {{ path = {path} }}
            service = "t"
            "#
        )
    };
    let error = ["error: route `exact` never wins: route `all` takes its requests"];
    for path in [r#"{ prefix = "/a" }"#, r#"{ regex = "/a/b[0-9]" }"#, r#""/a/{id}""#, r#""/a/b{id}""#] {
        assert_eq!(said_of(&routes(path)), error, "{path}");
    }
    for path in [r#"{ prefix = "/a/b" }"#, r#"{ regex = "/a/b" }"#, r#""/a/{id}/""#, r#""/a/b7{id}""#] {
        assert!(said_of(&routes(path)).is_empty(), "{path}");
    }
}

#[test]
fn routes_that_can_be_told_apart_are_left_alone() {
    let routes = r#"
        [[route]]
        match = { path = "/a/{id}", methods = ["GET"] }
        service = "s"
        [[route]]
        match = { path = "/a/{id}", methods = ["POST"] }
        service = "s"
        [[route]]
        match = { path = "/a/{id}", headers = { x = "1" } }
        service = "s"
        [[route]]
        match = { path = "/a/{id}" }
        service = "s"
        [[route]]
        match = { hosts = ["*.example.com"], path = "/a/{id}" }
        service = "s"
        [[route]]
        match = { path = { prefix = "/a" } }
        service = "s"
        [[route]]
        match = [{ path = "/a/{id}" }, { path = "/b" }]
        service = "s"
        allow_shadowed = true
    "#;
    assert_eq!(said_of(routes), [""; 0]);
}

#[test]
fn listeners_keep_routes_apart_and_bring_them_together() {
    let file = |first: &str, second: &str| {
        format!(
            r#"
            [listener.web]
            address = "127.0.0.1:1"
            hosts = ["a.example"]
            [listener.internal]
            address = "127.0.0.1:2"
            [[route]]
            name = "a"
            listeners = {first}
            match = {{ path = "/x" }}
            service = "s"
            [[route]]
            name = "b"
            listeners = {second}
            match = {{ path = "/x" }}
            service = "s"
            "#
        )
    };
    assert!(said(&file(r#"["web"]"#, r#"["internal"]"#)).is_empty());
    let error = ["error: route `b` has the same match as route `a`"];
    assert_eq!(said(&file(r#"["web", "internal"]"#, r#"["internal"]"#)), error);
    assert_eq!(said(&file("[]", "[]")), error);
}

#[test]
fn a_route_for_a_host_that_no_listener_takes_never_wins() {
    let toml = |host: &str| {
        format!(
            "[listener.web]\naddress = \"127.0.0.1:1\"\nhosts = [\"*.a.example\"]\n\
             [[route]]\nname = \"r\"\nmatch = {{ hosts = [\"{host}\"] }}\nservice = \"s\"\n"
        )
    };
    assert_eq!(
        said(&toml("b.example")),
        ["error: route `r` never wins: no listener of it takes requests for its hosts"]
    );
    assert!(said(&toml("x.a.example")).is_empty());
    assert!(said(&toml("*.example")).is_empty());
}

/// `admin` is guarded by `office`, and `rest` is not.
fn guarded(admin: &str, rest: &str) -> Vec<String> {
    said_of(&format!(
        "[middleware.office]\ntype = \"ip_whitelist\"\n\
         [[route]]\nname = \"admin\"\nchain = [\"office\"]\nservice = \"s\"\nmatch = {admin}\n\
         [[route]]\nname = \"rest\"\n{rest}\n"
    ))
}

#[test]
fn a_request_that_slips_past_a_guard_is_a_warning_with_that_request() {
    let everything = "match = { path = { prefix = \"/\" } }\nservice = \"s\"";
    for (admin, rest, request) in [
        (r#"{ path = "/admin" }"#, everything, "GET /admin/"),
        (r#"{ path = "/admin/" }"#, everything, "GET /admin"),
        (r#"{ path = "/admin/{*rest}" }"#, everything, "GET /admin/"),
        (r#"{ path = { prefix = "/admin" }, methods = ["POST"] }"#, everything, "GET /admin"),
        (r#"{ path = { prefix = "/admin" }, headers = { x = "1" } }"#, everything, "GET /admin"),
        (r#"{ path = { regex = "/admin/[0-9]+" } }"#, everything, "GET /admin/0/"),
        (r#"{ path = { regex = "/admin(/.*)?" }, methods = ["POST"] }"#, everything, "GET /admin"),
        (
            r#"{ hosts = ["a.example"], path = { prefix = "/admin" } }"#,
            everything,
            "GET http://elsewhere.invalid/admin",
        ),
        (
            r#"{ path = { prefix = "/admin" } }"#,
            "match = { path = \"/{service}/{*rest}\" }\nservice = \"{service}\"",
            "GET /s/x",
        ),
    ] {
        let expected = format!("warning: `{request}` slips past `office`, which guards `s` on route `admin`");
        assert_eq!(guarded(admin, rest), [expected], "{admin}");
    }
}

#[test]
fn what_cannot_slip_is_no_warning() {
    let everything = "match = { path = { prefix = \"/\" } }\n";
    let admin = r#"{ path = { prefix = "/admin" } }"#;
    assert!(guarded(admin, &format!("{everything}service = \"s\"")).is_empty(), "a prefix leaves nothing beside it");
    let regex = r#"{ path = { regex = "/admin(/.*)?" } }"#;
    assert!(guarded(regex, &format!("{everything}service = \"s\"")).is_empty(), "nor does this expression");
    let exact = r#"{ path = "/admin" }"#;
    assert!(guarded(exact, &format!("{everything}service = \"t\"")).is_empty(), "another service");
    assert!(guarded(exact, &format!("{everything}service = \"s\"\nchain = [\"office\"]")).is_empty(), "the same guard");
    let get = "match = { path = \"/login\", methods = [\"GET\"] }\nservice = \"s\"";
    assert!(
        guarded(r#"{ path = "/login", methods = ["POST"] }"#, get).is_empty(),
        "a sibling with the same path is meant"
    );
}

/// `admin` is guarded by `office`, and both routes rewrite the path as this says.
fn rewritten(admin: (&str, Option<&str>), rest: (&str, Option<&str>)) -> Vec<String> {
    let toml = format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\n[middleware.office]\ntype = \"ip_whitelist\"\n{REGISTRY}\n\
         [[route]]\nname = \"admin\"\nchain = [\"office\"]\nservice = \"s\"\nmatch = {}\n\
         [[route]]\nname = \"rest\"\nservice = \"s\"\nmatch = {}\n",
        admin.0, rest.0
    );
    let (file, faults) = File::parse("gateway.toml", &toml);
    assert!(!faults.has_errors(), "{}", faults.render(false));
    let file = file.expect("a file without errors");
    let new_path = |text: &str| match text.strip_prefix("prefix ") {
        Some(prefix) => NewPath::prefix(prefix).expect(text),
        None => NewPath::whole(text).expect(text),
    };
    let new_paths = [admin.1.map(new_path), rest.1.map(new_path)];
    let mut claims = claims(&file.routes, &["web"]);
    for (claim, new_path) in claims.iter_mut().zip(&new_paths) {
        claim.services[0].rewrites.extend(new_path);
    }
    let findings = check(&claims, &[Vec::new()]);
    findings
        .into_iter()
        .map(|finding| format!("{}; {}", finding.sentence, finding.other.expect("a sibling").1))
        .collect()
}

// `/pub/admin` became `/admin` on the way to the service, and `check` saw two paths that have nothing in common.
#[test]
fn a_rewrite_that_leads_to_what_a_sibling_guards_is_a_warning() {
    let admin = (r#"{ path = { prefix = "/admin" } }"#, None);
    for (admin, rest, request, arrived) in [
        (admin, (r#"{ path = { prefix = "/pub" } }"#, Some("prefix /")), "GET /pub/admin", " as `/admin`"),
        (admin, (r#"{ path = "/pub/{*rest}" }"#, Some("/{rest}")), "GET /pub/admin", " as `/admin`"),
        (admin, (r#"{ path = { regex = "/pub/(?<page>[a-z]+)" } }"#, Some("/admin")), "GET /pub/a", " as `/admin`"),
        (admin, (r#"{ hosts = ["b.example"] }"#, Some("/admin")), "GET http://b.example/", " as `/admin`"),
        (admin, (r#"{ path = "/x", methods = ["POST"] }"#, Some("/admin")), "POST /x", " as `/admin`"),
        ((admin.0, Some("prefix /")), (r#"{ path = { prefix = "/" } }"#, None), "GET /", ""),
        (
            (admin.0, Some("prefix /v2")),
            (r#"{ path = { prefix = "/pub" } }"#, Some("prefix /v2")),
            "GET /pub",
            " as `/v2`",
        ),
    ] {
        let expected = format!(
            "`{request}` slips past `office`, which guards `s` on route `admin`; \
             route `rest` takes it, and sends it to `s`{arrived} without `office`"
        );
        assert_eq!(rewritten(admin, rest), [expected], "{admin:?} {rest:?}");
    }
}

#[test]
fn a_rewrite_that_leads_elsewhere_is_no_warning() {
    let admin = (r#"{ path = { prefix = "/admin" } }"#, None);
    for (admin, rest) in [
        (admin, (r#"{ path = { prefix = "/pub" } }"#, Some("prefix /v2"))),
        (admin, (r#"{ path = { prefix = "/pub" } }"#, Some("/home"))),
        (admin, (r#"{ path = "/pub/{id}" }"#, Some("/v2/{id}"))),
        ((admin.0, Some("prefix /v2")), (r#"{ path = { prefix = "/pub" } }"#, None)),
    ] {
        assert_eq!(rewritten(admin, rest), [""; 0], "{admin:?} {rest:?}");
    }
}
