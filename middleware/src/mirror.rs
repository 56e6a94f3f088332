//! Sends copies of requests to another service, which nobody waits for.
//!
//! ```toml
//! [middleware.try_next]
//! type    = "mirror"
//! service = "orders-next"
//! percent = 20             # of the requests; default all
//! ```
//!
//! The original goes on untouched and undelayed, and the answers to copies are read and thrown away. A copy is sent once
//! the original's body has passed through whole. Not copied are requests with a body above 64 KiB, those whose body
//! nobody read to its end, upgrades, and whatever comes while 64 copies are under way. Each copy is an exchange of its
//! own, with the client and the request id of the original: it shows in no log line of it, and its failures are nobody's.
//!
//! It refuses nobody, and adds nothing to the request. `mirror_copies_total` counts by middleware and outcome:
//! `answered`, `failed` (by the gateway), `late` (after 30 s), `too_large`, `incomplete`, `busy`.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use axum::body::Body;
use bytes::Bytes;
use http::request;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::Upgrade;
use crate::body::{self, Copied};
use crate::metrics::{self, Counter};
use crate::prelude::*;

/// The largest body that is copied.
const MAX_BODY: usize = 64 * 1024;
/// How many copies of one middleware may be under way: with [`MAX_BODY`] it bounds the memory they take.
const MAX_COPIES: usize = 64;
/// How long a copy may take.
const MAX_TIME: StdDuration = StdDuration::from_secs(30);

/// Sends copies of requests to another service, which nobody waits for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The service that gets the copies.
    service: String,
    /// How many of the requests are copied, in percent.
    #[serde(default = "default_percent")]
    percent: Percent,
}

fn default_percent() -> Percent {
    Percent::try_from(100.0).expect("it is between 0 and 100")
}

impl Plugin for Mirror {
    const NAME: &'static str = "mirror";
    const EXAMPLE: &'static str = r#"service = "orders-next"
percent = 20"#;

    fn build(self, context: &Context) -> Result<RouteLayer, BuildError> {
        let Some(service) = context.service(&self.service) else {
            return Err(BuildError::at(
                "service",
                format!("is `{}`, which is no service; declare `[service.{}]`", self.service, self.service),
            ));
        };
        let count = |outcome| {
            metrics::counter(
                "mirror_copies_total",
                "Copies of requests that a mirror sent, or did not send.",
                &[("middleware", context.name()), ("outcome", outcome)],
            )
        };
        let outcomes = Outcomes {
            answered: count("answered"),
            failed: count("failed"),
            late: count("late"),
            too_large: count("too_large"),
            incomplete: count("incomplete"),
            busy: count("busy"),
        };
        Ok(RouteLayer::guard(Copier {
            target: Arc::new(Target { service, outcomes }),
            copies: Arc::new(Semaphore::new(MAX_COPIES)),
            fraction: self.percent.fraction(),
        }))
    }
}

/// The middleware. A guard, because it has nothing to do with the answer.
struct Copier {
    target: Arc<Target>,
    copies: Arc<Semaphore>,
    fraction: f64,
}

struct Target {
    service: Next,
    outcomes: Outcomes,
}

struct Outcomes {
    answered: Arc<Counter>,
    failed: Arc<Counter>,
    late: Arc<Counter>,
    too_large: Arc<Counter>,
    incomplete: Arc<Counter>,
    busy: Arc<Counter>,
}

impl Guard for Copier {
    fn check(&self, request: &mut Request) -> Result<(), Rejection> {
        if Upgrade::of(request).is_some() || fastrand::f64() >= self.fraction || Exchange::of(request).is_rehearsal() {
            return Ok(());
        }
        let target = self.target.clone();
        // Taken before the body flows, because what is kept of it must be bounded too.
        let Ok(permit) = self.copies.clone().try_acquire_owned() else {
            target.outcomes.busy.increment();
            return Ok(());
        };
        let copy = Copy::of(request);
        let original = std::mem::take(request.body_mut());
        *request.body_mut() = body::copy(original, MAX_BODY, move |copied| target.take(copy, copied, permit));
        Ok(())
    }
}

