//! Connections that many requests share.
//!
//! They are filled in order, so that those which are not needed become idle: the first one that has room takes a request,
//! and when every one has as many streams as it should, another is opened beside them. Up to what the instance allows
//! they go on taking requests meanwhile.
//!
//! Who finds no room has a connection opened, and expects a stream on it. So do those who come meanwhile, as many as it will
//! take; the first requests to an instance open one connection together and not one each. When there may be no further
//! connection, requests wait in a [queue](super::room) that is bounded, for whatever seat or room becomes free first.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use portcullis_middleware::Cause;
use tokio::time::{Instant, timeout};

use super::connection::http2::{Driver, Opening, Pulse, STREAMS, Session};
use super::connection::stream::InFlight;
use super::connection::{Fresh, Outgoing, Speak};
use super::failure::{Failure, Fault};
use super::line::Line;
use super::pool::{Closed, Lease, Pool};
use super::room::{Claim, Closing, Permit};
use crate::proxy_protocol::Introduction;

/// How many connections to one instance a worker opens at most, and how many attempts to open one it has at a time.
const MOST: usize = 64;

/// One worker's shared connections to one instance.
pub(super) struct Sharing {
    /// Those that take streams.
    open: Vec<Held>,
    /// How many are being opened.
    opening: usize,
    /// Who has been promised a stream on those.
    expecting: Line<Granted>,
    /// Who has been promised nothing. They wait in the [queue](super::room) for all workers, and here for a seat.
    waiting: Line<Granted>,
    /// How many streams the instance took at a time when it said so last.
    room: usize,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { open: Vec::new(), opening: 0, expecting: Line::default(), waiting: Line::default(), room: STREAMS }
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
    Seat(Seat),
    /// The instance speaks HTTP/1.1, so everybody needs a connection for themselves.
    Alone,
    Failed(Failure),
    /// The connection that was expected came about, and takes fewer streams than was thought.
    Again,
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
    Shared(Seat),
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

    /// Whether a connection that is being opened will have room for one more than expect it.
    fn expects_room(&self) -> bool {
        self.expecting.len() < self.promised()
    }

    /// How many streams there will be on the connections that are being opened.
    fn promised(&self) -> usize {
        self.opening * self.room.clamp(1, STREAMS)
    }

    fn may_open(&self) -> bool {
        self.open.len() + self.opening < MOST
    }

    /// Whether somebody waits for a seat.
    fn is_awaited(&mut self) -> bool {
        self.waiting.is_awaited() || self.expecting.is_awaited()
    }

    /// Gives something to the first who waits for it; back it comes if there is nobody.
    fn grant(&mut self, granted: Granted) -> Option<Granted> {
        self.waiting.serve(granted).and_then(|granted| self.expecting.serve(granted))
    }

    /// Tells those to whom more was promised than there will be.
    fn disappoint(&mut self, granted: impl Fn() -> Granted) {
        self.expecting.dismiss(self.promised(), granted);
    }

    /// Takes a connection out of the books, which closes it when its streams are over.
    fn retire(&mut self, index: usize, reason: Closed) {
        self.open.remove(index).session.pulse().retire(reason);
    }
}

impl Pool {
    /// A stream on a connection that is open, if there is room. Opening a further one may take as long as `limit`.
    pub(super) fn enter(self: &Arc<Self>, now: Instant, limit: Duration) -> Option<Seat> {
        let mut sharing = self.sharing();
        let seat = self.admit(&mut sharing, now)?;
        if sharing.opening == 0
            && sharing.may_open()
            && sharing.is_full()
            && let Some(permit) = self.room.take()
        {
            self.widen(&mut sharing, permit, limit);
        }
        Some(seat)
    }

