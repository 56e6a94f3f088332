//! The chain: how one middleware hands a request to the next.
//!
//! A built chain is a fold over the list in file order. Each link is one erased hop behind an [`Arc`], so cloning a
//! [`Next`] is a reference count and a guard costs no allocation at all. This is the only file with `Pin` and `Poll`
//! in their hop form; plugins are written with the three shapes below.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use tower::util::ServiceExt;
use tower::{BoxError, Layer, Service};

use crate::rejection::{Cause, Rejection};
use crate::rewrite::Rewriter;

/// A request on its way through a chain.
pub type Request = http::Request<Body>;
/// An answer on its way back.
pub type Response = http::Response<Body>;

/// Decides about a request and is gone: lets it pass, perhaps changed, or refuses it.
///
/// A guard costs no allocation. When it cannot decide it refuses.
pub trait Guard: Send + Sync + 'static {
    /// Lets the request pass (`Ok`) or refuses it.
    fn check(&self, request: &mut Request) -> Result<(), Rejection>;

    /// The rewriting of the path or the host that this is, if it is that: `portcullis check` looks where it leads.
    fn rewriter(&self) -> Option<&Rewriter> {
        None
    }
}

/// Wraps what comes after it: sees the request before and the answer after.
///
/// It is run for [rehearsals](crate::Exchange::is_rehearsal) too, and must then leave the world as it is.
pub trait Around: Send + Sync + 'static {
    /// Answers the request, usually by `next.run(request).await`.
    fn handle(&self, request: Request, next: Next) -> impl Future<Output = Response> + Send;
}

/// One hop of a chain, erased. The three shapes and the gateway's own endpoints implement it.
pub trait Hop: Send + Sync + 'static {
    /// Takes the request and answers it.
    fn run(&self, request: Request) -> Running;
}

/// A hop from a function: `hop(|request| Running::boxed(async move { … }))`.
pub fn hop(run: impl Fn(Request) -> Running + Send + Sync + 'static) -> Next {
    struct Function<F>(F);
    impl<F: Fn(Request) -> Running + Send + Sync + 'static> Hop for Function<F> {
        fn run(&self, request: Request) -> Running {
            (self.0)(request)
        }
    }
    Next::new(Function(run))
}

/// The rest of the chain.
///
/// It is a tower [`Service`] that never fails, so it works as an axum fallback and under any tower layer.
#[derive(Clone)]
pub struct Next(Arc<dyn Hop>);

impl Next {
    /// The end of a chain, or a hop of it.
    pub fn new(hop: impl Hop) -> Self {
        Self(Arc::new(hop))
    }

    /// Sends the request down the rest of the chain.
    pub fn run(&self, request: Request) -> Running {
        self.0.run(request)
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next")
    }
}

impl<B> Service<http::Request<B>> for Next
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answering {
        Answering(self.run(request.map(Body::new)))
    }
}

/// An answer in the making: either there already, or a boxed future.
///
/// A guard that refuses needs no box, and a guard that lets pass hands on the box of what comes after it.
#[must_use = "futures do nothing unless awaited"]
pub struct Running(State);

enum State {
    Ready(Option<Box<Response>>),
    Boxed(Pin<Box<dyn Future<Output = Response> + Send>>),
}

impl Running {
    /// An answer that is there already.
    pub fn ready(response: Response) -> Self {
        Self(State::Ready(Some(Box::new(response))))
    }

    /// An answer that takes its time.
    pub fn boxed(future: impl Future<Output = Response> + Send + 'static) -> Self {
        Self(State::Boxed(Box::pin(future)))
    }
}

impl Future for Running {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Response> {
        match &mut self.0 {
            State::Ready(response) => Poll::Ready(*response.take().expect("polled once after it was ready")),
            State::Boxed(future) => future.as_mut().poll(context),
        }
    }
}

/// [`Running`] as a tower future.
#[must_use = "futures do nothing unless awaited"]
pub struct Answering(Running);

impl Future for Answering {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(Ok)
    }
}

/// A built middleware, ready to be put around the rest of a chain.
///
/// Cloning shares it: routes that list one named middleware share its state.
#[derive(Clone)]
pub struct RouteLayer(Shape);

#[derive(Clone)]
enum Shape {
    Guard(Arc<dyn Guard>),
    Wrap(Arc<dyn Fn(Next) -> Next + Send + Sync>),
}

/// What a middleware says to a request that is only rehearsed (see [`RouteLayer::rehearse`]).
#[derive(Debug)]
pub enum Verdict {
    /// A guard let it pass.
    Passed,
    /// A guard refused it.
    Refused(Rejection),
    /// It wraps the rest of the chain and says nothing beforehand.
    Wraps,
}

impl RouteLayer {
    /// A middleware that decides and is gone.
    pub fn guard(guard: impl Guard) -> Self {
        Self(Shape::Guard(Arc::new(guard)))
    }

