//! Sets, adds and removes headers of the request and of the answer.
//!
//! ```toml
//! [middleware.tidy]
//! type     = "headers"
//! request  = { set = { x-env = "prod" }, remove = ["cookie"] }
//! response = { add = { link = ["</a.css>; rel=preload", "</b.js>; rel=preload"] }, remove = ["server"] }
//! ```
//!
//! First `remove`, then `set` (which replaces what is there), then `add` (which leaves it). It refuses nobody. The answer
//! is changed whoever made it, also where the gateway refused.
//!
//! Headers that say how a message is framed or that belong to one connection cannot be changed, and `host` only by
//! [`rewrite`](crate::rewrite).

use http::HeaderMap;
use http::header::{self, HeaderName as Name};
use portcullis_config::Step;
use portcullis_config::units::{OneOrMany, Pairs, settled_by_the_gateway};

use crate::prelude::*;

/// Sets, adds and removes headers of the request and of the answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// What changes in the request.
    #[serde(default)]
    request: Edits,
    /// What changes in the answer.
    #[serde(default)]
    response: Edits,
}

/// Changes to a header block.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Edits {
    /// Headers that get this value, or these values, in place of what they have.
    set: Pairs<HeaderName, OneOrMany<HeaderText>>,
    /// Headers that get this value, or these values, besides what they have.
    add: Pairs<HeaderName, OneOrMany<HeaderText>>,
    /// Headers that are taken away.
    remove: Vec<HeaderName>,
}

impl Plugin for Headers {
    const NAME: &'static str = "headers";
    const EXAMPLE: &'static str = r#"request  = { set = { x-env = "prod" }, remove = ["cookie"] }
response = { remove = ["server"] }"#;

    fn build(self, context: &Context) -> Result<RouteLayer, BuildError> {
        for (how, pairs) in [("set", &self.request.set), ("add", &self.request.add)] {
            for (name, _) in pairs.iter().filter(|(name, _)| FORWARDING.contains(&name.as_str())) {
                context.warn(
                    ["request", how, name.as_str()],
                    "is written again when the request leaves; see `forwarding` of the listener",
                );
            }
        }
        let faults = self.request.faults("request").and(self.response.faults("response"));
        faults.into_result()?;
        match (self.request.is_empty(), self.response.is_empty()) {
            (true, true) => Err(BuildError::whole("`request` or `response` must say which headers to change")),
            (false, true) => Ok(RouteLayer::guard(self.request)),
            (_, false) => Ok(RouteLayer::around(self)),
        }
    }
}

/// What the gateway itself tells a service about the client.
const FORWARDING: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip"];

impl Guard for Edits {
    fn check(&self, request: &mut Request) -> Result<(), Rejection> {
        self.apply(request.headers_mut());
        Ok(())
    }
}

impl Around for Headers {
    async fn handle(&self, mut request: Request, next: Next) -> Response {
        self.request.apply(request.headers_mut());
        let mut response = next.run(request).await;
        self.response.apply(response.headers_mut());
        response
    }
}

impl Edits {
    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(&**name);
        }
        for (name, values) in &self.set {
            headers.remove(&**name);
            append(headers, name, values);
        }
        for (name, values) in &self.add {
            append(headers, name, values);
        }
    }

    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// What is wrong with the changes to one `side` of the exchange.
    fn faults(&self, side: &str) -> BuildError {
        let mut faults = BuildError::default();
        for (how, pairs) in [("set", &self.set), ("add", &self.add)] {
            for (index, (name, values)) in pairs.iter().enumerate() {
                let path = [side, how, name.as_str()];
                if let Some(reason) = untouchable(name, side) {
                    faults.add(path, reason);
                } else if values.is_empty() {
                    faults.add(path, "has no value; a header is taken away by `remove`");
                } else if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                    faults.add(path, "is there twice: headers' names are the same in any case");
                }
            }
        }
        for (index, name) in self.remove.iter().enumerate() {
            if let Some(reason) = untouchable(name, side) {
                let path = vec![Step::Key(side.to_owned()), Step::Key("remove".to_owned()), Step::Index(index)];
                faults.add(path, format!("names `{name}`, which {reason}"));
            }
        }
        faults
    }
}

