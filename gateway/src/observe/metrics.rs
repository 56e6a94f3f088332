//! The numbers as Prometheus reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use portcullis_middleware::metrics::{self, Kind, Value};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::numbers::{BUCKETS, PROTOCOLS, Series, Totals};
use super::{Config, Observer, line, process};
use crate::plan::Plan;
use crate::proxy::{Closed, Counts};
use crate::proxy_protocol::Outcome;
use crate::registry::Stats;
use crate::tls::{Expiry, Handshake};

/// What a scrape is called by HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything counted so far, as text.
pub(super) fn render(observer: &Observer, plan: &Plan) -> String {
    let now = SystemTime::now();
    let doors = plan.doors().filter_map(|door| door.tls.as_ref());
    let scrape = Scrape {
        totals: observer.numbers.totals(),
        in_flight: observer.numbers.in_flight(),
        clients: observer.crew.get().map(|crew| crew.connections().collect()).unwrap_or_default(),
        connections: observer.pools.counts(),
        registries: plan.registries().iter().map(|live| (live.name().to_owned(), live.stats())).collect(),
        handshakes: observer.handshakes.read().collect(),
        headers: observer.headers.read().collect(),
        certificates: doors
            .flat_map(|tls| tls.expiries())
            .map(|expiry| (until(expiry.not_after, now), expiry))
            .collect(),
        dropped: observer.sink.dropped.load(Relaxed),
        config: (**observer.config.load()).clone(),
        started: observer.started,
        plugins: metrics::snapshot(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing to a string does not fail");
    text
}

/// All numbers at one moment.
struct Scrape {
    totals: Totals,
    in_flight: u64,
    /// Connections from clients, by worker.
    clients: Vec<usize>,
    connections: Vec<(Arc<str>, Counts)>,
    registries: Vec<(String, Stats)>,
    handshakes: Vec<(Handshake, u64)>,
    /// Of the PROXY protocol.
    headers: Vec<(Outcome, u64)>,
    /// With the seconds that each has left.
    certificates: Vec<(f64, Expiry)>,
    dropped: u64,
    config: Config,
    started: SystemTime,
    plugins: metrics::Snapshot,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.requests(&mut page)?;
        self.upstreams(&mut page)?;
        self.registries(&mut page)?;
        self.tls(&mut page)?;
        self.proxy_protocol(&mut page)?;
        self.gateway(&mut page)?;
        self.middlewares(&mut page)
    }
}

impl Scrape {
    fn requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut requests = page.family(
            "portcullis_requests",
            "Requests answered, by the route that won and how it ended",
            MetricType::Counter,
        )?;
        for ([listener, route, service], series) in self.totals.series() {
            let mut answers = series.requests.clone();
            answers.sort_unstable_by_key(|(answered, _)| *answered);
            for (answered, number) in answers {
                let names = [("listener", listener), ("route", route), ("service", service)];
                requests.counter(&(names, answered.labels()), number)?;
            }
        }
        let mut versions = page.family(
            "portcullis_requests_by_protocol",
            "Requests answered, by the version of HTTP that their clients spoke",
            MetricType::Counter,
        )?;
        for (version, number) in PROTOCOLS.into_iter().zip(self.totals.protocols) {
            versions.counter(&[("protocol", line::protocol(version))], number)?;
        }
        page.gauge("portcullis_requests_in_flight", "Requests that are not over yet", self.in_flight as i64)?;
        let mut clients =
            page.family("portcullis_connections", "Connections from clients, by worker", MetricType::Gauge)?;
        for (worker, count) in self.clients.iter().enumerate() {
            clients.gauge(&[("worker", worker.to_string())], *count)?;
        }

        // A route's time does not depend on the door it came through.
        let mut routes: BTreeMap<[&str; 2], Series> = BTreeMap::new();
        for ([_, route, service], series) in self.totals.series() {
            routes.entry([route, service]).or_default().add(series);
        }
        let mut durations = page.family(
            "portcullis_request_duration_seconds",
            "Time from a request's arrival to the end of its answer",
            MetricType::Histogram,
        )?;
        for ([route, service], series) in &routes {
            let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(series.buckets).collect();
            let count = series.buckets.iter().sum();
            let labels = [("route", *route), ("service", *service)];
            durations.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                series.time.as_secs_f64(),
                count,
                &buckets,
                None,
            )?;
        }
        let mut bytes = page.family("portcullis_body_bytes", "Bytes of bodies", MetricType::Counter)?;
        for ([route, service], series) in &routes {
            for (direction, count) in [("in", series.bytes_in), ("out", series.bytes_out)] {
                bytes.counter(&[("route", *route), ("service", *service), ("direction", direction)], count)?;
            }
        }
        page.counter(
            "portcullis_metrics_overflow",
            "Requests and attempts counted as `other` because there were too many names",
            self.totals.overflow(),
        )
    }

    fn upstreams(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut attempts =
            page.family("portcullis_attempts", "Attempts to send a request to an instance", MetricType::Counter)?;
        for (service, mut outcomes) in self.totals.attempts() {
            outcomes.sort_unstable_by_key(|(outcome, _)| *outcome);
            for (outcome, number) in outcomes {
                attempts.counter(&[("service", service), ("outcome", &outcome.label())], number)?;
            }
        }
        let mut open = page.family("portcullis_upstream_connections", "Connections to instances", MetricType::Gauge)?;
        for (service, counts) in &self.connections {
            for (state, count) in [("active", counts.open - counts.idle), ("idle", counts.idle)] {
                open.gauge(&[("service", &**service), ("state", state)], count)?;
            }
        }
        let mut streams = page.family(
            "portcullis_upstream_streams",
            "Streams open on connections to instances that requests share (HTTP/2)",
            MetricType::Gauge,
        )?;
        for (service, counts) in &self.connections {
            streams.gauge(&[("service", &**service)], counts.streams)?;
        }
        let mut tunnels = page.family("portcullis_tunnels", "Upgraded connections that are open", MetricType::Gauge)?;
        for (service, counts) in &self.connections {
            tunnels.gauge(&[("service", &**service)], counts.tunnels)?;
        }
        let mut waiting = page.family(
            "portcullis_upstream_waiting",
            "Requests that wait for a connection to an instance",
            MetricType::Gauge,
        )?;
        for (service, counts) in &self.connections {
            waiting.gauge(&[("service", &**service)], counts.waiting)?;
        }
        let mut refused = page.family(
            "portcullis_upstream_refused",
            "Attempts given up because there was no connection in time, or too many waited",
            MetricType::Counter,
        )?;
        for (service, counts) in &self.connections {
            refused.counter(&[("service", &**service)], counts.refused)?;
        }
        let mut created =
            page.family("portcullis_upstream_connections_created", "Connections opened", MetricType::Counter)?;
        for (service, counts) in &self.connections {
            created.counter(&[("service", &**service)], counts.created)?;
        }
        let mut reused = page.family(
            "portcullis_upstream_connections_reused",
            "Attempts over a connection that was open",
            MetricType::Counter,
        )?;
        for (service, counts) in &self.connections {
            reused.counter(&[("service", &**service)], counts.reused)?;
        }
        let mut closed =
            page.family("portcullis_upstream_connections_closed", "Connections closed, and why", MetricType::Counter)?;
        for (service, counts) in &self.connections {
            for reason in Closed::ALL {
                let labels = [("service", &**service), ("reason", reason.name())];
                closed.counter(&labels, counts.closed[reason as usize])?;
            }
        }
        Ok(())
    }

    fn registries(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut stale = page.family(
            "portcullis_registry_stale_seconds",
            "Age of the oldest answer that a failing watch still stands on; 0 if none fails",
            MetricType::Gauge,
        )?;
        for (name, stats) in &self.registries {
            stale.gauge(&[("registry", name)], stats.stale.as_secs_f64())?;
        }
        let mut services =
            page.family("portcullis_registry_services", "Services that are followed", MetricType::Gauge)?;
        for (name, stats) in &self.registries {
            services.gauge(&[("registry", name)], stats.services as i64)?;
        }
        let mut failing =
            page.family("portcullis_registry_watches_failing", "Watches that fail now", MetricType::Gauge)?;
        for (name, stats) in &self.registries {
            failing.gauge(&[("registry", name)], stats.failing as i64)?;
        }
        let mut dropped = page.family(
            "portcullis_registry_services_dropped",
            "Requests for a service that could not be followed because there were too many",
            MetricType::Counter,
        )?;
        for (name, stats) in &self.registries {
            dropped.counter(&[("registry", name)], stats.dropped)?;
        }
        Ok(())
    }

    /// Nothing, where nobody speaks TLS.
    fn tls(&self, page: &mut Page<'_>) -> fmt::Result {
        if self.certificates.is_empty() && self.handshakes.iter().all(|(_, count)| *count == 0) {
            return Ok(());
        }
        let mut handshakes = page.family(
            "portcullis_tls_handshakes",
            "TLS handshakes with clients, by how they ended",
            MetricType::Counter,
        )?;
        for (result, count) in &self.handshakes {
            handshakes.counter(&[("result", result.name())], *count)?;
        }
        let mut certificates = page.family(
            "portcullis_tls_certificate_expires_in_seconds",
            "How long a listener's certificate is still good for; negative once it has expired",
            MetricType::Gauge,
        )?;
        for (seconds, Expiry { listener, file, .. }) in &self.certificates {
            certificates.gauge(&[("listener", &**listener), ("certificate", file.as_str())], *seconds)?;
        }
        Ok(())
    }

    /// Nothing, where no connection begins with a header.
    fn proxy_protocol(&self, page: &mut Page<'_>) -> fmt::Result {
        if self.headers.iter().all(|(_, count)| *count == 0) {
            return Ok(());
        }
        let mut headers = page.family(
            "portcullis_proxy_protocol_headers",
            "PROXY protocol headers of clients' connections, by what became of them",
            MetricType::Counter,
        )?;
        for (outcome, count) in &self.headers {
            headers.counter(&[("result", outcome.name())], *count)?;
        }
        Ok(())
    }

    fn gateway(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter("portcullis_access_log_dropped", "Lines of the access log that were lost", self.dropped)?;
        let mut reloads =
            page.family("portcullis_config_reloads", "Reloads, and what became of them", MetricType::Counter)?;
        for (result, count) in [("accepted", self.config.accepted), ("refused", self.config.refused)] {
            reloads.counter(&[("result", result)], count)?;
        }
        page.family("portcullis_config", "The configuration in force", MetricType::Info)?
            .info(&[("hash", self.config.hash.as_str())])?;
        page.gauge(
            "portcullis_config_live_timestamp_seconds",
            "When the configuration in force went live",
            epoch(self.config.since),
        )?;
        page.family("portcullis_build", "This build", MetricType::Info)?
            .info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        page.gauge("process_start_time_seconds", "When the process started", epoch(self.started))?;
        let Some(process) = process::read() else { return Ok(()) };
        page.gauge("process_resident_memory_bytes", "Memory that is resident", process.resident as i64)?;
        page.gauge("process_open_fds", "File descriptors that are open", process.descriptors as i64)
    }

    fn middlewares(&self, page: &mut Page<'_>) -> fmt::Result {
        for family in &self.plugins.families {
            let name = format!("portcullis_{}", family.name);
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            // The exposition adds to a counter's name what the convention wants there.
            let name = if family.kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(&name) } else { &name };
            let mut numbers = page.family(name, family.help.trim_end_matches('.'), kind)?;
            for series in &family.series {
                match series.value {
                    Value::Counter(count) => numbers.counter(&series.labels, count)?,
                    Value::Gauge(value) => numbers.gauge(&series.labels, value)?,
                }
            }
        }
        page.counter(
            "portcullis_middleware_series_dropped",
            "Numbers of middlewares that are not here because there are too many",
            self.plugins.dropped,
        )
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

fn epoch(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// The seconds until a moment; negative once it is past.
fn until(moment: SystemTime, now: SystemTime) -> f64 {
    match moment.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(past) => -past.duration().as_secs_f64(),
    }
}

/// A page of metrics being written.
struct Page<'a>(DescriptorEncoder<'a>);

/// The numbers of one name.
struct Family<'a>(MetricEncoder<'a>);

impl Page<'_> {
    fn family<'s>(&'s mut self, name: &'s str, help: &str, kind: MetricType) -> Result<Family<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind).map(Family)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter)?.0.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.family(name, help, MetricType::Gauge)?.0.encode_gauge(&value)
    }
}

impl Family<'_> {
    fn counter(&mut self, labels: &impl EncodeLabelSet, value: impl EncodeCounterValue) -> fmt::Result {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(&mut self, labels: &impl EncodeLabelSet, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    fn info(&mut self, labels: &impl EncodeLabelSet) -> fmt::Result {
        self.0.encode_info(labels)
    }
}
