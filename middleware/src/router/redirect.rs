//! `redirect`: the request's own address with some parts replaced.

use axum::body::Body;
use axum::response::IntoResponse;
use http::header::{CONTENT_LENGTH, LOCATION};
use http::{HeaderValue, StatusCode};
use portcullis_config::one_form::in_one_form;
use portcullis_config::{Redirect, Scheme};

use super::{Fault, host_of, is_host};
use crate::layer::{Hop, Running};
use crate::new_path::join;
use crate::{Cause, Exchange, MatchedRoute, Next, Rejection, Request, Response};

/// The end of a chain that redirects as the file says.
///
/// The answer's `Location` is always absolute, and its path has its [one form](crate::paths), so that none
/// (`//elsewhere`, `/\elsewhere`) can lead to another host.
pub fn redirect(redirect: &Redirect) -> Result<Next, Fault> {
    let status = StatusCode::from_u16(*redirect.status).map_err(|_| Fault {
        span: redirect.status.span.clone(),
        sentence: format!("`{}` is not a status", redirect.status),
    })?;
    let path = match (&redirect.path, &redirect.prefix) {
        (Some(path), _) => Path::replaced(path),
        (None, Some(prefix)) => Path::Prefix(in_one_form(prefix.trim_end_matches('/'))),
        (None, None) => Path::Kept,
    };
    let host = redirect.host.as_ref().map(|host| host.value.clone());
    let port = redirect.port.as_deref().map(|port| port.get());
    Ok(Next::new(Redirecting { status, scheme: redirect.scheme, host, port, path }))
}

struct Redirecting {
    status: StatusCode,
    scheme: Option<Scheme>,
    host: Option<String>,
    port: Option<u16>,
    path: Path,
}

enum Path {
    Kept,
    /// Takes the place of the prefix that was matched. Without a slash at its end.
    Prefix(String),
    /// The query is kept unless this brings one, if only an empty one.
    Replaced {
        path: String,
        query: Option<String>,
        fragment: Option<String>,
    },
}

impl Path {
    fn replaced(text: &str) -> Self {
        let (text, fragment) = cut(text, '#');
        let (path, query) = cut(text, '?');
        let owned = |part: Option<&str>| part.map(str::to_owned);
        Self::Replaced { path: in_one_form(path), query: owned(query), fragment: owned(fragment) }
    }
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

impl Hop for Redirecting {
    fn run(&self, request: Request) -> Running {
        let Some(location) = self.location(&request) else {
            let refusal =
                Rejection::new(Cause::BadRequest).detail("the request names no host that could be redirected to");
            return Running::ready(refusal.into_response());
        };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.headers_mut().insert(LOCATION, location);
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
        Running::ready(response)
    }
}

impl Redirecting {
    fn location(&self, request: &Request) -> Option<HeaderValue> {
        let exchange = Exchange::of(request);
        let scheme = match self.scheme {
            Some(Scheme::Http) => "http",
            Some(Scheme::Https) => "https",
            None => exchange.scheme(),
        };
        let asked = host_of(request);
        let host = self.host.as_deref().unwrap_or(&asked);
        if host.is_empty() || !is_host(host) {
            return None;
        }
        let port = self.port.or(if self.scheme.is_some() { None } else { exchange.listener_port() });
        let port = port.filter(|port| !matches!((scheme, *port), ("http", 80) | ("https", 443)));

        let mut location = format!("{scheme}://{host}");
        if let Some(port) = port {
            location.push_str(&format!(":{port}"));
        }
        let (path, mut query, mut fragment) = (request.uri().path(), request.uri().query(), None);
        // `OPTIONS *` asks about a whole server, whose URL has no path (RFC 9112 §3.3).
        let path = if path == "*" { "" } else { path };
        match &self.path {
            Path::Kept if path.is_empty() => {}
            Path::Kept => location.push_str(&join("", path)),
            Path::Prefix(prefix) => {
                let matched = request.extensions().get::<MatchedRoute>().map_or(0, |matched| matched.prefix);
                location.push_str(&join(prefix, path.get(matched..).unwrap_or_default()));
            }
            Path::Replaced { path, query: own, fragment: mark } => {
                location.push_str(path);
                query = own.as_deref().or(query);
                fragment = mark.as_deref();
            }
        }
        for (sign, part) in [('?', query), ('#', fragment)] {
            if let Some(part) = part.filter(|part| !part.is_empty()) {
                location.push(sign);
                location.push_str(part);
            }
        }
        HeaderValue::try_from(location).ok()
    }
}

#[cfg(test)]
mod tests {
    use crate::Cause;
    use crate::router::testing::{asking, gateway};
    use crate::testing::request;

