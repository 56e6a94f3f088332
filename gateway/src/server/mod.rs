//! Stop 1, accept: sockets, connections, their deadlines and limits.
//!
//! The accept loop is our own: `axum::serve` has no header timeout and no connection limit. A connection is a task that
//! parses requests and hands each to its [`Application`]: the [edge](crate::edge), or the admin API.

mod deadline;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_config::{Limits, ListenerTimeouts};
use portcullis_middleware::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

pub use socket::bind;

use deadline::{Deadlines, Phase};

/// Both ends of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The other end.
    pub address: SocketAddr,
    /// This end.
    pub local: Option<SocketAddr>,
}

/// What answers the requests of a server.
pub trait Application: Send + Sync + 'static {
    /// How new connections are treated. A reload may change it.
    fn manners(&self) -> Manners;

    /// Answers a request.
    fn serve(&self, request: Request, peer: &Peer) -> impl Future<Output = Response> + Send;
}

/// How connections of one address are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manners {
    /// How many connections may be open at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// The largest header block, in bytes.
    pub header_size: usize,
    /// The most headers a request may have.
    pub headers: usize,
    /// How long a client may take to send a request's head, counted from its first byte.
    pub header: Option<Duration>,
    /// How long a connection may be without a request.
    pub idle: Option<Duration>,
    /// How long a request's body may stand still.
    pub body_idle: Option<Duration>,
}

impl Manners {
    /// What a listener's settings say.
    pub fn new(limits: &Limits, timeouts: &ListenerTimeouts) -> Self {
        Self {
            connections: limits.connections,
            header_size: limits.header_size.as_usize(),
            headers: limits.headers,
            header: timeouts.header.limit(),
            idle: timeouts.idle.limit(),
            body_idle: timeouts.body_idle.limit(),
        }
    }
}

impl Default for Manners {
    fn default() -> Self {
        Self::new(&Limits::default(), &ListenerTimeouts::default())
    }
}

/// A running server, held by whoever may stop it. Dropping it stops nothing.
#[derive(Clone)]
pub struct Handle {
    address: Option<SocketAddr>,
    stop: CancellationToken,
    connections: TaskTracker,
    open: Arc<Connections>,
}

/// The connections that are open, and a bell for when one of them closes.
#[derive(Default)]
struct Connections {
    count: AtomicUsize,
    closed: Notify,
}

impl Handle {
    /// The address that was bound; it has the real port where the file says 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Stops accepting, lets requests in flight finish, and closes idle connections.
    pub fn drain(&self) {
        self.stop.cancel();
        self.connections.close();
    }

    /// Waits until the last connection is closed. Only after [`drain`](Handle::drain) does it come to an end.
    pub async fn closed(&self) {
        self.connections.wait().await;
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.open.count.load(Ordering::Relaxed)
    }
}

/// Starts to accept connections on a socket that is bound already.
pub fn start<A: Application>(listener: TcpListener, application: Arc<A>) -> Handle {
    let handle = Handle {
        address: listener.local_addr().ok(),
        stop: CancellationToken::new(),
        connections: TaskTracker::new(),
        open: Arc::default(),
    };
    handle.connections.spawn(accept(listener, application, handle.clone()));
    handle
}

async fn accept<A: Application>(listener: TcpListener, application: Arc<A>, server: Handle) {
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = server.stop.cancelled() => return,
            accepted = async {
                // Whoever comes when all places are taken waits in the kernel's queue.
                while server.open() >= application.manners().connections {
                    server.open.closed.notified().await;
                }
                listener.accept().await
            } => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                let open = Open::count(&server.open);
                let connection = serve(stream, peer, application.clone(), server.stop.clone());
                server.connections.spawn(async move {
                    connection.await;
                    drop(open);
                });
            }
            // The other end gave up while it waited in the queue; nothing is wrong here.
            Err(error) if is_about_one_connection(&error) => {
                debug!(%error, "a connection was gone before it was accepted")
            }
            Err(error) => {
                // Out of descriptors or memory. The queue stays readable, so without a pause this loop would spin.
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "cannot accept connections; trying again until it works");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn is_about_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Counts a connection for as long as it lives.
struct Open(Arc<Connections>);

impl Open {
    fn count(open: &Arc<Connections>) -> Self {
        open.count.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.closed.notify_one();
    }
}

/// One connection: requests one after the other, each handed to the application.
async fn serve<A: Application>(stream: TcpStream, peer: SocketAddr, application: Arc<A>, stop: CancellationToken) {
    let manners = application.manners();
    // Answers are written whole; waiting for more to fill a segment would only delay them.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok();
    let phase = Phase::default();
    let io = Deadlines::new(stream, phase.clone(), manners.header, manners.idle);
    let peer = Peer { address: peer, local };

    let service = service_fn({
        let (stop, body_idle) = (stop.clone(), manners.body_idle);
        move |request: http::Request<Incoming>| {
            phase.request_begins();
            let (application, phase, stop) = (application.clone(), phase.clone(), stop.clone());
            async move {
                let request = request.map(|body| deadline::body(body, body_idle));
                let mut response = application.serve(request, &peer).await;
                if stop.is_cancelled() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                let response = response.map(|body| phase.until_the_answer_ends(body));
                Ok::<_, std::convert::Infallible>(response)
            }
        }
    });

    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Our own deadlines know an idle connection from a slow head; hyper's single clock does not.
        .header_read_timeout(None)
        .max_headers(manners.headers)
        .max_header_size(manners.header_size)
        // A client that closes its side has left: what it asked for is cancelled.
        .half_close(false)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(peer = %peer.address, %error, "a connection ended early");
    }
}
