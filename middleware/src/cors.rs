//! Lets browsers read answers from pages of other origins (CORS).
//!
//! ```toml
//! [middleware.pages]
//! type        = "cors"
//! origins     = ["https://app.example.com", "https://*.example.org"]   # or "*"
//! methods     = ["GET", "POST", "PUT"]            # "*" for any; default GET, HEAD and POST
//! headers     = ["authorization", "content-type"] # what a page may send; "*" for any
//! expose      = ["x-request-id"]                  # what a page may read
//! credentials = true                              # cookies and the like
//! max_age     = "10m"                             # how long browsers keep the answer to a preflight
//! ```
//!
//! A preflight (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) is answered here and goes no further. Any
//! other request goes on, and its answer gets the headers by which the browser decides. CORS refuses nobody: it is the
//! browser that keeps a page from reading what it may not. Nothing is added to the request.
//!
//! With `credentials`, browsers do not take `*` for an answer. `methods` and `headers` then answer what was asked for,
//! and `origins` the page's own origin, whichever it is: every page on the web may act as the user, hence a warning.
//!
//! A route that lists `methods` must list `OPTIONS` too, or no preflight gets here; or put this into the listener's chain.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderValue, Method as HttpMethod};
use portcullis_config::units::Method;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

use crate::prelude::*;

/// Lets browsers read answers from pages of other origins.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins whose pages may read answers: `https://app.example.com`, `https://*.example.org`, or `*` for any.
    origins: Vec<String>,
    /// Methods that a page may use; `*` for any.
    #[serde(default = "default_methods")]
    methods: Vec<Method>,
    /// Headers that a page may send; `*` for any.
    #[serde(default)]
    headers: Vec<HeaderName>,
    /// Headers of the answer that a page may read; `*` for any.
    #[serde(default)]
    expose: Vec<HeaderName>,
    /// Whether a page may send cookies and other credentials of the user.
    #[serde(default)]
    credentials: bool,
    /// How long a browser may keep the answer to a preflight.
    max_age: Option<Duration>,
}

fn default_methods() -> Vec<Method> {
    ["GET", "HEAD", "POST"].map(|method| method.parse().expect("it is a method")).to_vec()
}

impl Plugin for Cors {
    const NAME: &'static str = "cors";
    const EXAMPLE: &'static str = r#"origins = ["https://app.example.com", "https://*.example.org"]
methods = ["GET", "POST"]
headers = ["authorization"]"#;

    fn build(self, context: &Context) -> Result<RouteLayer, BuildError> {
        if self.origins.is_empty() {
            return Err(BuildError::at("origins", "is empty, so no page could read anything; `*` is any origin"));
        }
        if self.credentials && self.expose.iter().any(|name| name.as_str() == "*") {
            return Err(BuildError::at(
                "expose",
                "has `*`, which browsers do not understand with `credentials`; list the headers",
            ));
        }
        let mut layer = CorsLayer::new()
            .allow_origin(self.allow_origin(context)?)
            .allow_methods(self.allow_methods())
            .allow_headers(self.allow_headers())
            .allow_credentials(self.credentials);
        if self.expose.iter().any(|name| name.as_str() == "*") {
            layer = layer.expose_headers(ExposeHeaders::any());
        } else if !self.expose.is_empty() {
            layer = layer.expose_headers(ExposeHeaders::list(self.expose.into_iter().map(Into::into)));
        }
        if let Some(age) = self.max_age {
            layer = layer.max_age(age.get());
        }
        // The layer answers every `OPTIONS` itself; one that is no preflight is the service's.
        Ok(RouteLayer::tower(layer).only_if(|request| request.method() != HttpMethod::OPTIONS || is_preflight(request)))
    }
}

