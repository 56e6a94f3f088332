//! The upstream's other door: the same answers over HTTP/2 without TLS, to whoever begins with its preface.
//!
//! Speaks nothing else, so an answer from here is proof of HTTP/2. A large answer waits for the client's windows, as
//! the protocol wants it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use http::{Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::task::LocalSet;

use crate::asked::{Asked, letters};

/// As many as a gateway may want to have at once.
const STREAMS: u32 = 1024;

/// Bodies that were made.
#[derive(Default)]
struct Bodies(RefCell<HashMap<usize, Bytes>>);

pub fn run(listen: SocketAddr, accepted: Arc<AtomicUsize>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(listen).await?;
        let bodies = Rc::new(Bodies::default());
        loop {
            let (stream, _) = listener.accept().await?;
            accepted.fetch_add(1, Relaxed);
            stream.set_nodelay(true)?;
            // Its failure is the gateway's to tell.
            tokio::task::spawn_local(serve(stream, bodies.clone(), accepted.clone()));
        }
    })
}

async fn serve(stream: TcpStream, bodies: Rc<Bodies>, accepted: Arc<AtomicUsize>) -> Result<(), h2::Error> {
    let mut connection = Builder::new().max_concurrent_streams(STREAMS).handshake::<_, Bytes>(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        answer(&request, respond, &bodies, &accepted)?;
    }
    Ok(())
}

fn answer<B>(
    request: &Request<B>,
    mut respond: SendResponse<Bytes>,
    bodies: &Bodies,
    accepted: &AtomicUsize,
) -> Result<(), h2::Error> {
    let mut status = StatusCode::OK;
    let body = match Asked::by(request.uri().path().as_bytes()) {
        Some(Asked::Bytes(size)) => bodies.of(size),
        Some(Asked::Connections) => accepted.load(Relaxed).to_string().into(),
        Some(Asked::Head) => head(request).into(),
        None => {
            status = StatusCode::NOT_FOUND;
            Bytes::from_static(Asked::NOTHING)
        }
    };
    let head = Response::builder()
        .status(status)
        .header("content-type", "text/plain")
        .header("content-length", body.len())
        .body(())
        .expect("these are names and values");
    respond.send_response(head, false)?.send_data(body, true)
}

impl Bodies {
    fn of(&self, size: usize) -> Bytes {
        self.0.borrow_mut().entry(size).or_insert_with(|| letters(size).into()).clone()
    }
}

/// As HTTP/1.1 would write it.
fn head<B>(request: &Request<B>) -> String {
    let fields =
        request.headers().iter().map(|(name, value)| format!("{name}: {}\r\n", value.as_bytes().escape_ascii()));
    format!(
        "{} {} {:?}\r\n{}\r\n",
        request.method(),
        request.uri().path(),
        request.version(),
        fields.collect::<String>()
    )
}
