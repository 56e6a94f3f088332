//! Connections that many requests share.
//!
//! They are filled in order, so that those which are not needed become idle: the first one that has room takes a request,
//! and when every one has as many streams as it should, another is opened beside them. Up to what the instance allows
//! they go on taking requests meanwhile. Who finds no room waits in a queue, for a stream that ends or for a connection that
//! comes about; the same queue is where the first requests to an instance wait, so that they open one connection together
//! and not one each.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use portcullis_middleware::Cause;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::connection::http2::{Driver, Opening, Pulse, STREAMS, Session};
use super::connection::stream::InFlight;
use super::connection::{Fresh, Outgoing, Speak};
use super::failure::{Failure, Fault};
use super::policy::NEVER;
use super::pool::{Closed, Lease, Pool};
use super::room::{Claim, Permit};
use crate::proxy_protocol::Introduction;

/// How many connections to one instance a worker opens at most, and how many attempts to open one it has at a time.
const MOST: usize = 64;

/// One worker's shared connections to one instance.
pub(super) struct Sharing {
    /// Those that take streams.
    open: Vec<Held>,
    /// How many are being opened.
    opening: usize,
    waiting: VecDeque<oneshot::Sender<Granted>>,
    /// How many streams the instance took at a time when it said so last.
    room: usize,
    /// How long opening one may take.
    patience: Duration,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { open: Vec::new(), opening: 0, waiting: VecDeque::new(), room: STREAMS, patience: NEVER }
    }
}

/// A connection in a pool's books.
struct Held {
    session: Session,
    opened: Instant,
    /// Since when it has had no stream, if it has none.
    since: Instant,
    exchanges: u64,
}

/// What somebody who waited gets.
enum Granted {
    Place(Place),
    /// The instance speaks HTTP/1.1, so everybody needs a connection for themselves.
    Alone,
    Failed(Failure),
}

/// What comes of an attempt to open a connection.
enum Opened {
    /// The instance speaks HTTP/1.1.
    Alone(Lease),
    Shared(Session, Driver, Permit),
}

/// What a request is sent over.
pub(super) enum Way {
    /// A connection for itself.
    Alone(Lease),
    /// A stream of a connection that others use too.
    Shared(Place),
}

impl Sharing {
    /// Which connection is next to take a stream.
    fn pick(&self) -> Option<usize> {
        let streams = |held: &Held| held.session.pulse().streams();
        let wants = |held: &Held| streams(held) < held.session.room().min(STREAMS);
        self.open.iter().position(wants).or_else(|| {
            let takes = self.open.iter().enumerate().filter(|(_, held)| streams(held) < held.session.room());
            takes.min_by_key(|(_, held)| streams(held)).map(|(index, _)| index)
        })
    }

    /// Whether every connection has as many streams as it should.
    fn is_full(&self) -> bool {
        self.open.iter().all(|held| held.session.pulse().streams() >= STREAMS.min(held.session.room()))
    }

    /// Takes a connection out of the books, which closes it when its streams are over.
    fn retire(&mut self, index: usize, reason: Closed) {
        self.open.remove(index).session.pulse().retire(reason);
    }
}

