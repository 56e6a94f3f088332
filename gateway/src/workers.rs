//! The threads that serve: one per core, each for itself.
//!
//! A worker is a thread with a runtime of its own. It accepts connections, serves them from the first byte to the last,
//! and keeps its own connections to the services; it waits for nobody. Everything that is not a request (registries,
//! health, exporters, the admin API, reloads, signals) runs on the control runtime, where the
//! [`App`](crate::app::App) was started.
//!
//! The workers of an address accept from one socket, so whoever has time takes the next connection. One that has more
//! connections than another passes on what it accepted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use portcullis_config::units::ListenAddress;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use crate::server::{self, Application, Socket};
use crate::unavailable::Unavailable;
use portcullis_middleware::worker::{self, Padded};

/// How long a worker may take to end once it was told to. Its connections are closed already, or are to be cut.
const END: Duration = Duration::from_secs(1);

/// The workers of a gateway. Dropping them ends them, and cuts their connections.
pub struct Workers {
    crew: Arc<Crew>,
    threads: Vec<Thread>,
    fallen: mpsc::Receiver<Fallen>,
}

/// A worker's thread, seen from outside.
struct Thread {
    // The worker ends when this is dropped.
    told: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// A worker has ended that nobody told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("worker {0} has died, which it must never do; please report it with the panic above")]
pub struct Fallen(usize);

impl Workers {
    /// Starts so many workers, each on a thread of its own.
    pub fn start(count: usize) -> io::Result<Self> {
        let runtimes: Vec<_> = (0..count).map(|_| runtime()).collect::<io::Result<_>>()?;
        let (bell, fallen) = mpsc::channel(count.max(1));
        let crew = Crew::new(runtimes.iter().map(|runtime| runtime.handle().clone()), bell);
        let threads = runtimes.into_iter().enumerate();
        let threads = threads.map(|(number, runtime)| Thread::start(runtime, crew.alarm(number)));
        Ok(Self { threads: threads.collect::<io::Result<_>>()?, crew, fallen })
    }

    /// No thread: the current runtime serves too. For a gateway inside another program, and for tests.
    pub fn here() -> Self {
        let (bell, fallen) = mpsc::channel(1);
        Self { crew: Crew::new([Handle::current()], bell), threads: Vec::new(), fallen }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.crew.seats.len()
    }

    /// What the workers know of each other.
    pub(crate) fn crew(&self) -> Arc<Crew> {
        self.crew.clone()
    }

    /// Binds an address for the named listeners. Nobody is accepted before it is [opened](Workers::open).
    pub fn bind(&self, address: impl Into<ListenAddress>, listeners: &[&str]) -> Result<Socket, Unavailable> {
        Socket::bind(&address.into(), listeners, self.crew.seats.iter().map(|seat| &seat.0.runtime))
    }

    /// Begins to accept connections, on every worker. Each answers by an application of its own, of which there is one
    /// per worker.
    pub fn open<A: Application>(&self, socket: Socket, applications: Vec<Arc<A>>) -> server::Handle {
        assert_eq!(applications.len(), self.count(), "one application per worker");
        server::open(socket, self.crew.clone(), applications)
    }

    /// Waits for a worker to end that nobody told to.
    pub async fn fallen(&mut self) -> Fallen {
        match self.fallen.recv().await {
            Some(fallen) => fallen,
            // The crew, which is ours, can always ring.
            None => std::future::pending().await,
        }
    }

