//! Gives every request an id that the log, the services and the client share.
//!
//! ```toml
//! [middleware.id]
//! type   = "request_id"
//! header = "x-request-id"
//! ```
//!
//! An id that came with the request is kept if a trusted proxy sent it and it is 1 to 128 visible ASCII characters; any
//! other is replaced, because it would be written into logs. It refuses nobody. The request upstream and the answer get
//! the header. Without this middleware a request has an id as well, which only the log and problem bodies show.

use http::HeaderValue;

use crate::headers::untouchable;
use crate::prelude::*;

/// Gives every request an id that the log, the services and the client share.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestId {
    /// The header that carries the id.
    #[serde(default = "default_header")]
    header: HeaderName,
}

fn default_header() -> HeaderName {
    "x-request-id".parse().expect("it is a header's name")
}

impl Plugin for RequestId {
    const NAME: &'static str = "request_id";
    const EXAMPLE: &'static str = r#"header = "x-request-id""#;

    fn build(self, _: &Context) -> Result<RouteLayer, BuildError> {
        match untouchable(&self.header, "request") {
            Some(reason) => Err(BuildError::at("header", format!("is `{}`, which {reason}", self.header))),
            None => Ok(RouteLayer::around(self)),
        }
    }
}

impl Around for RequestId {
    async fn handle(&self, mut request: Request, next: Next) -> Response {
        let exchange = Exchange::of(&request).into_owned();
        if let Some(id) = self.acceptable(&exchange, &request) {
            exchange.settle_request_id(id);
        }
        // The one that counts: an id that was settled before stays.
        let Ok(id) = HeaderValue::from_str(exchange.request_id()) else { return next.run(request).await };
        request.headers_mut().insert(&*self.header, id.clone());
        let mut response = next.run(request).await;
        response.headers_mut().insert(&*self.header, id);
        response
    }
}

impl RequestId {
    /// The id that came with the request, if it may be kept.
    fn acceptable<'a>(&self, exchange: &Exchange, request: &'a Request) -> Option<&'a str> {
        if !exchange.client().is_ok_and(|client| client.peer_is_trusted) {
            return None;
        }
        let mut values = request.headers().get_all(&*self.header).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let visible = value.as_bytes().iter().all(u8::is_ascii_graphic);
        value.to_str().ok().filter(|id| visible && (1..=128).contains(&id.len()))
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;
    use crate::testing::{self, Answer, Chain, build, chain, request};

    #[test]
    fn it_keeps_the_promises_of_every_plugin() {
        testing::conformance::<RequestId>();
    }

    async fn ask(app: &Chain, ids: &[&[u8]]) -> Answer {
        let mut request = request("GET", "/");
        for id in ids {
            request.headers_mut().append("x-request-id", HeaderValue::from_bytes(id).expect("a value"));
        }
        app.send(request).await
    }

    /// Log, service and client must agree on the id, and it is returned.
    #[track_caller]
    fn agreed(app: &Chain, answer: &Answer) -> String {
        let seen = app.last_seen().headers["x-request-id"].to_str().expect("text").to_owned();
        assert_eq!(answer.headers["x-request-id"], seen);
        assert_eq!(answer.exchange.request_id(), seen);
        seen
    }

    #[tokio::test]
    async fn a_request_without_an_id_gets_one_that_everybody_sees() {
        let app = chain::<RequestId>("");
        let (first, second) = (ask(&app, &[]).await, ask(&app, &[]).await);
        assert_ne!(first.headers["x-request-id"], second.headers["x-request-id"]);
        assert_eq!(agreed(&app, &second).len(), 32);
    }

    #[tokio::test]
    async fn a_trusted_proxys_id_is_kept_and_a_clients_is_not() {
        let app = chain::<RequestId>("");
        let answer = ask(&app, &[b"from-client"]).await;
        assert_ne!(agreed(&app, &answer), "from-client");
        let app = app.trusted(true);
        let answer = ask(&app, &[b"from-proxy"]).await;
        assert_eq!(agreed(&app, &answer), "from-proxy");
        let app = app.from_client(None);
        let answer = ask(&app, &[b"from-nobody"]).await;
        assert_ne!(agreed(&app, &answer), "from-nobody");
    }

    #[tokio::test]
    async fn an_id_that_would_spoil_a_log_is_replaced_whoever_sent_it() {
        let app = chain::<RequestId>("").trusted(true);
        for ids in [&[&b""[..]][..], &[b"with space"], &[b"tab\there"], &[b"\xff"], &[&[b'a'; 129]], &[b"one", b"two"]]
        {
            let answer = ask(&app, ids).await;
            assert_eq!(agreed(&app, &answer).len(), 32, "{ids:?}");
        }
        let answer = ask(&app, &[&[b'a'; 128]]).await;
        assert_eq!(agreed(&app, &answer).len(), 128);
    }

    #[tokio::test]
    async fn a_refusal_carries_the_id_too() {
        let app = chain::<RequestId>("").answer(|_| async { Rejection::new(Cause::NoInstance).into_response() });
        let answer = ask(&app, &[]).await;
        let id = agreed(&app, &answer);
        assert!(String::from_utf8_lossy(&answer.body).contains(&id));
    }

    #[tokio::test]
    async fn the_header_can_have_another_name_but_not_one_of_the_connections() {
        let app = chain::<RequestId>(r#"header = "X-Correlation-Id""#);
        let answer = app.get("/").await;
        assert_eq!(answer.headers["x-correlation-id"], answer.exchange.request_id());
        assert!(
            build::<RequestId>(r#"header = "upgrade""#)
                .map(drop)
                .expect_err("upgrade")
                .contains("belongs to one connection")
        );
    }
}