impl Pool {
    /// A stream on a connection that is open, if there is room.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let mut sharing = self.sharing();
        let place = self.admit(&mut sharing, now)?;
        if sharing.opening == 0 && sharing.open.len() < MOST && sharing.is_full() {
            self.widen(&mut sharing);
        }
        Some(place)
    }

    /// A new connection, or a stream on one that others open or use. Opening one may take as long as `limit`.
    pub(super) async fn open(self: &Arc<Self>, speak: Speak, limit: Duration) -> Result<Way, Failure> {
        if speak == Speak::Http1 || speak == Speak::Negotiated && self.keeps_to_http1.load(Relaxed) {
            return self.open_alone(speak, limit).await;
        }
        match self.wait(limit).await {
            Granted::Place(place) => Ok(Way::Shared(place)),
            Granted::Failed(failure) => Err(failure),
            Granted::Alone => match self.reuse(Instant::now()) {
                Some(lease) => Ok(Way::Alone(lease)),
                None => self.open_alone(speak, limit).await,
            },
        }
    }

    /// A new connection that begins with an introduction. It is its client's alone, and is not used again.
    pub(super) async fn open_for(
        self: &Arc<Self>,
        introduction: &Introduction,
        limit: Duration,
    ) -> Result<Way, Failure> {
        let permit = match self.claim().await? {
            Claim::Connection(lease) => lease.make_room(),
            Claim::Room(permit) => Some(permit),
        };
        let permit = permit.ok_or(Failure::new(Fault::Full, Cause::QueueFull))?;
        match self.connect(Speak::Http1, Some(introduction), limit).await? {
            Fresh::Http1(connection) => Ok(Way::Alone(self.begin_once(connection, permit))),
            // Nobody asked for it.
            Fresh::Http2(..) => Err(Failure::new(Fault::BadAnswer, Cause::BadUpstreamResponse)),
        }
    }

    async fn open_alone(self: &Arc<Self>, speak: Speak, limit: Duration) -> Result<Way, Failure> {
        let permit = match self.claim().await? {
            Claim::Connection(lease) => return Ok(Way::Alone(lease)),
            Claim::Room(permit) => permit,
        };
        match self.connect(speak, None, limit).await? {
            Fresh::Http1(connection) => Ok(Way::Alone(self.begin(connection, permit))),
            // The instance has learned it since.
            Fresh::Http2(session, driver) => {
                self.keeps_to_http1.store(false, Relaxed);
                let gone = Failure::new(Fault::Unsent, Cause::ResetBeforeHeaders);
                let mut sharing = self.sharing();
                self.adopt(&mut sharing, session, driver, permit);
                self.admit(&mut sharing, Instant::now()).map(Way::Shared).ok_or(gone)
            }
        }
    }

    async fn connect(
        &self,
        speak: Speak,
        introduction: Option<&Introduction>,
        limit: Duration,
    ) -> Result<Fresh, Failure> {
        let late = Failure::new(Fault::Connect, Cause::ConnectTimeout);
        timeout(limit, self.connector.connect(speak, introduction)).await.unwrap_or(Err(late))
    }

    /// Waits for a place on a shared connection, and has one opened if need be.
    async fn wait(self: &Arc<Self>, limit: Duration) -> Granted {
        let granted = {
            let mut sharing = self.sharing();
            if let Some(place) = self.admit(&mut sharing, Instant::now()) {
                return Granted::Place(place);
            }
            // Those who gave up are in front, since everybody waits about equally long.
            while sharing.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                sharing.waiting.pop_front();
            }
            sharing.patience = limit;
            let (grant, granted) = oneshot::channel();
            sharing.waiting.push_back(grant);
            self.widen_for_all(&mut sharing);
            granted
        };
        // The one who grants is the pool itself, which this holds.
        granted.await.unwrap_or(Granted::Failed(Failure::new(Fault::Connect, Cause::ConnectRefused)))
    }

    /// A stream on a connection that is open.
    fn admit(self: &Arc<Self>, sharing: &mut Sharing, now: Instant) -> Option<Place> {
        loop {
            let index = sharing.pick()?;
            let held = &mut sharing.open[index];
            if self.limits.is_old(held.opened, now) {
                sharing.retire(index, Closed::Age);
                continue;
            }
            if self.limits.is_spent(held.exchanges) {
                sharing.retire(index, Closed::Spent);
                continue;
            }
            // RFC 9113 §6.8: what comes after a GOAWAY nobody would answer.
            let Some(opening) = held.session.open() else {
                sharing.retire(index, Closed::Peer);
                continue;
            };
            let reused = held.exchanges > 0;
            held.exchanges += 1;
            self.count().enter();
            if reused {
                self.count().reuse();
            }
            let visit = Visit { pool: self.clone(), pulse: opening.pulse().clone() };
            return Some(Place { opening, visit, reused });
        }
    }

    /// Opens as many connections as those who wait need.
    fn widen_for_all(self: &Arc<Self>, sharing: &mut Sharing) {
        let needed = sharing.waiting.len().div_ceil(sharing.room.clamp(1, STREAMS));
        while sharing.opening < needed && sharing.open.len() + sharing.opening < MOST {
            self.widen(sharing);
        }
    }

    /// Opens one more connection. A task does, so that it comes about even if who asked for it goes away.
    fn widen(self: &Arc<Self>, sharing: &mut Sharing) {
        sharing.opening += 1;
        let limit = sharing.patience;
        let pool = self.clone();
        let speak = if self.connector.speak(false) == Speak::Negotiated { Speak::Negotiated } else { Speak::Http2 };
        tokio::spawn(async move {
            let opened = match pool.claim().await {
                Ok(Claim::Room(permit)) => pool.connect(speak, None, limit).await.map(|fresh| match fresh {
                    Fresh::Http1(connection) => Opened::Alone(pool.begin(connection, permit)),
                    Fresh::Http2(session, driver) => Opened::Shared(session, driver, permit),
                }),
                Ok(Claim::Connection(lease)) => Ok(Opened::Alone(lease)),
                Err(failure) => Err(failure),
            };
            pool.opened(opened);
        });
    }

    /// An attempt to open a connection is over.
    fn opened(self: &Arc<Self>, opened: Result<Opened, Failure>) {
        let mut sharing = self.sharing();
        sharing.opening -= 1;
        match opened {
            Ok(Opened::Shared(session, driver, permit)) => {
                self.adopt(&mut sharing, session, driver, permit);
                drop(sharing);
                self.serve();
            }
            Ok(Opened::Alone(lease)) => {
                self.keeps_to_http1.store(true, Relaxed);
                let waiting = mem::take(&mut sharing.waiting);
                drop(sharing);
                lease.release(Instant::now());
                waiting.into_iter().for_each(|waiting| _ = waiting.send(Granted::Alone));
            }
            // While others are open or about to be, there is something to wait for.
            Err(_) if !sharing.open.is_empty() || sharing.opening > 0 => {}
            Err(failure) => {
                let waiting = mem::take(&mut sharing.waiting);
                drop(sharing);
                waiting.into_iter().for_each(|waiting| _ = waiting.send(Granted::Failed(failure)));
            }
        }
    }

    /// Takes a new connection into the books, and has a task drive it.
    fn adopt(self: &Arc<Self>, sharing: &mut Sharing, session: Session, driver: Driver, permit: Permit) {
        self.count().create();
        sharing.room = session.room();
        let now = Instant::now();
        sharing.open.push(Held { session, opened: now, since: now, exchanges: 0 });
        let (pool, pings) = (Arc::downgrade(self), self.limits.pings);
        let counters = self.counters().clone();
        tokio::spawn(async move {
            let pulse = driver.pulse().clone();
            let reason = driver.run(pings).await;
            drop(permit);
            counters.mine().close(reason);
            if let Some(pool) = pool.upgrade() {
                pool.sharing().open.retain(|held| !Arc::ptr_eq(held.session.pulse(), &pulse));
                pool.serve();
            }
        });
    }

    /// Gives places to those who wait, as long as there are some.
    fn serve(self: &Arc<Self>) {
        let now = Instant::now();
        loop {
            // A place that nobody wants any more is given back, for which the lock must be free.
            let (waiting, place) = {
                let mut sharing = self.sharing();
                if sharing.waiting.is_empty() {
                    return;
                }
                let Some(place) = self.admit(&mut sharing, now) else {
                    return self.widen_for_all(&mut sharing);
                };
                (sharing.waiting.pop_front(), place)
            };
            if let Some(waiting) = waiting {
                let _ = waiting.send(Granted::Place(place));
            }
        }
    }

    /// How many connections nobody uses.
    pub(super) fn resting_shared(&self) -> usize {
        self.sharing().open.iter().filter(|held| held.session.pulse().streams() == 0).count()
    }

    /// Closes what nobody has used for long, or is too old.
    pub(super) fn sweep_shared(&self, now: Instant) {
        let mut sharing = self.sharing();
        for index in (0..sharing.open.len()).rev() {
            let held = &sharing.open[index];
            let is_idle = held.session.pulse().streams() == 0;
            if self.limits.is_old(held.opened, now) {
                sharing.retire(index, Closed::Age);
            } else if is_idle && now.duration_since(held.since) >= self.limits.idle_timeout {
                sharing.retire(index, Closed::Idle);
            }
        }
    }

    /// Closes one that nobody uses, since another worker wants a connection.
    pub(super) fn close_one_shared(&self) {
        let mut sharing = self.sharing();
        if let Some(index) = sharing.open.iter().position(|held| held.session.pulse().streams() == 0) {
            sharing.retire(index, Closed::Surplus);
        }
    }

    /// Closes all of them as soon as their streams are over.
    pub(super) fn clear_shared(&self) {
        let mut sharing = self.sharing();
        for index in (0..sharing.open.len()).rev() {
            sharing.retire(index, Closed::Unused);
        }
    }

    fn sharing(&self) -> MutexGuard<'_, Sharing> {
        self.sharing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A place for one stream on a connection that others use too.
pub(super) struct Place {
    opening: Opening,
    visit: Visit,
    reused: bool,
}

impl Place {
    /// Whether the connection had been used before.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request.
    pub(super) fn send(self, request: Outgoing) -> Result<(InFlight, Visit), Failure> {
        Ok((self.opening.send(request, self.reused)?, self.visit))
    }
}

/// A stream in a pool's books. It is over when this is dropped.
pub(super) struct Visit {
    pool: Arc<Pool>,
    pulse: Arc<Pulse>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.pool.count().leave();
        let left = self.pulse.leave();
        let someone_waits = {
            let mut sharing = self.pool.sharing();
            if left == 0
                && let Some(held) = sharing.open.iter_mut().find(|held| Arc::ptr_eq(held.session.pulse(), &self.pulse))
            {
                held.since = Instant::now();
            }
            !sharing.waiting.is_empty()
        };
        if someone_waits {
            self.pool.serve();
        } else if left == 0 && self.pool.room.is_wanted() {
            self.pool.close_one_shared();
        }
    }
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit").field("pulse", &self.pulse).finish_non_exhaustive()
    }
}
