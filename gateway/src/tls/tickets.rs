//! Sessions that go on where they ended: tickets that every worker, listener and plan of this process can read.
//!
//! A ticket holds the whole session, encrypted with keys that change every six hours, so nothing is remembered here.
//! It is good only for the [terms](super::terms) it was given under: a session that began where no client certificate
//! is asked for must not go on where one is.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets};

use super::terms::Tag;

/// The process's keys for tickets. Cloning shares them.
#[derive(Clone)]
pub struct Tickets(Option<Arc<dyn ProducesTickets>>);

impl Default for Tickets {
    fn default() -> Self {
        let keys = Ticketer::new();
        if let Err(error) = &keys {
            // Without randomness there are no handshakes either; whoever tries one will hear of it.
            tracing::error!(%error, "cannot make keys for session tickets; every handshake will be a full one");
        }
        Self(keys.ok())
    }
}

impl Tickets {
    /// Tickets that are good under these terms only.
    pub(super) fn under(&self, tag: Tag) -> Option<Arc<dyn ProducesTickets>> {
        let keys = self.0.clone()?;
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
        self.keys.encrypt(&[self.tag.as_ref(), plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.keys.decrypt(cipher)?;
        plain.strip_prefix(self.tag.as_ref()).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_under_its_terms_only() {
        let tickets = Tickets::default();
        let (open, guarded) = (Tag::of(&[b"open"]), Tag::of(&[b"guarded"]));
        let under = |tag| tickets.under(tag).expect("there are keys");
        let ticket = under(open).encrypt(b"session").expect("a ticket");
        assert_eq!(under(open).decrypt(&ticket).as_deref(), Some(&b"session"[..]), "also by another worker or plan");
        assert_eq!(under(guarded).decrypt(&ticket), None);
        let other = Tickets::default().under(open).expect("there are keys");
        assert_eq!(other.decrypt(&ticket), None, "another process has other keys");
        for end in 0..ticket.len() {
            assert_eq!(under(open).decrypt(&ticket[..end]), None, "cut at {end}");
        }
    }
}
