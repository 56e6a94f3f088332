//! Refuses requests whose body is too large.
//!
//! ```toml
//! [middleware.small]
//! type = "body_limit"
//! max  = "1MiB"
//! ```
//!
//! A request that announces more gets `413` with the cause `body_too_large` before any of its body is read. One that
//! does not announce its length is cut off where it passes the limit; if the answer has not begun by then, it is the
//! same `413`. Nothing is added to the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, HttpBody};
use axum::response::IntoResponse;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::prelude::*;

/// Refuses requests whose body is too large.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BodyLimit {
    /// The largest body that is taken.
    max: Size,
}

impl Plugin for BodyLimit {
    const NAME: &'static str = "body_limit";
    const EXAMPLE: &'static str = r#"max = "1MiB""#;

    fn build(self, _: &Context) -> Result<RouteLayer, BuildError> {
        Ok(RouteLayer::around(self))
    }
}

impl Around for BodyLimit {
    // tower-http's layer answers with a text of its own, which says no cause, and cannot tell an overflow in the middle
    // of a body from any other failure of the service behind it.
    async fn handle(&self, request: Request, next: Next) -> Response {
        if self.announced(&request).is_some_and(|length| length > self.max.bytes()) {
            return self.too_large();
        }
        if request.body().is_end_stream() {
            return next.run(request).await;
        }
        let overflow = Arc::new(AtomicBool::new(false));
        let seen = overflow.clone();
        let request = request.map(|body| {
            Body::new(Limited::new(body, self.max.as_usize()).map_err(move |error| {
                if error.is::<LengthLimitError>() {
                    seen.store(true, Ordering::Relaxed);
                }
                error
            }))
        });
        let response = next.run(request).await;
        if overflow.load(Ordering::Relaxed) { self.too_large() } else { response }
    }
}

impl BodyLimit {
    /// The length that the request gives its body.
    fn announced(&self, request: &Request) -> Option<u64> {
        let header = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        header.or_else(|| request.body().size_hint().exact())
    }

    fn too_large(&self) -> Response {
        let detail = format!("a request's body may have up to {} bytes here", self.max.bytes());
        Rejection::new(Cause::BodyTooLarge).detail(detail).into_response()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::testing::{self, Chain, chain};

    #[test]
    fn it_keeps_the_promises_of_every_plugin() {
        testing::conformance::<BodyLimit>();
    }

    /// A limit of 8 bytes before a service that reads everything and answers 502 if it cannot.
    fn app() -> Chain {
        chain::<BodyLimit>(r#"max = "8B""#).answer(|request| async {
            match request.into_body().collect().await {
                Ok(body) => Response::new(Body::from(body.to_bytes())),
                Err(_) => Rejection::new(Cause::ResetBeforeHeaders).into_response(),
            }
        })
    }

    fn streamed(chunks: &[&'static str]) -> Request {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok::<_, std::io::Error>(*chunk)).collect();
        Request::new(Body::from_stream(stream::iter(chunks)))
    }

    #[tokio::test]
    async fn what_fits_passes_untouched() {
        app().get("/").await.expect_status(200);
        app().send(Request::new(Body::from("12345678"))).await.expect_status(200).expect_body("12345678");
        app().send(streamed(&["1234", "5678"])).await.expect_status(200).expect_body("12345678");
    }

    #[tokio::test]
    async fn an_announced_body_that_is_too_large_is_refused_unread() {
        let app = app();
        let mut request = streamed(&[]);
        request.headers_mut().insert(CONTENT_LENGTH, 9.into());
        app.send(request).await.expect_status(413).expect_cause(Cause::BodyTooLarge);
        app.send(Request::new(Body::from("123456789"))).await.expect_status(413).expect_cause(Cause::BodyTooLarge);
        assert!(app.seen().is_empty());
    }

    #[tokio::test]
    async fn a_streamed_body_that_grows_too_large_is_a_413_whatever_the_service_makes_of_it() {
        app().send(streamed(&["1234", "5678", "9"])).await.expect_status(413).expect_cause(Cause::BodyTooLarge);
    }

    #[tokio::test]
    async fn a_body_that_breaks_for_another_reason_is_not_blamed_on_its_size() {
        let broken = stream::iter([Ok("12"), Err(std::io::Error::other("gone"))]);
        app().send(Request::new(Body::from_stream(broken))).await.expect_status(502);
    }
}
