//! What a gateway holds in memory for connections that rest and for bodies that pass, by the byte.
//!
//! Counted is what the thread that serves asks the allocator for and does not give back. Clients and instances are on
//! another thread, and cost nothing here.

mod bodies;
mod resting;
mod unread;

#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;

use allocation_counter::{AllocationInfo, measure};
use support::Fake;
use support::gateway::Running;
use tokio::runtime::{Builder, Runtime};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Clocks that do not ring in the middle of a measurement.
const PATIENT: &str = "timeouts = { idle = \"10m\", ping = \"10m\", header = \"10m\" }\n";

/// A gateway whose memory is counted, and a thread for all who have to do with it.
struct Weighed {
    address: SocketAddr,
    runtime: Runtime,
    others: Runtime,
    _gateway: Running,
}

impl Weighed {
    /// A gateway that answers by itself.
    fn answering() -> Self {
        Self::with(others(), "", "[[route]]\nrespond = {}\n")
    }

    /// One in front of an instance, and the instance. `service` are its settings.
    fn before_an_instance(service: &str) -> (Self, Fake) {
        let others = others();
        let instance = others.block_on(Fake::new());
        let service = format!("[service.a]\ninstances = [\"{}\"]\n{service}\n", instance.address);
        (Self::with(others, "", &format!("{service}[[route]]\nservice = \"a\"\n")), instance)
    }

    /// One with these settings of its listener, and what follows them.
    fn with(others: Runtime, listener: &str, rest: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let head = "access_log = { output = \"off\" }\n[admin]\naddress = \"127.0.0.1:0\"\n";
        let text = format!("{head}[listener.web]\naddress = \"127.0.0.1:0\"\n{PATIENT}{listener}\n{rest}");
        let gateway = runtime.block_on(Running::start_whole(&text));
        Self { address: gateway.address, runtime, others, _gateway: gateway }
    }

    /// Serves while somebody does something. Returns what that comes to, and what the gateway has asked for meanwhile:
    /// how much of it it still has, and the most that it had at once.
    fn during<T: Send + 'static>(&self, done: impl Future<Output = T> + Send + 'static) -> (T, AllocationInfo) {
        let (mut task, mut result) = (self.others.spawn(done), None);
        let weight = measure(|| result = Some(self.runtime.block_on(&mut task)));
        (result.unwrap().expect("clients and instances do as they should"), weight)
    }
}

/// For clients and instances.
fn others() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// How much of it is still there for each of so many.
fn each(weight: &AllocationInfo, count: usize) -> usize {
    usize::try_from(weight.bytes_current).unwrap_or(0) / count
}
