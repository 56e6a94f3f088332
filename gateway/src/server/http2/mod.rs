//! HTTP/2 with a client: many requests at once over one connection.
//!
//! hyper's connection speaks the protocol, and h2 within it reads the frames. Each request is a task of the worker that
//! has the connection, and is counted with the connections, so that a drain waits for it (`streams.rs`, `pace.rs`). What
//! h2 does not do is done around it: the bytes are seen as they go by (`keeper.rs`), so that a client which floods is
//! sent away and what h2 refuses by itself is remembered, and clocks end what goes on for too long (`clocked.rs`).

mod body;
mod clocked;
mod course;
mod keeper;
mod pace;
mod streams;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_config::Limits;
use portcullis_config::units::Size;
use portcullis_middleware::Cause;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;
use tracing::debug;

use super::exit::Exit;
use super::farewell::{part, written};
use super::strict::{Fault, PREFACE, Refusal};
use super::{Application, Handle, Manners, Peer};
use clocked::Clocked;
use course::Course;
use keeper::Keeper;
use pace::Worker;
pub(super) use pace::over;
use streams::Streams;

/// How connections that speak HTTP/2 are treated beyond what all are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2 {
    /// How many requests may be open at once.
    pub streams: u32,
    /// How much of a body may come ahead of its reader, in bytes.
    pub stream_window: u32,
    /// How much of all bodies may come ahead of their readers, in bytes.
    pub connection_window: u32,
    /// How much of an answer is kept ready, in bytes.
    pub send_buffer: usize,
    /// The largest header list, in bytes.
    pub header_list: u32,
    /// How many requests may be given up within half a minute.
    pub resets: u32,
    /// How many streams may break the protocol's rules.
    pub stream_errors: usize,
    /// How many frames that carry nothing may come within ten seconds.
    pub control_frames: u32,
}

impl Http2 {
    /// What a listener's settings say.
    pub fn new(limits: &Limits) -> Self {
        let number = |size: Size| u32::try_from(size.bytes()).unwrap_or(u32::MAX);
        Self {
            streams: limits.streams,
            stream_window: number(limits.stream_window),
            connection_window: number(limits.connection_window),
            send_buffer: number(limits.send_buffer) as usize,
            header_list: number(limits.header_list),
            resets: limits.resets,
            stream_errors: limits.stream_errors,
            control_frames: limits.control_frames,
        }
    }
}

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
    match server.stop.unless_told(preface(&mut io, &mut read, manners.header)).await {
        Some(Ok(())) => {}
        // Whoever does not begin with the preface speaks something else, most likely HTTP/1.1.
        Some(Err(Some(refusal))) => {
            let words = written(application.refuse(&refusal, &peer)).await;
            return part(io, &words).await;
        }
        Some(Err(None)) | None => return,
    }
    let (course, exit) = (Arc::new(Course::new(manners)), Exit::new());
    let streams = Arc::new(Streams::new(application.clone(), peer, course.clone(), manners));
    let io = Keeper::new(io, read, course.clone(), exit.clone());
    let service = {
        let (streams, course) = (streams.clone(), course.clone());
        // It begins here and not in its task, which has its first turn later. It is boxed, since hyper and the runtime
        // move it several times before and after that, and because an answer's body has no need for its room.
        service_fn(move |request| Box::pin(streams.clone().answer(request, Course::begin(&course))))
    };
    let connection = builder(manners, server).serve_connection(TokioIo::new(io), service);
    let remember = |refusal| streams.remember(refusal);
    let finish = |connection: std::pin::Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
    {
        let connection = pin!(Clocked::new(connection, finish, remember, course.clone(), manners));
        let tell = |connection: std::pin::Pin<&mut Clocked<_, _>>| {
            connection.finish();
            true
        };
        match server.stop.drive(connection, tell).await {
            Some(Some(Err(error))) => debug!(peer = %streams.peer(), %error, "a connection ended early"),
            Some(Some(Ok(()))) => course.is_over(),
            Some(None) => {}
            None => course.break_off(Cause::Draining),
        }
    }
    if let Some(refusal) = course.verdict() {
        streams.remember(refusal);
    }
    if let Some(io) = exit.take() {
        part(io, &course.goodbye()).await;
    }
}

fn builder(manners: &Manners, server: &Handle) -> http2::Builder<Worker> {
    let limits = &manners.http2;
    let mut builder = http2::Builder::new(Worker::new(server.connections.clone(), manners.body_idle));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_send_buf_size(limits.send_buffer)
        .max_header_list_size(limits.header_list)
        // Those that are opened and given up in one breath: no more than may be open at once.
        .max_pending_accept_reset_streams(limits.streams as usize)
        .max_local_error_reset_streams(limits.stream_errors);
    if let Some(ping) = manners.ping {
        builder.keep_alive_interval(ping).keep_alive_timeout(ping);
    }
    builder
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