/// A copy that still lacks its body.
struct Copy {
    head: request::Parts,
    exchange: Exchange,
}

impl Copy {
    fn of(request: &Request) -> Self {
        // The original's extensions stay with it: they lead to its exchange, its route and its connection.
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.version = request.version();
        head.headers = request.headers().clone();

        let original = Exchange::of(request);
        let exchange = Exchange::new(original.arrival().clone(), request);
        exchange.settle_request_id(original.request_id());
        Self { head, exchange }
    }

    fn with(self, body: Bytes) -> Request {
        let mut request = Request::from_parts(self.head, Body::from(body));
        self.exchange.attach(&mut request);
        request
    }
}

impl Target {
    /// Sends a copy whose body has come, and lets it run by itself.
    fn take(self: Arc<Self>, copy: Copy, copied: Copied, permit: OwnedSemaphorePermit) {
        match copied {
            Copied::TooLarge => self.outcomes.too_large.increment(),
            Copied::Incomplete => self.outcomes.incomplete.increment(),
            Copied::Whole(body) => {
                tokio::spawn(async move {
                    self.send(copy.with(body)).await;
                    drop(permit);
                });
            }
        }
    }

    async fn send(&self, request: Request) {
        let answer = async {
            let response = self.service.run(request).await;
            let failed = Rejection::of(&response).is_some();
            // Read to the end, so that the connection can be used again.
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            failed
        };
        match timeout(MAX_TIME, answer).await {
            Ok(false) => self.outcomes.answered.increment(),
            Ok(true) => self.outcomes.failed.increment(),
            Err(_) => self.outcomes.late.increment(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use axum::response::IntoResponse;
    use futures_util::stream;
    use http::Method;
    use http::header::{CONNECTION, UPGRADE};
    use tokio::sync::mpsc;

    use super::*;
    use crate::layer::{Running, hop};
    use crate::testing::{self, Chain, Setting, build, request};

    #[test]
    fn it_keeps_the_promises_of_every_plugin() {
        testing::conformance::<Mirror>();
    }

    type Copies = mpsc::UnboundedReceiver<(request::Parts, Bytes)>;

    /// A mirror to a service that tells which copies it got, and answers like this.
    fn mirror(toml: &str, answer: fn() -> Response) -> (Chain, Copies) {
        let (sender, copies) = mpsc::unbounded_channel();
        let sender = Arc::new(Mutex::new(sender));
        let next = hop(move |request: Request| {
            let sender = sender.clone();
            Running::boxed(async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("a copy's body is whole").to_bytes();
                let _ = sender.lock().unwrap().send((head, body));
                answer()
            })
        });
        let services: HashMap<String, Next> = [("next".to_owned(), next)].into();
        let built =
            Setting { services: Arc::new(services), ..Setting::default() }.build::<Mirror>(toml).expect("it builds");
        let app = Chain::new(vec![built]).answer(|request| async {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            Response::new(Body::from(body))
        });
        (app, copies)
    }

    fn post(chunks: &[&'static str]) -> Request {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok::<_, std::io::Error>(*chunk)).collect();
        let mut request = Request::new(Body::from_stream(stream::iter(chunks)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/orders?x=1".parse().expect("a target");
        request.headers_mut().insert("x-test", "yes".parse().expect("a value"));
        request
    }

    #[tokio::test]
    async fn a_copy_is_the_same_request_with_an_exchange_of_its_own() {
        let (app, mut copies) = mirror(r#"service = "next""#, Response::default);
        let answer = app.send(post(&["ab", "cd"])).await.expect_status(200).expect_body("abcd");
        let (head, body) = copies.recv().await.expect("a copy");
        assert_eq!(
            (head.method, head.uri.to_string(), &head.headers["x-test"], &body[..]),
            (Method::POST, "/orders?x=1".into(), &"yes".parse().unwrap(), &b"abcd"[..])
        );
        let exchange = head.extensions.get::<Exchange>().expect("an exchange");
        assert_eq!(exchange.request_id(), answer.exchange.request_id());
        exchange.settle_service("next".into());
        assert_eq!(answer.exchange.service(), None, "the original knows nothing of its copy");
    }

    #[tokio::test]
    async fn a_request_without_a_body_is_copied_at_once_and_not_waited_for() {
        let (app, mut copies) = mirror(r#"service = "next""#, || Rejection::new(Cause::NoInstance).into_response());
        let app = app.answer(|_| std::future::ready(Response::default()));
        app.get("/").await.expect_status(200);
        assert!(copies.try_recv().is_err(), "the original was answered before the copy was even sent");
        assert_eq!(copies.recv().await.expect("a copy").0.method, Method::GET);
    }

    #[tokio::test]
    async fn large_bodies_unread_bodies_and_upgrades_are_not_copied() {
        let (app, mut copies) = mirror(r#"service = "next""#, Response::default);
        let large = Box::leak("x".repeat(MAX_BODY + 1).into_boxed_str());
        let answer = app.send(post(&[large])).await.expect_status(200);
        assert_eq!(answer.body.len(), MAX_BODY + 1, "the original is whole all the same");

        let mut upgrade = request("GET", "/");
        for (name, value) in [(CONNECTION, "upgrade"), (UPGRADE, "websocket")] {
            upgrade.headers_mut().insert(name, value.parse().expect("a value"));
        }
        let asked = Upgrade::asked(&upgrade).expect("it asks");
        upgrade.extensions_mut().insert(asked);
        app.send(upgrade).await.expect_status(200);

        app.clone().answer(|_| async { Response::default() }).send(post(&["ab"])).await.expect_status(200);
        tokio::task::yield_now().await;
        assert!(copies.try_recv().is_err());
    }

    #[tokio::test]
    async fn only_so_many_percent_are_copied() {
        let (app, mut copies) = mirror("service = \"next\"\npercent = 0", Response::default);
        for _ in 0..100 {
            app.get("/").await;
        }
        tokio::task::yield_now().await;
        assert!(copies.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn copies_are_bounded_and_late_ones_are_given_up() {
        let outcome =
            |outcome| metrics::counter("mirror_copies_total", "", &[("middleware", "mirror"), ("outcome", outcome)]);
        let never = hop(|_| Running::boxed(std::future::pending()));
        let services: HashMap<String, Next> = [("next".to_owned(), never)].into();
        let setting = Setting { services: Arc::new(services), ..Setting::default() };
        let app = Chain::new(vec![setting.build::<Mirror>(r#"service = "next""#).expect("it builds")]);

        let (busy, late) = (outcome("busy").get(), outcome("late").get());
        for _ in 0..MAX_COPIES + 5 {
            app.get("/").await.expect_status(200);
        }
        assert_eq!(outcome("busy").get() - busy, 5);
        tokio::time::sleep(MAX_TIME + StdDuration::from_secs(1)).await;
        assert_eq!(outcome("late").get() - late, MAX_COPIES as u64);
        app.get("/").await.expect_status(200);
        assert_eq!(outcome("busy").get() - busy, 5, "there is room again");
    }

    #[test]
    fn a_service_that_cannot_be_is_refused() {
        let setting = Setting { services: Arc::new(HashMap::<String, Next>::new()), ..Setting::default() };
        let faults = setting.build::<Mirror>(r#"service = "nowhere""#).map(drop).expect_err("no service");
        assert!(faults.contains("`service` is `nowhere`, which is no service"), "{faults}");
        assert!(
            build::<Mirror>("service = \"a\"\npercent = 101").map(drop).expect_err("too many").contains("0 to 100")
        );
    }
}
