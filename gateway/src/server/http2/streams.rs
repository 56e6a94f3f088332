//! The requests of a connection, each a task of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;

use super::body::{Checked, Outgoing};
use super::course::{Course, Open};
use portcullis_middleware::body::is_bodiless;

use crate::server::blame::Blamed;
use crate::server::incoming;
use crate::server::strict::Refusal;
use crate::server::strict::http2::{check, join_cookies};
use crate::server::{Application, Manners, Peer};

/// What the requests of a connection have in common.
pub(super) struct Streams<A> {
    application: Arc<A>,
    peer: Peer,
    course: Arc<Course>,
    body_idle: Option<Duration>,
    headers: usize,
    request_line: usize,
}

impl<A: Application> Streams<A> {
    pub(super) fn new(application: Arc<A>, peer: Peer, course: Arc<Course>, manners: &Manners) -> Self {
        let Manners { body_idle, headers, request_line, .. } = *manners;
        Self { application, peer, course, body_idle, headers, request_line }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) async fn answer(
        self: Arc<Self>,
        mut request: http::Request<Incoming>,
        open: Open,
    ) -> Result<http::Response<Outgoing<A::Body>>, Infallible> {
        join_cookies(request.headers_mut());
        let method = request.method().clone();
        let response = match check(&request, self.headers, self.request_line) {
            Ok(()) => {
                let request = request.map(|body| incoming::timed(Checked::new(body), self.body_idle));
                Blamed::new(self.application.serve(request, &self.peer), || open.broken()).await
            }
            Err(refusal) => self.application.refuse(&refusal, &self.peer),
        };
        if response.headers().get(CONNECTION) == Some(&HeaderValue::from_static("close")) {
            self.course.end();
        }
        let bodiless = is_bodiless(&method, response.status());
        Ok(response.map(|body| Outgoing::new(body, bodiless, open)))
    }

    /// Remembers what was refused before it became a request. Nobody hears the answer.
    pub(super) fn remember(&self, refusal: Refusal) {
        drop(self.application.refuse(&refusal.over_http2(), &self.peer));
    }
}
