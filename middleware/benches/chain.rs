//! What a hop of a chain costs, in time and in allocations: a guard none, an around one, linear from 1 to 16 hops.
//!
//! `cargo bench -p portcullis-middleware --bench chain`

use divan::{AllocProfiler, Bencher};
use futures_util::FutureExt;
use portcullis_middleware::layer::{Running, fold, hop};
use portcullis_middleware::prelude::*;
use portcullis_middleware::testing::request;
use tower::layer::util::Identity;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const HOPS: [usize; 6] = [0, 1, 2, 4, 8, 16];

fn main() {
    divan::main();
}

struct Pass;

impl Guard for Pass {
    fn check(&self, _: &mut Request) -> Result<(), Rejection> {
        Ok(())
    }
}

impl Around for Pass {
    async fn handle(&self, request: Request, next: Next) -> Response {
        next.run(request).await
    }
}

/// One request through so many hops, to an end that answers at once with an empty body (one allocation).
fn run(bencher: Bencher<'_, '_>, hops: usize, layer: impl Fn() -> RouteLayer) {
    let layers: Vec<_> = (0..hops).map(|_| layer()).collect();
    let chain = fold(layers.iter(), hop(|_| Running::ready(Response::default())));
    bencher.with_inputs(|| request("GET", "/orders/7")).bench_local_values(|request| chain.run(request).now_or_never());
}

#[divan::bench(args = HOPS)]
fn guards(bencher: Bencher<'_, '_>, hops: usize) {
    run(bencher, hops, || RouteLayer::guard(Pass));
}

#[divan::bench(args = HOPS)]
fn arounds(bencher: Bencher<'_, '_>, hops: usize) {
    run(bencher, hops, || RouteLayer::around(Pass));
}

/// A foreign layer that does nothing itself: what being foreign costs.
#[divan::bench(args = HOPS)]
fn tower_layers(bencher: Bencher<'_, '_>, hops: usize) {
    run(bencher, hops, || RouteLayer::tower(Identity::new()));
}
