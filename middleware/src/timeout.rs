//! Ends a request that takes too long.
//!
//! ```toml
//! [middleware.quick]
//! type  = "timeout"
//! total = "2s"        # from here to the last byte of the answer; "0s" is off
//! ```
//!
//! A client that has no answer by then gets `504` with the cause `route_timeout`. If the answer has begun, its body is
//! cut so that the client sees it: the connection or stream breaks. What the rest of the chain was doing is cancelled. A
//! request that asks for another protocol (WebSocket) must be answered by then; what is spoken afterwards takes its time.
//!
//! Nothing is added to the request. [`Deadline`] is the same for a time that is not in a plugin's settings, [`until`] for
//! one that a request brings along.

use std::pin::pin;
use std::time::Duration as StdDuration;

use axum::response::IntoResponse;
use futures_util::future::OptionFuture;
use tokio::time::{Instant, sleep_until};

use crate::blame;
use crate::body::cut_at;
use crate::prelude::*;
use crate::upgrade;

/// Ends a request that takes too long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeout {
    /// How long the answer may take, to its last byte. `"0s"` is off.
    total: Duration,
}

impl Plugin for Timeout {
    const NAME: &'static str = "timeout";
    const EXAMPLE: &'static str = r#"total = "2s""#;

    fn build(self, _: &Context) -> Result<RouteLayer, BuildError> {
        Ok(match self.total.limit() {
            Some(total) => RouteLayer::around(Deadline::after(total)),
            None => RouteLayer::guard(Off),
        })
    }
}

/// Lets everything pass.
struct Off;

impl Guard for Off {
    fn check(&self, _: &mut Request) -> Result<(), Rejection> {
        Ok(())
    }
}

/// Ends a request that is not answered completely so long after it came here.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(StdDuration);

impl Deadline {
    /// Allows this much time.
    pub fn after(total: StdDuration) -> Self {
        Self(total)
    }
}

impl Around for Deadline {
    async fn handle(&self, request: Request, next: Next) -> Response {
        // A time beyond what the clock can count is none.
        match Instant::now().checked_add(self.0) {
            Some(deadline) => until(deadline, next.run(request)).await,
            None => next.run(request).await,
        }
    }
}

/// Ends an answer that is not complete at the deadline, as [`Timeout`] does.
pub async fn until(deadline: Instant, answer: impl Future<Output = Response>) -> Response {
    let mut time = Box::pin(sleep_until(deadline));
    let mut answer = pin!(OptionFuture::from(Some(answer)));
    let in_time = tokio::select! {
        biased;
        response = answer.as_mut() => response,
        () = &mut time => None,
    };
    match in_time {
        // Another protocol may go on for as long as both sides like.
        Some(response) if upgrade::is_agreed(&response) => response,
        Some(response) => response.map(|body| cut_at(body, time, Cause::RouteTimeout)),
        None => {
            blame::because(Cause::RouteTimeout, || answer.set(None.into()));
            Rejection::new(Cause::RouteTimeout).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::body::Body;
    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    use super::*;
    use crate::body::CutShort;
    use crate::testing::{self, build, chain, request};

    #[test]
    fn it_keeps_the_promises_of_every_plugin() {
        testing::conformance::<Timeout>();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_begin_in_time_is_a_504_and_is_cancelled() {
        struct Cancelled(Arc<AtomicBool>);
        impl Drop for Cancelled {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let given = cancelled.clone();
        let app = chain::<Timeout>(r#"total = "2s""#).answer(move |_| {
            let guard = Cancelled(given.clone());
            async move {
                sleep(StdDuration::from_secs(3)).await;
                drop(guard);
                Response::default()
            }
        });
        let began = Instant::now();
        app.get("/").await.expect_status(504).expect_cause(Cause::RouteTimeout);
        assert_eq!(began.elapsed().as_secs(), 2);
        assert!(cancelled.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_in_time_is_cut_where_the_client_sees_it() {
        let app = chain::<Timeout>(r#"total = "2s""#).answer(|_| async {
            let ticks = stream::iter(0..).then(|_| async {
                sleep(StdDuration::from_millis(300)).await;
                Ok::<_, std::io::Error>("tick")
            });
            Response::new(Body::from_stream(ticks))
        });
        let began = Instant::now();
        let started = app.start(request("GET", "/")).await;
        assert_eq!(started.response.status(), 200);
        let error = started.response.into_body().collect().await.expect_err("cut");
        assert_eq!(CutShort::cause_of(&error), Some(Cause::RouteTimeout));
        assert_eq!(began.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_time_is_left_alone() {
        let app = chain::<Timeout>(r#"total = "2s""#).answer(|_| async {
            sleep(StdDuration::from_secs(1)).await;
            Response::new(Body::from("in time"))
        });
        let started = app.start(request("GET", "/")).await;
        assert_eq!(axum::body::HttpBody::size_hint(started.response.body()).exact(), Some(7));
        started.read().await.expect_status(200).expect_body("in time");
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_off_and_a_unit_is_needed() {
        let app = chain::<Timeout>(r#"total = "0s""#).answer(|_| async {
            sleep(StdDuration::from_secs(1_000_000)).await;
            Response::default()
        });
        app.get("/").await.expect_status(200);
        assert!(build::<Timeout>(r#"total = "2""#).map(drop).expect_err("no unit").contains("durations carry a unit"));
    }
}