fn is_preflight(request: &Request) -> bool {
    let headers = request.headers();
    headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

impl Cors {
    fn allow_origin(&self, context: &Context) -> Result<AllowOrigin, BuildError> {
        let mut patterns = Vec::new();
        let mut any = false;
        let mut faults = BuildError::default();
        for (index, origin) in self.origins.iter().enumerate() {
            if origin == "*" {
                any = true;
                if self.credentials {
                    context.warn(
                        ("origins", index),
                        "has `*` together with `credentials`: every page may act as the user",
                    );
                }
                continue;
            }
            match Pattern::parse(origin) {
                Ok(pattern) => patterns.push(pattern),
                Err(fault) => faults.add(("origins", index), fault),
            }
        }
        faults.into_result()?;
        Ok(match (any, self.credentials) {
            (true, false) => AllowOrigin::any(),
            // The layer panics at `*` with credentials, as browsers would not take it.
            (true, true) => AllowOrigin::mirror_request(),
            (false, _) => {
                AllowOrigin::predicate(move |origin, _| patterns.iter().any(|pattern| pattern.matches(origin)))
            }
        })
    }

    fn allow_methods(&self) -> AllowMethods {
        match (self.methods.iter().any(|method| method.as_str() == "*"), self.credentials) {
            (true, false) => AllowMethods::any(),
            (true, true) => AllowMethods::mirror_request(),
            (false, _) => AllowMethods::list(self.methods.iter().map(|method| (**method).clone())),
        }
    }

    fn allow_headers(&self) -> AllowHeaders {
        match (self.headers.iter().any(|name| name.as_str() == "*"), self.credentials) {
            (true, false) => AllowHeaders::any(),
            (true, true) => AllowHeaders::mirror_request(),
            (false, _) => AllowHeaders::list(self.headers.iter().map(|name| (**name).clone())),
        }
    }
}

/// One origin, or all that end alike.
#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    /// What stands before the `*` and after it: `https://` and `.example.org:8443`.
    Below(String, String),
}

