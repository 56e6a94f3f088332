//! Sessions that go on where they ended: tickets that every worker, listener and plan of this process can read.
//!
//! A ticket holds the whole session, encrypted with keys that change every six hours, so nothing is remembered here.
//! It is good only for the [terms](super::terms) it was given under: a session that began where no client certificate
//! is asked for must not go on where one is. And it is good only as long as the certificate that its client presented
//! when the session began. A client cannot know that its ticket is good no more: it is shaken hands with in full, and so can
//! say again who it is.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets};

use super::terms::Tag;

/// The end of who is nobody: never.
const NEVER: u64 = u64::MAX;

tokio::task_local! {
    /// Until when the client may be taken for who it is, in the handshake that this task is in; in seconds since 1970.
    /// rustls has certificates verified in one place and tickets made in another, and tells neither which connection it
    /// is about.
    static END: Cell<u64>;
}

/// Does a handshake. Outside of one, tickets are neither given nor taken.
pub(super) async fn of_one_handshake<F: Future>(handshake: F) -> F::Output {
    END.scope(Cell::new(NEVER), handshake).await
}

/// The tickets of the handshake that this task is in are good until then.
pub(super) fn end_at(end: SystemTime) {
    // Outside of a handshake there are none.
    let _ = END.try_with(|cell| cell.set(seconds(end)));
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The process's keys for tickets. Cloning shares them.
///
/// They are made when the first listener wants them: the first randomness takes the library 40 milliseconds, which is most of
/// what a command takes for a small file.
#[derive(Clone)]
pub struct Tickets(Arc<LazyLock<Option<Arc<dyn ProducesTickets>>>>);

impl Default for Tickets {
    fn default() -> Self {
        Self(Arc::new(LazyLock::new(|| {
            let keys = Ticketer::new();
            if let Err(error) = &keys {
                // Without randomness there are no handshakes either; whoever tries one will hear of it.
                tracing::error!(%error, "cannot make keys for session tickets; every handshake will be a full one");
            }
            keys.ok()
        })))
    }
}

impl Tickets {
    /// Tickets that are good under these terms only.
    pub(super) fn under(&self, tag: Tag) -> Option<Arc<dyn ProducesTickets>> {
        let keys = LazyLock::force(&self.0).clone()?;
        Some(Arc::new(UnderTerms { keys, tag }))
    }

    /// Nothing is remembered on this side.
    pub(super) fn storage() -> Arc<NoServerSessionStorage> {
        Arc::new(NoServerSessionStorage {})
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

#[derive(Debug)]
struct UnderTerms {
    keys: Arc<dyn ProducesTickets>,
    tag: Tag,
}

impl ProducesTickets for UnderTerms {
    fn enabled(&self) -> bool {
        self.keys.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.keys.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let end = END.try_with(Cell::get).ok()?;
        self.keys.encrypt(&[self.tag.as_ref(), &end.to_be_bytes(), plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.keys.decrypt(cipher)?;
        let (end, session) = plain.strip_prefix(self.tag.as_ref())?.split_first_chunk()?;
        let end = u64::from_be_bytes(*end);
        if seconds(SystemTime::now()) >= end {
            return None;
        }
        // What is given to who goes on with it ends no later.
        END.try_with(|cell| cell.set(end)).ok()?;
        Some(session.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_ticket_is_good_under_its_terms_only() {
        let tickets = Tickets::default();
        let (open, guarded) = (Tag::of(&[b"open"]), Tag::of(&[b"guarded"]));
        let under = |tag| tickets.under(tag).expect("there are keys");
        of_one_handshake(async {
            let ticket = under(open).encrypt(b"session").expect("a ticket");
            assert_eq!(
                under(open).decrypt(&ticket).as_deref(),
                Some(&b"session"[..]),
                "also by another worker or plan"
            );
            assert_eq!(under(guarded).decrypt(&ticket), None);
            let other = Tickets::default().under(open).expect("there are keys");
            assert_eq!(other.decrypt(&ticket), None, "another process has other keys");
            for end in 0..ticket.len() {
                assert_eq!(under(open).decrypt(&ticket[..end]), None, "cut at {end}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_ticket_is_good_no_longer_than_who_got_it() {
        let under = Tickets::default().under(Tag::of(&[b"guarded"])).expect("there are keys");
        let until = async |end| {
            of_one_handshake(async {
                end_at(end);
                under.encrypt(b"session").expect("a ticket")
            })
            .await
        };
        let now = SystemTime::now();
        let (good, late) = (until(now + Duration::from_secs(60)).await, until(now - Duration::from_secs(1)).await);
        of_one_handshake(async {
            assert_eq!(under.decrypt(&late), None);
            assert_eq!(under.decrypt(&good).as_deref(), Some(&b"session"[..]));
            assert_eq!(END.with(Cell::get), seconds(now) + 60, "the next ticket ends with the first");
        })
        .await;
        assert_eq!((under.encrypt(b"session"), under.decrypt(&good)), (None, None), "nobody is shaken hands with here");
    }
}
