//! What tracing counts: decisions, bad headers, and what became of the documents.

use std::array;
use std::sync::Arc;

use crate::metrics::{self, Counter, Gauge};

use super::header::BadHeader;
use super::sampling::{Decision, Source};

/// What one middleware counts about requests.
#[derive(Debug)]
pub(super) struct RequestCounts {
    /// By source, then by decision (`[not sampled, sampled]`).
    decisions: [[Arc<Counter>; 2]; Source::ALL.len()],
    bad_headers: [Arc<Counter>; BadHeader::ALL.len()],
}

impl RequestCounts {
    /// The counters of the middleware that the file calls so.
    pub(super) fn of(middleware: &str) -> Self {
        Self {
            decisions: Source::ALL.map(|source| {
                ["not_sampled", "sampled"].map(|decision| {
                    let labels = [("middleware", middleware), ("decision", decision), ("source", source.name())];
                    metrics::counter("xray_requests_total", "Requests by who decided whether to record them.", &labels)
                })
            }),
            bad_headers: BadHeader::ALL.map(|reason| {
                let labels = [("middleware", middleware), ("reason", reason.name())];
                metrics::counter("xray_bad_header_total", "Faults in trace headers that callers sent.", &labels)
            }),
        }
    }

    /// Counts a decision.
    pub(super) fn decided(&self, decision: Decision) {
        self.decisions[decision.source as usize][usize::from(decision.sampled)].increment();
    }

    /// Counts a fault in a caller's header.
    pub(super) fn bad_header(&self, reason: BadHeader) {
        self.bad_headers[reason as usize].increment();
    }
}

/// Why a document was not handed over; the reasons of `xray_documents_total{result="dropped"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Loss {
    /// The queue was full, in documents or in bytes.
    QueueFull,
    /// Not even its smallest form fits into a datagram.
    TooLarge,
    /// Nobody listens at the daemon's address, or its name does not resolve.
    DaemonRefused,
    /// The socket, or standard output, would not take it.
    SendError,
    /// The gateway stopped before it could be sent.
    Shutdown,
}

impl Loss {
    /// Every reason there is.
    pub(super) const ALL: [Loss; 5] =
        [Loss::QueueFull, Loss::TooLarge, Loss::DaemonRefused, Loss::SendError, Loss::Shutdown];

    /// Its name in metrics and logs.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Loss::QueueFull => "queue_full",
            Loss::TooLarge => "too_large",
            Loss::DaemonRefused => "daemon_refused",
            Loss::SendError => "send_error",
            Loss::Shutdown => "shutdown",
        }
    }
}

/// What one exporter counts about documents.
#[derive(Debug)]
pub(super) struct DocumentCounts {
    /// Handed over, and not refused so far.
    pub(super) exported: Arc<Counter>,
    lost: [Arc<Counter>; Loss::ALL.len()],
    /// Documents that wait.
    pub(super) waiting: Arc<Gauge>,
    /// About how much memory they take.
    pub(super) bytes: Arc<Gauge>,
}

impl DocumentCounts {
    /// The counters of the exporter that sends there.
    pub(super) fn of(destination: &str) -> Self {
        let documents = |result, reason| {
            let labels = [("destination", destination), ("result", result), ("reason", reason)];
            metrics::counter("xray_documents_total", "Segment documents by what became of them.", &labels)
        };
        let to = [("destination", destination)];
        Self {
            exported: documents("exported", ""),
            lost: array::from_fn(|index| documents("dropped", Loss::ALL[index].name())),
            waiting: metrics::gauge("xray_queue_len", "Segment documents that wait to be sent.", &to),
            bytes: metrics::gauge("xray_queue_bytes", "Memory of the segment documents that wait, about.", &to),
        }
    }

    /// Counts documents that are lost.
    pub(super) fn lose(&self, loss: Loss, documents: u64) {
        self.lost[loss as usize].add(documents);
    }

    /// How many were lost for this reason.
    pub(super) fn lost(&self, loss: Loss) -> u64 {
        self.lost[loss as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_finds_its_own_counter() {
        let counts = RequestCounts::of("labels");
        counts.decided(Decision { sampled: true, source: Source::Local });
        counts.bad_header(BadHeader::Root);
        let series = |name| {
            let snapshot = metrics::snapshot();
            let family = snapshot.families.into_iter().find(|family| family.name == name).unwrap();
            let mine = family.series.into_iter().filter(|series| series.labels[0].1 == "labels");
            let counted = mine.filter(|series| series.value != metrics::Value::Counter(0));
            counted
                .map(|series| series.labels.into_iter().skip(1).map(|label| label.1).collect())
                .collect::<Vec<Vec<_>>>()
        };
        assert_eq!(series("xray_requests_total"), [["sampled", "local"]]);
        assert_eq!(series("xray_bad_header_total"), [["root"]]);

        let counts = DocumentCounts::of("labels");
        for (index, loss) in Loss::ALL.into_iter().enumerate() {
            counts.lose(loss, index as u64 + 1);
        }
        for (index, loss) in Loss::ALL.into_iter().enumerate() {
            assert_eq!(counts.lost(loss), index as u64 + 1);
        }
    }
}