impl Pattern {
    fn parse(origin: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("has `{origin}`, {why}"));
        if origin == "null" {
            return wrong("which any sandboxed page can claim to be; list real origins");
        }
        let Some((scheme, authority)) = origin.split_once("://") else {
            return wrong("which lacks its scheme; write for example `https://app.example.com`");
        };
        if authority.contains(['/', '?', '#', '@']) {
            return wrong("but an origin is a scheme, a host and perhaps a port, and nothing else");
        }
        // Browsers leave a scheme's own port out, so with it nothing would ever match.
        let own_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        if !own_port.is_empty() && authority.ends_with(own_port) {
            return wrong("whose port browsers leave out; so must this");
        }
        if origin.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii_graphic()) || authority.is_empty() {
            return wrong("which no browser sends: origins are lower-case ASCII (xn--… for other letters)");
        }
        match authority.strip_prefix("*.") {
            Some(parent) if parent.is_empty() || parent.contains('*') => {
                wrong("where `*` must stand for whole labels before a domain")
            }
            Some(parent) => Ok(Pattern::Below(format!("{scheme}://"), format!(".{parent}"))),
            None if authority.contains('*') => {
                wrong("where `*` can only be the whole first label: `https://*.example.com`")
            }
            None => Ok(Pattern::Exact(origin.to_owned())),
        }
    }

    fn matches(&self, origin: &HeaderValue) -> bool {
        let origin = origin.as_bytes();
        match self {
            Pattern::Exact(exact) => origin == exact.as_bytes(),
            Pattern::Below(scheme, parent) => origin
                .strip_prefix(scheme.as_bytes())
                .and_then(|host| host.strip_suffix(parent.as_bytes()))
                .is_some_and(|labels| {
                    let of_a_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
                    !labels.is_empty() && !labels.starts_with(b".") && labels.iter().all(of_a_name)
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Answer, Chain, build, chain, request};

    #[test]
    fn it_keeps_the_promises_of_every_plugin() {
        testing::conformance::<Cors>();
    }

    async fn ask(app: &Chain, method: &str, lines: &[(&'static str, &str)]) -> Answer {
        let mut request = request(method, "/");
        for (name, value) in lines {
            request.headers_mut().insert(*name, value.parse().expect("a value"));
        }
        app.send(request).await
    }

    async fn preflight(app: &Chain, origin: &str) -> Answer {
        let lines = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a, x-b"),
        ];
        ask(app, "OPTIONS", &lines).await
    }

    async fn is_allowed(app: &Chain, origin: &str) -> bool {
        let answer = ask(app, "GET", &[("origin", origin)]).await;
        answer.headers.get("access-control-allow-origin").is_some_and(|allowed| allowed == origin)
    }

    #[tokio::test]
    async fn listed_origins_and_names_below_a_domain_may_read_answers() {
        let app = chain::<Cors>(
            r#"origins = ["https://app.example.com", "https://*.example.org", "http://*.dev.example:3000"]"#,
        );
        for origin in
            ["https://app.example.com", "https://a.example.org", "https://a.b.example.org", "http://x.dev.example:3000"]
        {
            assert!(is_allowed(&app, origin).await, "{origin}");
        }
        for origin in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.example",
            "https://example.org",
            "https://.example.org",
            "https://evilexample.org",
            "https://evil.example/.example.org",
            "https://evil.example:1.example.org",
            "https://user@a.example.org",
            "http://x.dev.example",
            "null",
            "",
        ] {
            assert!(!is_allowed(&app, origin).await, "{origin}");
        }
    }

    #[tokio::test]
    async fn a_preflight_is_answered_here() {
        let app = chain::<Cors>(
            r#"origins = ["https://app.example.com"]
               methods = ["GET", "PUT"]
               headers = ["Authorization"]
               max_age = "10m""#,
        );
        let answer = preflight(&app, "https://app.example.com").await.expect_status(200);
        let answer = answer.expect_header("access-control-allow-origin", "https://app.example.com");
        let answer = answer.expect_header("access-control-allow-methods", "GET,PUT");
        let answer = answer.expect_header("access-control-allow-headers", "authorization");
        answer.expect_header("access-control-max-age", "600").expect_header("vary", "origin");
        preflight(&app, "https://evil.example").await.expect_no_header("access-control-allow-origin");
        assert!(app.seen().is_empty());
    }

    #[tokio::test]
    async fn options_that_is_no_preflight_goes_to_the_service() {
        let app = chain::<Cors>(r#"origins = ["*"]"#);
        ask(&app, "OPTIONS", &[]).await.expect_status(200);
        ask(&app, "OPTIONS", &[("origin", "https://a.example")]).await.expect_status(200);
        assert_eq!(app.seen().len(), 2);
    }

    #[tokio::test]
    async fn any_origin_is_a_star_without_credentials() {
        let app = chain::<Cors>("origins = [\"*\"]\nmethods = [\"*\"]\nheaders = [\"*\"]\nexpose = [\"*\"]");
        let answer = ask(&app, "GET", &[("origin", "https://a.example")]).await;
        let answer = answer
            .expect_header("access-control-allow-origin", "*")
            .expect_header("access-control-expose-headers", "*");
        answer.expect_no_header("access-control-allow-credentials");
        preflight(&app, "https://a.example").await.expect_header("access-control-allow-methods", "*");
    }

    #[tokio::test]
    async fn with_credentials_a_star_answers_what_was_asked_and_is_warned_about() {
        let toml = "origins = [\"*\"]\nmethods = [\"*\"]\nheaders = [\"*\"]\nexpose = [\"x-a\"]\ncredentials = true";
        let built = build::<Cors>(toml).expect("it builds");
        assert!(built.warnings.contains("every page may act as the user"), "{}", built.warnings);
        let app = Chain::new(vec![built]);
        let answer = preflight(&app, "https://a.example").await;
        let answer = answer.expect_header("access-control-allow-origin", "https://a.example");
        let answer = answer.expect_header("access-control-allow-credentials", "true");
        answer
            .expect_header("access-control-allow-methods", "PUT")
            .expect_header("access-control-allow-headers", "x-a, x-b");
        ask(&app, "GET", &[("origin", "https://a.example")])
            .await
            .expect_header("access-control-expose-headers", "x-a");
    }

    #[test]
    fn settings_that_no_browser_would_understand_are_refused() {
        for (toml, fault) in [
            ("origins = []", "is empty, so no page"),
            ("origins = [\"app.example.com\"]", "lacks its scheme"),
            ("origins = [\"https://app.example.com/\"]", "and nothing else"),
            ("origins = [\"https://app.example.com:443\"]", "browsers leave out"),
            ("origins = [\"https://App.example.com\"]", "lower-case"),
            ("origins = [\"https://a.*.example.com\"]", "whole first label"),
            ("origins = [\"https://*.\"]", "before a domain"),
            ("origins = [\"https://\"]", "no browser sends"),
            ("origins = [\"null\"]", "sandboxed"),
            ("origins = [\"*\"]\nexpose = [\"*\"]\ncredentials = true", "`expose` has `*`"),
        ] {
            let faults = build::<Cors>(toml).map(drop).expect_err(toml);
            assert!(faults.contains(fault), "{toml}: {faults}");
        }
    }
}
