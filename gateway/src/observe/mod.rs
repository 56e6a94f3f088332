//! What is remembered of every request: one line in the access log, and numbers for Prometheus.
//!
//! The edge begins a [`Watch`] when a request arrives and hands it the answer. The watch ends with the last byte of the
//! answer, or when it breaks, or when the client goes away; then it is logged and counted, exactly once.
//!
//! Counting takes no lock that another worker wants: every worker has numbers of its own, and a scrape adds them up.

mod access_log;
mod line;
mod metrics;
mod numbers;
mod process;
mod watch;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use portcullis_config::AccessLogOutput;
use portcullis_middleware::{Exchange, Request};

pub use metrics::CONTENT_TYPE;
pub use watch::{Watch, Watched};

use access_log::AccessLog;
use numbers::Numbers;

use crate::plan::Plan;
use crate::proxy::Pools;
use crate::unavailable::Unavailable;
use crate::workers::Crew;
use crate::{proxy_protocol, tls};

/// How long the last lines of the access log may take to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// Remembers requests. There is one per gateway, for all plans.
#[derive(Debug)]
pub struct Observer {
    sink: Arc<Sink>,
    numbers: Numbers,
    crew: OnceLock<Arc<Crew>>,
    pools: Arc<Pools>,
    handshakes: Arc<tls::Counts>,
    headers: Arc<proxy_protocol::Counts>,
    started: SystemTime,
    config: ArcSwap<Config>,
}

/// Where lines go; shared by everything that still has one to write.
#[derive(Debug, Default)]
struct Sink {
    log: ArcSwapOption<AccessLog>,
    dropped: Arc<access_log::Dropped>,
}

/// What is known about the configuration in force.
#[derive(Debug, Clone)]
struct Config {
    hash: String,
    since: SystemTime,
    accepted: u64,
    refused: u64,
}

impl Observer {
    /// Remembers requests, and tells what these pools, handshakes and PROXY protocol headers do. Writes no access log before it [follows](Observer::follow) a plan.
    pub fn new(pools: Arc<Pools>, handshakes: Arc<tls::Counts>, headers: Arc<proxy_protocol::Counts>) -> Self {
        let sink = Arc::new(Sink::default());
        let started = SystemTime::now();
        let config = Config { hash: String::new(), since: started, accepted: 0, refused: 0 };
        Self {
            numbers: Numbers::new(sink.clone()),
            crew: OnceLock::new(),
            sink,
            pools,
            handshakes,
            headers,
            started,
            config: ArcSwap::from_pointee(config),
        }
    }

    /// A plan goes live: from now on the access log goes where it says.
    ///
    /// What was there before is finished and closed. If a file cannot be opened, nothing changes.
    pub fn follow(&self, plan: &Plan) -> Result<(), Unavailable> {
        let output = plan.access_log().output;
        self.log_to(&output).map_err(|error| Unavailable::access_log(&output, error))?;
        self.config.rcu(|config| Config { hash: plan.file_hash(), since: SystemTime::now(), ..(**config).clone() });
        Ok(())
    }

    /// Tells of the connections of these workers.
    pub(crate) fn tell_of(&self, crew: Arc<Crew>) {
        // A gateway has one crew in its life.
        let _ = self.crew.set(crew);
    }

    fn log_to(&self, output: &AccessLogOutput) -> io::Result<()> {
        let current = self.sink.log.load();
        if current.as_ref().map_or(*output == AccessLogOutput::Off, |log| log.output() == output) {
            return Ok(());
        }
        let log = match output {
            AccessLogOutput::Off => None,
            output => Some(Arc::new(AccessLog::open(output, self.sink.dropped.clone())?)),
        };
        self.sink.log.store(log);
        Ok(())
    }

    /// Opens the access log's file again, which somebody may have moved away.
    pub fn reopen(&self) {
        if let Some(log) = self.sink.log.load_full() {
            log.reopen();
        }
    }

    /// Waits until every line so far is written, but not for ever.
    pub async fn flush(&self) {
        if let Some(log) = self.sink.log.load_full() {
            // A writer that hangs must not keep the gateway from stopping.
            let _ = tokio::task::spawn_blocking(move || log.flush(FLUSH)).await;
        }
    }

    /// A reload was accepted or refused.
    pub fn note_reload(&self, accepted: bool) {
        self.config.rcu(|config| {
            let mut config = (**config).clone();
            if accepted {
                config.accepted += 1
            } else {
                config.refused += 1
            }
            config
        });
    }

    /// Begins to watch a request. The body of `request` is counted as it is read.
    pub fn begin(&self, exchange: &Exchange, request: &mut Request) -> Watch {
        Watch::begin(self.numbers.of_this_worker(), exchange, request)
    }

    /// Everything counted so far, as Prometheus reads it; the answer's content type is [`CONTENT_TYPE`].
    pub fn render(&self, plan: &Plan) -> String {
        metrics::render(self, plan)
    }
}