    /// A middleware that sees the answer too. Costs one allocation per request.
    pub fn around(around: impl Around) -> Self {
        struct AroundHop<A>(Arc<A>, Next);
        impl<A: Around> Hop for AroundHop<A> {
            fn run(&self, request: Request) -> Running {
                let (around, next) = (self.0.clone(), self.1.clone());
                Running::boxed(async move { around.handle(request, next).await })
            }
        }
        let around = Arc::new(around);
        Self(Shape::Wrap(Arc::new(move |next| Next::new(AroundHop(around.clone(), next)))))
    }

    /// Any tower or tower-http layer, also one that changes body types.
    ///
    /// An error of the layer's service becomes a `500` with the cause `internal`; the error is logged.
    pub fn tower<L, B>(layer: L) -> Self
    where
        L: Layer<Next> + Send + Sync + 'static,
        L::Service: Service<Request, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Future: Send,
        <L::Service as Service<Request>>::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        struct TowerHop<S>(S);
        impl<S, B> Hop for TowerHop<S>
        where
            S: Service<Request, Response = http::Response<B>> + Clone + Send + Sync + 'static,
            S::Future: Send,
            S::Error: Into<BoxError>,
            B: http_body::Body<Data = Bytes> + Send + 'static,
            B::Error: Into<BoxError>,
        {
            fn run(&self, request: Request) -> Running {
                // The ready service must be the one that is called: a clone's `poll_ready` says nothing about another.
                let answer = self.0.clone().oneshot(request);
                Running::boxed(async move {
                    match answer.await {
                        Ok(response) => response.map(Body::new),
                        Err(error) => {
                            let error: BoxError = error.into();
                            Rejection::new(Cause::Internal)
                                .detail("a middleware failed")
                                .because(&*error)
                                .into_response()
                        }
                    }
                })
            }
        }
        Self(Shape::Wrap(Arc::new(move |next| Next::new(TowerHop(layer.layer(next))))))
    }

    /// A middleware that always answers itself; what follows it in a chain is never reached.
    pub fn terminal(end: Next) -> Self {
        Self(Shape::Wrap(Arc::new(move |_| end.clone())))
    }

    /// The same middleware for some requests only; all others go straight to what comes after it.
    #[must_use]
    pub fn only_if(self, applies: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        struct Fork<F> {
            applies: Arc<F>,
            through: Next,
            past: Next,
        }
        impl<F: Fn(&Request) -> bool + Send + Sync + 'static> Hop for Fork<F> {
            fn run(&self, request: Request) -> Running {
                let way = if (self.applies)(&request) { &self.through } else { &self.past };
                way.run(request)
            }
        }
        let applies = Arc::new(applies);
        Self(Shape::Wrap(Arc::new(move |past| {
            Next::new(Fork { applies: applies.clone(), through: self.layer(past.clone()), past })
        })))
    }

    /// The rewriting that this is, if it is that.
    pub fn rewriter(&self) -> Option<&Rewriter> {
        match &self.0 {
            Shape::Guard(guard) => guard.rewriter(),
            Shape::Wrap(_) => None,
        }
    }

    /// Asks what this middleware would say to a request, without running the rest of the chain.
    ///
    /// Guards are really run: the request's [`Exchange`](crate::Exchange) should be a rehearsal, so that they count and log nothing.
    pub fn rehearse(&self, request: &mut Request) -> Verdict {
        match &self.0 {
            Shape::Guard(guard) => match guard.check(request) {
                Ok(()) => Verdict::Passed,
                Err(rejection) => Verdict::Refused(rejection),
            },
            Shape::Wrap(_) => Verdict::Wraps,
        }
    }
}

impl Layer<Next> for RouteLayer {
    type Service = Next;

    fn layer(&self, next: Next) -> Next {
        struct GuardHop(Arc<dyn Guard>, Next);
        impl Hop for GuardHop {
            fn run(&self, mut request: Request) -> Running {
                match self.0.check(&mut request) {
                    Ok(()) => self.1.run(request),
                    Err(rejection) => Running::ready(rejection.into_response()),
                }
            }
        }
        match &self.0 {
            Shape::Guard(guard) => Next::new(GuardHop(guard.clone(), next)),
            Shape::Wrap(wrap) => wrap(next),
        }
    }
}

impl fmt::Debug for RouteLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Shape::Guard(_) => "RouteLayer::guard",
            Shape::Wrap(_) => "RouteLayer::wrap",
        })
    }
}

/// Folds middlewares, in the order they are listed, around the end of a chain: the first sees the request first.
pub fn fold<'a>(layers: impl DoubleEndedIterator<Item = &'a RouteLayer>, end: Next) -> Next {
    layers.rev().fold(end, |next, layer| layer.layer(next))
}