    /// Ends all of them. Connections that are still open are cut.
    pub async fn end(self) {
        for Thread { told, ended } in self.threads {
            drop(told);
            if timeout(END * 2, ended).await.is_err() {
                warn!("a worker is busy and does not end; it is left behind");
            }
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

impl Thread {
    fn start(runtime: Runtime, alarm: Alarm) -> io::Result<Self> {
        let name = format!("worker-{}", alarm.number);
        let (told, until_told) = oneshot::channel::<()>();
        let (at_end, ended) = oneshot::channel::<()>();
        let work = move || {
            worker::become_worker(alarm.number);
            // It is never sent to: that its other end is gone is the sign.
            let _ = runtime.block_on(until_told);
            runtime.shutdown_timeout(END);
            alarm.disarm();
            drop(at_end);
        };
        thread::Builder::new().name(name).spawn(work)?;
        Ok(Self { told, ended })
    }
}

/// All workers, as each of them knows the others.
#[derive(Debug)]
pub(crate) struct Crew {
    seats: Box<[Padded<Seat>]>,
    bell: mpsc::Sender<Fallen>,
}

/// One worker, as the others know it.
#[derive(Debug)]
struct Seat {
    runtime: Handle,
    /// How many connections it serves, at all addresses.
    connections: AtomicUsize,
}

impl Crew {
    fn new(runtimes: impl IntoIterator<Item = Handle>, bell: mpsc::Sender<Fallen>) -> Arc<Self> {
        let seat = |runtime| Padded(Seat { runtime, connections: AtomicUsize::new(0) });
        Arc::new(Self { seats: runtimes.into_iter().map(seat).collect(), bell })
    }

    /// How many connections each worker serves.
    pub(crate) fn connections(&self) -> impl Iterator<Item = usize> {
        self.seats.iter().map(|seat| seat.0.connections.load(Ordering::Relaxed))
    }

    /// Runs something on a worker.
    pub(crate) fn spawn(&self, number: usize, task: impl Future<Output = ()> + Send + 'static) {
        // Its end is not waited for here: a connection counts itself, and an accept loop rings the alarm.
        drop(self.seats[number].0.runtime.spawn(task));
    }

    /// Who shall serve a connection that this worker has accepted: itself, unless another has clearly fewer.
    ///
    /// A few connections that stay are spread evenly, or one worker would be busy while another rests. Among many a
    /// difference does not matter, and to pass one on costs waking another thread.
    pub(crate) fn spread(self: &Arc<Self>, number: usize) -> Load {
        let mine = self.seats[number].0.connections.load(Ordering::Relaxed);
        let others = self.connections().enumerate().min_by_key(|&(_, connections)| connections);
        let number = match others {
            Some((other, least)) if mine > least + least / 8 => other,
            _ => number,
        };
        self.seats[number].0.connections.fetch_add(1, Ordering::Relaxed);
        Load { crew: self.clone(), number }
    }

    /// An alarm for what must not end on this worker.
    pub(crate) fn alarm(&self, number: usize) -> Alarm {
        Alarm { number, bell: Some(self.bell.clone()) }
    }
}

/// A connection that a worker has, for as long as it has it.
pub(crate) struct Load {
    crew: Arc<Crew>,
    number: usize,
}

impl Load {
    /// Whose it is.
    pub(crate) fn worker(&self) -> usize {
        self.number
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.crew.seats[self.number].0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rings when it is dropped, by a panic for example. Half of the capacity is not to be lost in silence.
pub(crate) struct Alarm {
    number: usize,
    bell: Option<mpsc::Sender<Fallen>>,
}

impl Alarm {
    /// What it watched ends as it should.
    pub(crate) fn disarm(mut self) {
        self.bell = None;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(bell) = &self.bell {
            // If it is full, others have rung already.
            let _ = bell.try_send(Fallen(self.number));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::response::IntoResponse;
    use portcullis_middleware::{Request, Response};

    use super::*;
    use crate::server::strict::Refusal;
    use crate::server::{Manners, Peer};

    /// Breaks as soon as somebody connects.
    struct Broken;

    impl Application for Broken {
        type Body = axum::body::Body;

        fn manners(&self) -> Manners {
            panic!("a bug in the server");
        }

        fn refuse(&self, refusal: &Refusal, _: &Peer) -> Response {
            refusal.rejection().into_response()
        }

        async fn serve(&self, _: Request, _: &Peer) -> Response {
            ().into_response()
        }
    }

    #[tokio::test]
    async fn an_accept_loop_that_panics_is_noticed() {
        let mut workers = Workers::start(2).unwrap();
        let socket = workers.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &["web"]).unwrap();
        workers.open(socket, vec![Arc::new(Broken), Arc::new(Broken)]);
        let fallen = workers.fallen().await;
        assert!(fallen.0 < 2 && fallen.to_string().contains("has died"), "{fallen}");
    }

    #[tokio::test]
    async fn a_worker_is_its_thread_and_ends_when_it_is_told() {
        let mut workers = Workers::start(3).unwrap();
        let (send, mut seen) = mpsc::unbounded_channel();
        for number in 0..workers.count() {
            let send = send.clone();
            workers.crew.spawn(number, async move {
                let name = thread::current().name().map(str::to_owned);
                send.send((number, worker::index() % worker::places(), name)).unwrap();
            });
        }
        for _ in 0..workers.count() {
            let (number, index, name) = seen.recv().await.unwrap();
            assert_eq!((index, name), (number % worker::places(), Some(format!("worker-{number}"))));
        }
        tokio::select! {
            biased;
            fallen = workers.fallen() => panic!("{fallen}"),
            () = tokio::task::yield_now() => {}
        }
        let crew = workers.crew();
        workers.end().await;
        // Nothing runs on it any more: the task is dropped, and what it holds.
        let (held, dropped) = oneshot::channel::<()>();
        crew.spawn(0, async move { drop(held) });
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn few_connections_are_spread_evenly_and_among_many_a_difference_stays() {
        let workers = Workers::start(4).unwrap();
        let crew = workers.crew();
        let mut loads: Vec<_> = (0..16).map(|_| crew.spread(1)).collect();
        assert_eq!(crew.connections().collect::<Vec<_>>(), [4; 4], "all were accepted by one worker");
        loads.retain(|load| load.worker() != 2);
        loads.extend((0..4).map(|_| crew.spread(0)));
        assert_eq!(crew.connections().collect::<Vec<_>>(), [4; 4], "whoever lost some gets the next");
        loads.extend((0..4 * 36).map(|_| crew.spread(0)));
        let connections: Vec<_> = crew.connections().collect();
        assert!(connections[0] > 40 && connections[1..].iter().all(|&count| count >= 36), "{connections:?}");
        drop(loads);
        assert_eq!(crew.connections().collect::<Vec<_>>(), [0; 4]);
    }
}
