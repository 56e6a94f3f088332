//! PROXY protocol headers of an address' connections, and what is told of those that were refused.

use portcullis_middleware::client::Source;
use tracing::{debug, info};

use super::stream::Stream;
use super::{Manners, Peer};
use crate::lines::Lines;
use crate::proxy_protocol::{Outcome, Receiver, Said, Taken};

/// What the connections of an address begin with, on all workers.
#[derive(Debug, Default)]
pub(super) struct Preambles {
    /// What is told of those that were refused. The metrics count them all.
    lines: Lines,
}

impl Preambles {
    /// Takes the header at the begin of a connection, and notes whom it names. `false` if there is none to be believed;
    /// that is logged and counted.
    pub(super) async fn take(
        &self,
        receiver: &Receiver,
        stream: &mut Stream,
        peer: &mut Peer,
        manners: &Manners,
    ) -> bool {
        match receiver.take(stream, peer.address, manners.header).await {
            Ok(Taken { said, behind }) => {
                stream.put_back(behind);
                match said {
                    Said::Itself => {}
                    Said::Unnamed => peer.source = Source::Unnamed,
                    Said::Relayed { source, destination } => {
                        (peer.source, peer.local) = (Source::Client(source), Some(destination));
                    }
                }
                true
            }
            Err(refused) => {
                let outcome = refused.outcome();
                // Load balancers that only look whether somebody is there connect and say nothing.
                if outcome == Outcome::Closed {
                    debug!(%peer, "a connection was closed before it had a PROXY protocol header");
                } else if self.lines.one_more() {
                    info!(%peer, result = outcome.name(), reason = %refused, "a connection was refused for its PROXY protocol header");
                }
                false
            }
        }
    }
}