    /// A new connection, or a stream on one that others open or use. Opening one may take as long as `limit`.
    pub(super) async fn open(self: &Arc<Self>, speak: Speak, limit: Duration) -> Result<Way, Failure> {
        if speak == Speak::Http1 || speak == Speak::Negotiated && self.keeps_to_http1.load(Relaxed) {
            return self.open_alone(speak, limit).await;
        }
        match self.seat(limit).await? {
            Some(seat) => Ok(Way::Shared(seat)),
            None => match self.reuse(Instant::now()) {
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
            Claim::Instead(lease) => lease.make_room(),
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
            Claim::Instead(lease) => return Ok(Way::Alone(lease)),
            Claim::Room(permit) => permit,
        };
        self.first(self.connect(speak, None, limit).await?, permit)
    }

    /// A connection that was not there before, or a stream on one, as long as there may be a further one. Those that are open
    /// may be about to go as well as those that were tried.
    pub(super) async fn open_another(self: &Arc<Self>, speak: Speak, limit: Duration) -> Result<Way, Failure> {
        let permit = if self.sharing().may_open() { self.room.take() } else { None };
        match permit {
            Some(permit) => self.first(self.connect(speak, None, limit).await?, permit),
            None => self.open(speak, limit).await,
        }
    }

    /// The first use of a new connection.
    fn first(self: &Arc<Self>, fresh: Fresh, permit: Permit) -> Result<Way, Failure> {
        match fresh {
            Fresh::Http1(connection) => Ok(Way::Alone(self.begin(connection, permit))),
            Fresh::Http2(session, driver) => {
                // It may have learned that since.
                self.keeps_to_http1.store(false, Relaxed);
                let gone = Failure::new(Fault::Unsent, Cause::ResetBeforeHeaders);
                let mut sharing = self.sharing();
                self.adopt(&mut sharing, session, driver, permit);
                sharing.open.last_mut().and_then(|held| self.sit_down(held)).map(Way::Shared).ok_or(gone)
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

    /// A seat on a shared connection, for which one is opened if need be. `None` if the instance speaks HTTP/1.1.
    async fn seat(self: &Arc<Self>, limit: Duration) -> Result<Option<Seat>, Failure> {
        loop {
            let (is_promised, may_open, mut granted) = {
                let mut sharing = self.sharing();
                if let Some(seat) = self.admit(&mut sharing, Instant::now()) {
                    return Ok(Some(seat));
                }
                let may_open = sharing.may_open();
                if may_open
                    && !sharing.expects_room()
                    && let Some(permit) = self.room.take()
                {
                    self.widen(&mut sharing, permit, limit);
                }
                match sharing.expects_room() {
                    true => (true, may_open, sharing.expecting.join()),
                    false => (false, may_open, sharing.waiting.join()),
                }
            };
            let granted = match is_promised {
                true => granted.await,
                false => match self.queue(&mut granted, may_open).await? {
                    Claim::Instead(granted) => granted,
                    Claim::Room(permit) => {
                        self.widen(&mut self.sharing(), permit, limit);
                        continue;
                    }
                },
            };
            match granted {
                Ok(Granted::Seat(seat)) => return Ok(Some(seat)),
                Ok(Granted::Alone) => return Ok(None),
                Ok(Granted::Failed(failure)) => return Err(failure),
                Ok(Granted::Again) => {}
                // The one who grants is the pool itself, which this holds.
                Err(_) => return Err(Failure::new(Fault::Connect, Cause::ConnectRefused)),
            }
        }
    }

    /// A stream on a connection that is open.
    fn admit(self: &Arc<Self>, sharing: &mut Sharing, now: Instant) -> Option<Seat> {
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
            match self.sit_down(held) {
                None => sharing.retire(index, Closed::Peer),
                seat => return seat,
            }
        }
    }

    /// A stream on this connection. RFC 9113 §6.8: what comes after a GOAWAY nobody would answer.
    fn sit_down(self: &Arc<Self>, held: &mut Held) -> Option<Seat> {
        let opening = held.session.open()?;
        let reused = held.exchanges > 0;
        held.exchanges += 1;
        self.count().enter();
        if reused {
            self.count().reuse();
        }
        let visit = Visit { pool: self.clone(), pulse: opening.pulse().clone() };
        Some(Seat { opening, visit, reused })
    }

    /// Opens one more connection. A task does, so that it comes about even if who asked for it goes away.
    fn widen(self: &Arc<Self>, sharing: &mut Sharing, permit: Permit, limit: Duration) {
        sharing.opening += 1;
        let pool = self.clone();
        let speak = if self.connector.speak(false) == Speak::Negotiated { Speak::Negotiated } else { Speak::Http2 };
        tokio::spawn(async move {
            let opened = pool.connect(speak, None, limit).await.map(|fresh| match fresh {
                Fresh::Http1(connection) => Opened::Alone(pool.begin(connection, permit)),
                Fresh::Http2(session, driver) => Opened::Shared(session, driver, permit),
            });
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
                self.sharing().disappoint(|| Granted::Again);
            }
            Ok(Opened::Alone(lease)) => {
                self.keeps_to_http1.store(true, Relaxed);
                while sharing.grant(Granted::Alone).is_none() {}
                drop(sharing);
                lease.release(Instant::now());
            }
            Err(failure) => sharing.disappoint(|| Granted::Failed(failure)),
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

    /// Gives seats to those who wait, as long as there are some.
    fn serve(self: &Arc<Self>) {
        let now = Instant::now();
        let mut sharing = self.sharing();
        let mut unwanted = None;
        while unwanted.is_none()
            && sharing.is_awaited()
            && let Some(seat) = self.admit(&mut sharing, now)
        {
            unwanted = sharing.grant(Granted::Seat(seat));
        }
        // A seat that is given back takes the lock.
        drop(sharing);
        drop(unwanted);
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

    /// Closes one that nobody uses, since another worker wants a connection. Its driver gives the permit back.
    pub(super) fn close_one_shared(&self) -> Closing {
        let mut sharing = self.sharing();
        match sharing.open.iter().position(|held| held.session.pulse().streams() == 0) {
            Some(index) => {
                sharing.retire(index, Closed::Surplus);
                Closing::Soon
            }
            None => Closing::Nothing,
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

/// A seat for one stream on a connection that others use too.
pub(super) struct Seat {
    opening: Opening,
    visit: Visit,
    reused: bool,
}

impl Seat {
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
        let is_awaited = {
            let mut sharing = self.pool.sharing();
            if left == 0
                && let Some(held) = sharing.open.iter_mut().find(|held| Arc::ptr_eq(held.session.pulse(), &self.pulse))
            {
                held.since = Instant::now();
            }
            sharing.is_awaited()
        };
        if is_awaited {
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
