//! HTTP/2 with a client: many requests at once over one connection.
//!
//! hyper's connection speaks the protocol. Each request is a task of the worker that has the connection, and is counted
//! with the connections, so that a drain waits for it. What belongs to a whole connection (its clocks, its end) is here;
//! what belongs to a request is in `streams.rs`.

mod body;
mod rewound;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;
use tracing::debug;

use super::farewell::{part, written};
use super::strict::{Fault, PREFACE, Refusal};
use super::{Application, Handle, Manners, Peer};
use rewound::Rewound;
use streams::{Streams, Worker};

/// Serves a connection that speaks HTTP/2, of which `read` has come already.
pub(super) async fn serve<S, A>(
    mut io: S,
    mut read: Vec<u8>,
    peer: Peer,
    application: &Arc<A>,
    manners: &Manners,
    server: &Handle,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Application,
{
    if let Err(refusal) = preface(&mut io, &mut read, manners.header).await {
        // Whoever does not begin with the preface speaks something else, most likely HTTP/1.1.
        let words = match refusal {
            Some(refusal) => written(application.refuse(&refusal, &peer)).await,
            None => return,
        };
        return part(io, &words).await;
    }
    let streams = Arc::new(Streams::new(application.clone(), peer, manners));
    let service = {
        let streams = streams.clone();
        service_fn(move |request| {
            let streams = streams.clone();
            async move { streams.answer(request).await }
        })
    };
    let connection = http2::Builder::new(Worker::new(server.connections.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(32 * 1024)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .serve_connection(TokioIo::new(Rewound::new(io, read)), service);
    if let Err(error) = server.stop.drive(pin!(connection), |connection| connection.graceful_shutdown()).await {
        debug!(peer = %streams.peer().address, %error, "a connection ended early");
    }
}

/// Reads the preface, which every connection begins with. An error without a refusal is the client's going away.
async fn preface<S>(io: &mut S, read: &mut Vec<u8>, limit: Option<Duration>) -> Result<(), Option<Refusal>>
where
    S: AsyncRead + Unpin,
{
    let reading = async {
        loop {
            let come = read.len().min(PREFACE.len());
            if read[..come] != PREFACE[..come] {
                return Err(Some(Fault::Preface.into()));
            }
            if come == PREFACE.len() {
                return Ok(());
            }
            if !matches!(io.read_buf(read).await, Ok(1..)) {
                return Err(if read.is_empty() { None } else { Some(Fault::Unfinished.into()) });
            }
        }
    };
    match limit {
        Some(limit) => timeout(limit, reading).await.unwrap_or_else(|_| Err(Some(Fault::HeaderTimeout.into()))),
        None => reading.await,
    }
}
