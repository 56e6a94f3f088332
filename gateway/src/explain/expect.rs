//! `--expect route=orders,status=200`: what somebody relies on, checked against what would happen.

use std::fmt;
use std::str::FromStr;

use super::Explanation;

/// One thing that is expected. `none` stands for what is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expectation {
    subject: Subject,
    wanted: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Listener,
    Route,
    Service,
    Status,
    Cause,
}

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (subject, wanted) = text.split_once('=').unwrap_or((text, ""));
        let subject = match subject.trim() {
            "listener" => Subject::Listener,
            "route" => Subject::Route,
            "service" => Subject::Service,
            "status" => Subject::Status,
            "cause" => Subject::Cause,
            other => {
                return Err(format!("`{other}` cannot be expected; listener, route, service, status and cause can"));
            }
        };
        let wanted = wanted.trim();
        if wanted.is_empty() {
            return Err(format!(
                "`{text}` does not say which {subject} is expected; write {subject}=VALUE, or {subject}=none"
            ));
        }
        if subject == Subject::Status && wanted.parse::<u16>().is_err() {
            return Err(format!("`{wanted}` is no status"));
        }
        Ok(Self { subject, wanted: wanted.to_owned() })
    }
}

impl Expectation {
    /// Says how it does not hold.
    pub(super) fn disappointment(&self, explanation: &Explanation) -> Option<String> {
        let found = match self.subject {
            Subject::Listener => explanation.listener.as_ref().map(|listener| listener.name.clone()),
            Subject::Route => explanation.route.clone(),
            Subject::Service => explanation.upstream.as_ref().map(|upstream| upstream.service.clone()),
            Subject::Status => Some(explanation.answer.status.to_string()),
            Subject::Cause => explanation.answer.cause.clone(),
        };
        let found = found.unwrap_or_else(|| "none".to_owned());
        (found != self.wanted).then(|| format!("expected {} {}, and it is {found}", self.subject, self.wanted))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subject::Listener => "listener",
            Subject::Route => "route",
            Subject::Service => "service",
            Subject::Status => "status",
            Subject::Cause => "cause",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_expected_is_refused() {
        for (text, wanted) in [
            ("rout=orders", "`rout` cannot be expected"),
            ("route=", "does not say which route"),
            ("status", "does not say which status"),
            ("status=ok", "no status"),
        ] {
            let sentence = text.parse::<Expectation>().expect_err(text);
            assert!(sentence.contains(wanted), "{text}: {sentence}");
        }
        assert!("route=orders".parse::<Expectation>().is_ok());
    }
}