fn append(headers: &mut HeaderMap, name: &HeaderName, values: &[HeaderText]) {
    for value in values {
        headers.append(&**name, (**value).clone());
    }
}

/// Why a header is not for middlewares to change, if it is not.
pub(crate) fn untouchable(name: &Name, side: &str) -> Option<&'static str> {
    let settled = settled_by_the_gateway(name);
    if settled.is_some() {
        settled
    } else if name == header::HOST && side == "request" {
        Some("is changed by the middleware `rewrite`")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::response::IntoResponse;

    use super::*;
    use crate::testing::{self, build, chain, request};

    #[test]
    fn it_keeps_the_promises_of_every_plugin() {
        testing::conformance::<Headers>();
    }

    fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
    }

    fn asking(lines: &[(&'static str, &str)]) -> Request {
        let mut request = request("GET", "/");
        for (name, value) in lines {
            request.headers_mut().append(*name, value.parse().expect("a value"));
        }
        request
    }

    #[tokio::test]
    async fn set_replaces_add_joins_and_remove_takes_away() {
        let app = chain::<Headers>(
            r#"request = { set = { X-Env = "prod", x-two = ["1", "2"] }, add = { via = "portcullis" }, remove = ["cookie"] }"#,
        );
        app.send(asking(&[("x-env", "a"), ("x-env", "b"), ("via", "other"), ("cookie", "c")])).await.expect_status(200);
        let seen = app.last_seen().headers;
        assert_eq!(values(&seen, "x-env"), ["prod"]);
        assert_eq!(values(&seen, "x-two"), ["1", "2"]);
        assert_eq!(values(&seen, "via"), ["other", "portcullis"]);
        assert_eq!(values(&seen, "cookie"), [""; 0]);
    }

    #[tokio::test]
    async fn what_is_removed_can_be_set_anew() {
        let app =
            chain::<Headers>(r#"request = { remove = ["x-a", "x-b"], set = { x-a = "new" }, add = { x-b = "new" } }"#);
        app.send(asking(&[("x-a", "old"), ("x-b", "old")])).await;
        let seen = app.last_seen().headers;
        assert_eq!((values(&seen, "x-a"), values(&seen, "x-b")), (vec!["new".into()], vec!["new".into()]));
    }

    #[tokio::test]
    async fn the_answer_is_changed_whoever_made_it() {
        let toml = r#"response = { set = { x-frame-options = "DENY" }, remove = ["server"] }"#;
        let upstream = chain::<Headers>(toml).answer(|_| async {
            http::Response::builder().header("server", "x").body(Body::empty()).expect("a response")
        });
        upstream.get("/").await.expect_header("x-frame-options", "DENY").expect_no_header("server");
        let refused = chain::<Headers>(toml).answer(|_| async { Rejection::new(Cause::NoInstance).into_response() });
        refused.get("/").await.expect_status(503).expect_header("x-frame-options", "DENY");
    }

    #[test]
    fn headers_of_the_connection_and_of_the_framing_cannot_be_changed() {
        for (toml, fault) in [
            ("request = { set = { connection = \"close\" } }", "`connection` belongs to one connection"),
            ("request = { add = { Transfer-Encoding = \"chunked\" } }", "belongs to one connection"),
            (
                "response = { remove = [\"x-a\", \"content-length\"] }",
                "`remove` names `content-length`, which follows from the body",
            ),
            ("response = { set = { keep-alive = \"1\" } }", "belongs to one connection"),
            ("request = { set = { host = \"a\" } }", "`host` is changed by the middleware `rewrite`"),
            ("request = { set = { x-a = [] } }", "`x-a` has no value"),
            ("request = { set = { x-a = \"1\", X-A = \"2\" } }", "is there twice"),
            ("request = { set = { x-a = \"1\\r\\nx-b: 2\" } }", "line breaks"),
            ("", "must say which headers to change"),
        ] {
            let faults = build::<Headers>(toml).map(drop).expect_err(toml);
            assert!(faults.contains(fault), "{toml}: {faults}");
        }
        assert!(build::<Headers>("response = { set = { host = \"a\" } }").is_ok(), "an answer's host means nothing");
        let built = build::<Headers>("request = { set = { X-Forwarded-For = \"1.1.1.1\" } }").expect("it builds");
        assert!(built.warnings.contains("written again when the request leaves"), "{}", built.warnings);
    }
}
