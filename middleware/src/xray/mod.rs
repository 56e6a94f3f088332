//! Traces requests with AWS X-Ray.
//!
//! The caller's trace header (`X-Amzn-Trace-Id`) is continued, or a trace is begun; every attempt upstream carries a
//! header of its own. Sampled requests leave one segment document, with a subsegment for each attempt, which goes to
//! the X-Ray daemon, the CloudWatch agent or an OpenTelemetry collector by UDP:
//!
//! ```toml
//! [middleware.trace]
//! type = "xray"
//! name = "edge"                               # AWS_XRAY_TRACING_NAME wins
//! daemon = "127.0.0.1:2000"                   # AWS_XRAY_DAEMON_ADDRESS wins
//! sampling = { reservoir = 1, rate = 0.05 }   # one a second for sure, and 5 % of the rest
//! annotations = { team = "orders" }
//! ```
//!
//! A client never notices: nothing here refuses, delays or changes a request or its answer, but for the header that
//! `response_header` asks for. What a caller says is believed only of [trusted proxies](crate::Client), unless `trust`
//! says otherwise: a stranger could else make us record everything, or nothing. Behind an AWS load balancer, list its
//! subnets as `trusted_proxies`.
//!
//! What is recorded of a request: method, scheme, host and path as the client asked for them (whatever rewrites them),
//! its address, `User-Agent`, and the headers that the settings name. Never a query, a cookie, credentials or a body.
//!
//! The story in order: [`header`] and [`sampling`] when a request arrives, the tracer while it runs; then the exporter's
//! task, off the request's way: [`record`], [`document`] and the daemon.

mod address;
mod counts;
mod daemon;
pub mod document;
mod exporter;
pub mod header;
pub mod ids;
mod json;
mod naming;
pub mod record;
pub mod sampling;
mod segment;
pub mod settings;
mod tracer;

use std::sync::Arc;

use crate::prelude::*;

use counts::RequestCounts;
use exporter::{Destination, Exporter, Limits};
use naming::HostPattern;
use record::Profile;
use sampling::{LocalRule, Sampler};
use segment::About;
pub use settings::XRay;
use settings::{ExporterKind, Propagation, ResponseHeader, SamplingMode, Subsegments};
use tracer::Tracer;

impl Plugin for XRay {
    const NAME: &'static str = "xray";
    const EXAMPLE: &'static str = r#"
name = "edge"
daemon = "127.0.0.1:2000"
sampling = { reservoir = 1, rate = 0.05 }
annotations = { team = "orders", tier = 1 }
annotate_headers = { tenant = "x-tenant-id" }
"#;

    fn build(self, context: &Context<'_>) -> Result<RouteLayer, BuildError> {
        let XRay { exporter, propagation, trust, response_header, subsegments, .. } = self;
        let checked = self.check(|name| std::env::var(name).ok(), context)?;

        let destination = match exporter {
            ExporterKind::Stdout => Some(Destination::Stdout),
            ExporterKind::Off => None,
            _ => Some(Destination::Daemon(checked.daemon)),
        };
        // Middlewares with one destination share a queue, those that also have one rule share a reservoir; both
        // outlive a reload.
        let whereto = destination.as_ref().map_or_else(|| "off".to_owned(), Destination::to_string);
        let sampler = match checked.sampling {
            SamplingMode::Always => Sampler::Fixed(true),
            SamplingMode::Never => Sampler::Fixed(false),
            _ => {
                let (reservoir, rate) = checked.local_rule;
                let key = format!("xray {whereto} {reservoir} {rate:?}");
                Sampler::Local(context.shared(&key, || LocalRule::new(reservoir, rate)))
            }
        };
        let exporter = destination.map(|destination| {
            let key = format!("xray {whereto} {:?}", checked.limits);
            context.shared(&key, || Exporter::new(&destination, checked.limits))
        });
        if let Some(exporter) = exporter.clone() {
            context.spawn(move |stop| exporter.run(stop));
        }

        Ok(RouteLayer::around(Tracer {
            about: Arc::new(About {
                profile: Arc::new(Profile { name: checked.name, annotations: checked.annotations }),
                dynamic_name: checked.dynamic_name,
                propagate: propagation == Propagation::Xray,
                subsegments: subsegments == Subsegments::Attempts,
            }),
            annotate_headers: checked.annotate_headers,
            metadata_headers: checked.metadata_headers,
            sampler,
            trust,
            response_header: if propagation == Propagation::None { ResponseHeader::Off } else { response_header },
            exporter,
            counts: RequestCounts::of(context.name()),
        }))
    }
}
