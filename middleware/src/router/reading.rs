//! One route, however the path is read.
//!
//! What is here concerns the few requests whose path [was anything](Arrived) when it came: the listener's policy said how
//! it is compared, the route that wins says what of it goes on, and whoever reads that in another way must find the same
//! route. Otherwise a request could be for a route without a guard here, and for one behind a guard there.

use super::Table;
use super::table::Hit;
use crate::paths::{self, Arrived, Refusal, Trait};
use crate::{Cause, Exchange, Rejection, Request};

impl Table {
    /// The route that takes a request, whose path becomes what that route wants to see of it.
    pub fn take(&self, request: &mut Request) -> Result<Hit<'_>, Rejection> {
        match request.extensions().get::<Arrived>() {
            None => Ok(self.find(request)?),
            Some(&arrived) => self.take_carefully(request, arrived),
        }
    }

    #[cold]
    fn take_carefully(&self, request: &mut Request, arrived: Arrived) -> Result<Hit<'_>, Rejection> {
        let found = self.find(request);
        let own = found.as_ref().map(|hit| self.paths_of(hit.entry)).unwrap_or_default();
        let sent = sent(request, arrived);
        let settled = paths::settle(&sent, arrived.policy.with(own)).map_err(|refusal| refusal.rejection(&sent))?;
        let hit = found?;
        let changed = settled.path != request.uri().path();
        let readings = if settled.traits.has(Trait::Doubtful) { paths::readings(&settled.path) } else { Vec::new() };
        let forwarded = changed.then_some(&*settled.path);
        for path in forwarded.into_iter().chain(readings.iter().map(String::as_str)) {
            let same = self.entry_as(request, path).is_ok_and(|other| std::ptr::eq(other, hit.entry));
            if !same {
                let note = format!(
                    "some read it as `{}`, which is not for route `{}`",
                    path.escape_default(),
                    hit.entry.info.name
                );
                return Err(Rejection::new(Cause::PathRejected)
                    .detail("the path can be read in another way")
                    .note(note));
            }
        }
        if !changed {
            return Ok(hit);
        }
        let refused = |refusal: Refusal| refusal.rejection(&settled.path);
        paths::replace(request, &settled.path).map_err(refused)?;
        Ok(self.find(request)?)
    }
}

/// The path as it was sent, unless somebody has changed it since.
fn sent(request: &Request, arrived: Arrived) -> String {
    let exchange = Exchange::of(request);
    let (sent, path) = (exchange.target().path(), request.uri().path());
    let unchanged = paths::settle(sent, arrived.by).is_ok_and(|settled| settled.path == path);
    if unchanged { sent } else { path }.to_owned()
}
