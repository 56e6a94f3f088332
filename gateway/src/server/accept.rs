//! Accepting connections, and who serves them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portcullis_middleware::client::Source;
use portcullis_middleware::metrics::{self, Counter};
use tracing::{debug, warn};

use super::places::Place;
use super::socket::{Arrived, Ear, Socket};
use super::socket_file::SocketFile;
use super::{Application, Handle, Peer, connection};
use crate::lines::Lines;
use crate::workers::Crew;

/// Begins to accept connections on every worker, each with an application of its own.
pub(crate) fn open<A: Application>(socket: Socket, crew: Arc<Crew>, applications: Vec<Arc<A>>) -> Handle {
    let Socket { address, ears, file } = socket;
    let server = Handle::new(address);
    let full = metrics::counter(
        "connection_limit_reached_total",
        "Times that an address had as many connections as limits.connections allows, and others had to wait.",
        &[("address", &server.address.to_string())],
    );
    let (complaints, complaints_of_full) = (Lines::every(10, 1), Lines::every(10, 1));
    let post = Arc::new(Post { applications, crew, server, file, complaints, full, complaints_of_full });
    for (worker, ear) in ears.into_iter().enumerate() {
        let (alarm, post) = (post.crew.alarm(worker), post.clone());
        post.clone().spawn(worker, async move {
            post.accept(&ear, worker).await;
            alarm.disarm();
        });
    }
    post.server.clone()
}

/// What the workers of one address have in common.
struct Post<A> {
    // One per worker, so that no two write to one reference count.
    applications: Vec<Arc<A>>,
    crew: Arc<Crew>,
    server: Handle,
    file: Option<SocketFile>,
    /// What is said when connections cannot be accepted. Where descriptors are short it fails and works by turns, as each
    /// that becomes free is taken at once.
    complaints: Lines,
    /// How often all places were taken.
    full: Arc<Counter>,
    complaints_of_full: Lines,
}

impl<A: Application> Post<A> {
    /// Accepts connections on one worker until the address is given up.
    async fn accept(&self, ear: &Ear, worker: usize) {
        let (stop, places) = (&self.server.stop, &self.server.places);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.told() => break,
                accepted = ear.accept(|| places.take(self.limit(worker))) => accepted,
            };
            match accepted {
                // Whoever comes when all places are taken waits in the kernel's queue.
                None => {
                    self.note_full(worker);
                    tokio::select! {
                        biased;
                        () = stop.told() => break,
                        () = places.free() => {}
                    }
                }
                Some((place, Ok(arrived))) => {
                    self.serve(worker, arrived, place);
                }
                // The other end gave up while it waited in the queue; nothing is wrong here.
                Some((_, Err(error))) if is_about_one_connection(&error) => {
                    debug!(%error, "a connection was gone before it was accepted")
                }
                Some((place, Err(error))) => {
                    // Out of descriptors or memory. The queue stays readable, so without a pause this loop would spin.
                    if self.complaints.one_more() {
                        warn!(%error, "cannot accept connections; trying again until it works");
                    }
                    drop(place);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        if let Some(file) = &self.file {
            file.remove();
        }
        // Whoever waits in the queue by now has connected, and would be cut off in the middle of a request.
        while let Some(place) = places.take(self.limit(worker)) {
            let Some(arrived) = ear.waiting().await else { return };
            self.serve(worker, arrived, place);
        }
    }

    /// Whoever connects now is held up, and would like to be told why. We are the only ones to know.
    fn note_full(&self, worker: usize) {
        self.full.increment();
        if self.complaints_of_full.one_more() {
            let (address, connections) = (&self.server.address, self.limit(worker));
            warn!(%address, connections, "as many connections are open as `limits.connections` allows; others wait until one closes");
        }
    }

    fn limit(&self, worker: usize) -> usize {
        self.applications[worker].manners().connections
    }

    /// Hands a connection to the worker that shall have it.
    fn serve(&self, accepted_by: usize, arrived: Arrived, place: Place) {
        let Arrived { stream, peer: address, local } = arrived;
        let load = self.crew.spread(accepted_by);
        let worker = load.worker();
        let local = local.or_else(|| self.server.address.tcp());
        let (application, server) = (self.applications[worker].clone(), self.server.clone());
        let serve = async move |stream| {
            connection::serve(
                stream,
                Peer { address, source: Source::Itself, local, tls: None },
                &application,
                &server,
            )
            .await;
            drop((place, load));
        };
        if worker == accepted_by {
            return self.spawn(worker, serve(stream));
        }
        // It leaves the runtime that accepted it, and must be told to the one that serves it.
        match stream.pack() {
            Ok(parcel) => self.spawn(worker, async move {
                match parcel.unpack() {
                    Ok(stream) => serve(stream).await,
                    Err(error) => warn!(%error, "a connection cannot be served"),
                }
            }),
            Err(error) => warn!(%error, "a connection cannot be served"),
        }
    }

    /// Runs something on a worker that belongs to this address.
    fn spawn(&self, worker: usize, task: impl Future<Output = ()> + Send + 'static) {
        self.crew.spawn(worker, self.server.connections.track_future(task));
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