    /// It was sent to `https://a.example/*`.
    #[tokio::test]
    async fn who_asks_about_a_whole_server_is_sent_to_a_whole_server() {
        for (redirect, location) in [
            (r#"scheme = "https""#, "https://a.example"),
            (r#"scheme = "https", prefix = "/x""#, "https://a.example/x"),
            (r#"scheme = "https", path = "/y""#, "https://a.example/y"),
        ] {
            let any = r#"match = { path = { prefix = "/" } }"#;
            let app = gateway(&format!("[[route]]\n{any}\nredirect = {{ {redirect} }}"));
            let mut asked = asking("a.example", "*");
            *asked.method_mut() = http::Method::OPTIONS;
            app.send(asked).await.expect_status(302).expect_header("location", location);
        }
    }

    /// Where `target` on `host` is sent; the listener's port is 8080.
    async fn location(redirect: &str, matching: &str, scheme: &'static str, host: &str, target: &str) -> String {
        let app = gateway(&format!("[[route]]\nmatch = {matching}\nredirect = {redirect}")).scheme(scheme);
        let answer = app.send(asking(host, target)).await;
        assert!(answer.status.is_redirection(), "{answer:?}");
        answer.headers["location"].to_str().expect("text").to_owned()
    }

    #[tokio::test]
    async fn each_part_is_replaced_and_the_rest_is_kept() {
        for (redirect, matching, scheme, target, expected) in [
            (r#"{ host = "new.example" }"#, "{}", "http", "/a?b=c", "http://new.example:8080/a?b=c"),
            (r#"{ scheme = "https" }"#, "{}", "http", "/a?b", "https://old.example/a?b"),
            (r#"{ scheme = "https", port = 8443 }"#, "{}", "http", "/", "https://old.example:8443/"),
            (r#"{ scheme = "http", port = 443 }"#, "{}", "http", "/", "http://old.example:443/"),
            (r#"{ port = 443 }"#, "{}", "https", "/", "https://old.example/"),
            (r#"{ port = 80, host = "new.example" }"#, "{}", "http", "/x", "http://new.example/x"),
            (r#"{ path = "/x" }"#, "{}", "http", "/a?b=c", "http://old.example:8080/x?b=c"),
            (r#"{ path = "/x?y#z" }"#, "{}", "http", "/a?b=c", "http://old.example:8080/x?y#z"),
            (r#"{ path = "/x?" }"#, "{}", "http", "/a?b=c", "http://old.example:8080/x"),
            (
                r#"{ prefix = "/y" }"#,
                r#"{ path = { prefix = "/a" } }"#,
                "http",
                "/a/b/?c",
                "http://old.example:8080/y/b/?c",
            ),
            (r#"{ prefix = "/y/" }"#, r#"{ path = { prefix = "/a" } }"#, "http", "/a/b", "http://old.example:8080/y/b"),
            (r#"{ prefix = "/" }"#, r#"{ path = { prefix = "/a" } }"#, "http", "/a", "http://old.example:8080/"),
            (r#"{ prefix = "/y" }"#, r#"{ path = { prefix = "/" } }"#, "http", "/a", "http://old.example:8080/y/a"),
        ] {
            assert_eq!(location(redirect, matching, scheme, "OLD.example:99", target).await, expected, "{redirect}");
        }
    }

    #[tokio::test]
    async fn no_path_leads_to_another_host() {
        let prefix = r#"{ path = { prefix = "/a" } }"#;
        for target in ["/a//evil.example", "/a////evil.example"] {
            let to = location(r#"{ prefix = "/" }"#, prefix, "http", "old.example", target).await;
            assert_eq!(to, "http://old.example:8080/evil.example", "{target}");
        }
        let to = location("{ port = 81 }", "{}", "http", "old.example", "//evil.example").await;
        assert_eq!(to, "http://old.example:81/evil.example");
    }

    #[tokio::test]
    async fn a_path_of_the_file_gets_its_one_form() {
        let prefix = r#"{ path = { prefix = "/a" } }"#;
        for (redirect, expected) in
            [(r#"{ path = "/caf\u00e9/%7e?x" }"#, "/caf%C3%A9/~?x"), (r#"{ prefix = "/caf\u00e9/" }"#, "/caf%C3%A9/b")]
        {
            let to = location(redirect, prefix, "http", "old.example", "/a/b").await;
            assert_eq!(to, format!("http://old.example:8080{expected}"));
        }
    }

    #[tokio::test]
    async fn a_request_that_names_no_proper_host_is_not_redirected_to_it() {
        let app = gateway("[[route]]\nredirect = { scheme = \"https\" }");
        app.get("/").await.expect_status(400).expect_cause(Cause::BadRequest);
        app.send(asking("evil.example/x?", "/")).await.expect_status(400);
        let app = gateway("[[route]]\nredirect = { host = \"new.example\", scheme = \"https\" }");
        app.get("/").await.expect_status(302).expect_header("location", "https://new.example/");
    }

    #[tokio::test]
    async fn the_status_is_302_unless_given() {
        let app = gateway("[[route]]\nredirect = { host = \"new.example\", status = 308 }");
        app.send(request("POST", "/")).await.expect_status(308).expect_header("content-length", "0");
    }
}
