//! The requests of a connection, each a task of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::EXPECT;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use super::body::{self, Outgoing};
use crate::server::deadline;
use crate::server::strict::http2::{check, join_cookies};
use crate::server::{Application, Manners, Peer};

/// What the requests of a connection have in common.
pub(super) struct Streams<A> {
    application: Arc<A>,
    peer: Peer,
    body_idle: Option<Duration>,
    headers: usize,
    request_line: usize,
}

impl<A: Application> Streams<A> {
    pub(super) fn new(application: Arc<A>, peer: Peer, manners: &Manners) -> Self {
        Self {
            application,
            peer,
            body_idle: manners.body_idle,
            headers: manners.headers,
            request_line: manners.request_line,
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) async fn answer(
        &self,
        mut request: http::Request<Incoming>,
    ) -> Result<http::Response<Outgoing<A::Body>>, Infallible> {
        join_cookies(request.headers_mut());
        let is_head = *request.method() == Method::HEAD;
        let response = match check(&request, self.headers, self.request_line) {
            Ok(()) => {
                // hyper sends no `100 Continue` over HTTP/2, so nobody may wait for one.
                request.headers_mut().remove(EXPECT);
                let request = request.map(|body| deadline::body(body::checked(body), self.body_idle));
                self.application.serve(request, &self.peer).await
            }
            Err(refusal) => self.application.refuse(&refusal, &self.peer),
        };
        let bodiless = is_head || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(response.map(|body| Outgoing::new(body, bodiless)))
    }
}

/// Runs requests on the worker that has their connection.
#[derive(Clone)]
pub(super) struct Worker(TaskTracker);

impl Worker {
    /// What it runs counts with these connections.
    pub(super) fn new(connections: TaskTracker) -> Self {
        Self(connections)
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Worker {
    fn execute(&self, stream: F) {
        // hyper calls this from within the connection's task, whose runtime is the worker's.
        drop(tokio::spawn(self.0.track_future(stream)));
    }
}
