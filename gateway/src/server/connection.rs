//! One connection: requests one after the other, each handed to the application.
//!
//! What all requests of a connection need is borrowed from the connection's task, so that a request copies nothing.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tracing::debug;

use super::deadline::{self, Deadlines, Phase, UntilEnd};
use super::stop::Stop;
use super::{Application, Handle, Manners, Peer};
use crate::tls::Accepted;
use crate::wire::Wire;

/// Serves a connection to its end. With TLS, its handshake comes first.
pub(super) async fn serve<A: Application>(stream: TcpStream, mut peer: Peer, application: &A, server: &Handle) {
    let manners = application.manners();
    let stream = Wire::new(stream);
    let Some(tls) = application.tls() else {
        return exchange(stream, peer, application, &manners, &server.stop).await;
    };
    if let Some(Accepted { stream, secured }) = server.handshakes.shake(&tls, stream, &peer, &manners).await {
        drop(tls);
        peer.tls = Some(Arc::new(secured));
        exchange(stream, peer, application, &manners, &server.stop).await;
    }
}

/// Reads requests and writes answers until one of the two has no more.
async fn exchange<S, A>(stream: S, peer: Peer, application: &A, manners: &Manners, stop: &Stop)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Application,
{
    let phase = Phase::default();
    let io = Deadlines::new(stream, phase.clone(), manners.header, manners.idle);
    let address = peer.address;
    let requests = Requests { application, peer, phase, stop, body_idle: manners.body_idle };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Our own deadlines know an idle connection from a slow head; hyper's single clock does not.
        .header_read_timeout(None)
        .max_headers(manners.headers)
        .max_header_size(manners.header_size)
        // A client that closes its side has left: what it asked for is cancelled.
        .half_close(false)
        .serve_connection(TokioIo::new(io), service_fn(|request| requests.answer(request)))
        .with_upgrades();
    if let Err(error) = stop.drive(pin!(connection), |connection| connection.graceful_shutdown()).await {
        debug!(peer = %address, %error, "a connection ended early");
    }
}

/// What the requests of a connection have in common.
struct Requests<'a, A> {
    application: &'a A,
    peer: Peer,
    phase: Phase,
    stop: &'a Stop,
    body_idle: Option<Duration>,
}

impl<A: Application> Requests<'_, A> {
    async fn answer(&self, request: http::Request<Incoming>) -> Result<http::Response<UntilEnd<A::Body>>, Infallible> {
        self.phase.request_begins();
        let request = request.map(|body| deadline::body(body, self.body_idle));
        let mut response = self.application.serve(request, &self.peer).await;
        if self.stop.is_told() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| self.phase.until_the_answer_ends(body)))
    }
}
