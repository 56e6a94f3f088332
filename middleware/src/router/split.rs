//! `split`: services share a route's requests by weight.

use axum::response::IntoResponse;
use portcullis_config::Sticky;

use super::hash::{hash, mix};
use super::predicate::cookie_values;
use crate::layer::{Hop, Running};
use crate::{Exchange, Next, Rejection, Request};

/// One part of a split.
#[derive(Debug, Clone)]
pub struct Branch {
    /// What tells it from the others: the service's name. A sticky client stays with the name, wherever it stands.
    pub name: String,
    /// Its share, relative to the others'. 0 gets nothing.
    pub weight: u32,
    /// Its chain, with what answers at the end.
    pub answer: Next,
}

/// A hop that hands each request to one branch; `None` if all weights are 0, so that nobody could answer.
///
/// Without `sticky` every request is drawn anew. With it, requests that bring the same key get the same branch, on every
/// worker and after every restart; when weights change, only as many clients move as the change asks for. Requests that
/// bring no key are drawn anew.
pub fn split(branches: Vec<Branch>, sticky: Option<&Sticky>) -> Option<Next> {
    let branches: Vec<_> = branches.into_iter().filter(|branch| branch.weight > 0).collect();
    let total = branches.iter().map(|branch| u64::from(branch.weight)).sum();
    let sticky = sticky.filter(|sticky| !matches!(sticky, Sticky::Client(false))).cloned();
    (!branches.is_empty()).then(|| Next::new(Splitting { branches, total, sticky }))
}

struct Splitting {
    branches: Vec<Branch>,
    total: u64,
    sticky: Option<Sticky>,
}

impl Hop for Splitting {
    fn run(&self, request: Request) -> Running {
        match self.key(&request) {
            Ok(Some(key)) => self.stick(key).answer.run(request),
            Ok(None) => self.draw().answer.run(request),
            Err(rejection) => Running::ready(rejection.into_response()),
        }
    }
}

impl Splitting {
    /// The hash of what the client sticks by, if it brings that.
    fn key(&self, request: &Request) -> Result<Option<u64>, Rejection> {
        Ok(match &self.sticky {
            None | Some(Sticky::Client(false)) => None,
            Some(Sticky::Cookie(name)) => cookie_values(request.headers(), name).next().map(hash),
            Some(Sticky::Header(name)) => request.headers().get(&**name).map(|value| hash(value.as_bytes())),
            Some(Sticky::Client(true)) => {
                let client = Exchange::of(request).client()?.ip;
                Some(hash(client.to_string().as_bytes()))
            }
        })
    }

    fn draw(&self) -> &Branch {
        let mut at = fastrand::u64(..self.total);
        for branch in &self.branches {
            match at.checked_sub(u64::from(branch.weight)) {
                Some(rest) => at = rest,
                None => return branch,
            }
        }
        &self.branches[0]
    }

    /// Weighted rendezvous: each branch draws a number from the key, and the least waiting time wins.
    ///
    /// A cut of one hash into ranges would also do, but moving one border moves clients between branches whose shares
    /// did not change.
    fn stick(&self, key: u64) -> &Branch {
        let wait = |branch: &Branch| {
            let drawn = mix(key ^ hash(branch.name.as_bytes()));
            let uniform = ((drawn >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            -uniform.ln() / f64::from(branch.weight)
        };
        let least = self.branches.iter().min_by(|one, other| wait(one).total_cmp(&wait(other)));
        least.unwrap_or(&self.branches[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Response;
    use crate::layer::hop;
    use crate::testing::request;
    use axum::body::Body;
    use std::collections::HashMap;

    fn branch(name: &'static str, weight: u32) -> Branch {
        let answer = hop(move |_| Running::ready(Response::new(Body::from(name))));
        Branch { name: name.to_owned(), weight, answer }
    }

    fn splitting(weights: &[(&'static str, u32)], sticky: Option<Sticky>) -> Splitting {
        let branches: Vec<_> = weights.iter().map(|(name, weight)| branch(name, *weight)).collect();
        let total = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        Splitting { branches, total, sticky }
    }

    #[test]
    fn weights_are_shares() {
        fastrand::seed(7);
        let split = splitting(&[("a", 95), ("b", 5)], None);
        let mut counts = HashMap::new();
        for _ in 0..20_000 {
            *counts.entry(split.draw().name.clone()).or_insert(0) += 1;
        }
        assert!((18_800..19_200).contains(&counts["a"]), "{counts:?}");
    }

    #[test]
    fn a_weight_of_0_gets_nothing_and_only_zeros_are_no_split() {
        assert!(split(vec![branch("a", 0)], None).is_none());
        assert!(split(vec![branch("a", 0), branch("b", 1)], None).is_some());
    }

    #[test]
    fn the_same_key_gets_the_same_branch_and_keys_are_shared_by_weight() {
        let split = splitting(&[("a", 3), ("b", 1)], None);
        let keys: Vec<u64> = (0..10_000u32).map(|key| hash(&key.to_le_bytes())).collect();
        let of_a = keys.iter().filter(|key| split.stick(**key).name == "a").count();
        assert!((7_300..7_700).contains(&of_a), "{of_a}");
        let reordered = splitting(&[("b", 1), ("a", 3)], None);
        assert!(keys.iter().all(|key| split.stick(*key).name == reordered.stick(*key).name));
    }

    #[test]
    fn a_change_of_weights_moves_only_those_it_must() {
        let before = splitting(&[("a", 90), ("b", 10)], None);
        let after = splitting(&[("a", 80), ("b", 20)], None);
        let keys: Vec<u64> = (0..10_000u32).map(|key| hash(&key.to_le_bytes())).collect();
        assert!(keys.iter().all(|key| before.stick(*key).name == "a" || after.stick(*key).name == "b"));
    }

    #[test]
    fn a_client_sticks_by_its_cookie_and_is_drawn_without_one() {
        let split = splitting(&[("a", 1), ("b", 1)], Some(Sticky::Cookie("who".into())));
        let mut asked = request("GET", "/");
        assert_eq!(split.key(&asked).expect("decided"), None);
        asked.headers_mut().insert("cookie", "x=1; who=me".parse().expect("a header"));
        assert_eq!(split.key(&asked).expect("decided"), Some(hash(b"me")));
    }

    #[test]
    fn a_client_nobody_knows_is_refused_where_the_address_decides() {
        let split = splitting(&[("a", 1)], Some(Sticky::Client(true)));
        assert!(split.key(&request("GET", "/")).is_err());
    }
}
