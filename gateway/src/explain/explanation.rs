//! What would happen to a request, and why: as data, the same for people and for machines.

use std::net::IpAddr;

use portcullis_config::Protocol;
use serde::{Deserialize, Serialize};

use super::Asked;

/// What would happen to a request, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked.
    pub request: Asked,
    /// Who sends the request.
    pub client: Client,
    /// Where it comes in; `None` if no listener takes it.
    pub listener: Option<Listener>,
    /// The path that routes are compared with, if that is not the path that was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The route that takes it, if it gets that far.
    pub route: Option<String>,
    /// The routes of the listener: those that were tried, in the order they are tried in, then the others.
    pub candidates: Vec<Candidate>,
    /// The middlewares in its way, in order.
    pub chain: Vec<Step>,
    /// What stands at the end of the route.
    pub target: Option<Target>,
    /// The request as an instance would see it.
    pub upstream: Option<Upstream>,
    /// The answer.
    pub answer: Answer,
}

/// Who sends the request, and how that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The client's address, as every middleware sees it.
    pub address: IpAddr,
    /// Its origin as the access log spells it: `peer`, `x_forwarded_for[0]`.
    pub origin: String,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Whether that is one of `trusted_proxies`.
    pub trusted: bool,
    /// How the address was found, in words.
    pub how: String,
}

/// Where the request comes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Where the file declares it.
    pub at: String,
    /// Why this one.
    pub how: String,
}

/// One match of one route, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The route.
    pub route: String,
    /// Where the file declares it.
    pub at: String,
    /// Which of its matches, from 1, if it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternative: Option<usize>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It takes the request.
    Won,
    /// It matches too, and another one comes first.
    Lost,
    /// It does not match.
    Failed,
    /// It would take the request if the client's address were known.
    Undecided,
}

/// A middleware in the request's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name in the file, or its type if it has none.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Where its settings are written.
    pub at: String,
    /// Whose chain it stands in.
    pub chain: Chain,
    /// What it says.
    pub verdict: Verdict,
    /// Why, if there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What it changes in the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
}

/// Whose chain a middleware stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chain {
    /// The listener's.
    Listener,
    /// The route's.
    Route,
    /// That of one part of the route's split.
    Split,
}

/// What a middleware says to the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It decides, and lets the request pass.
    Passed,
    /// It wraps what follows, and lets the request pass.
    Wraps,
    /// It refuses the request, with this cause.
    Refused(String),
    /// It answers the request itself, with this status.
    Answered(u16),
    /// The request never gets there.
    NotReached,
}

/// What stands at the end of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Services, one of them for each request.
    Services(Vec<Service>),
    /// The gateway itself.
    Respond {
        /// The status it answers with.
        status: u16,
    },
    /// The gateway itself, by sending the client elsewhere.
    Redirect {
        /// The status it answers with.
        status: u16,
    },
}

/// One of the services that a route can send to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where the file declares it, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Its share, relative to the others'.
    pub weight: u32,
    /// Whether this request was sent there.
    pub picked: bool,
    /// The registry that knows its instances; `None` if the file lists them.
    pub registry: Option<String>,
    /// What is known of it.
    pub standing: Standing,
    /// Its instances.
    pub instances: Vec<Instance>,
}

/// What is known of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It exists.
    Known,
    /// The registry says that there is no such service.
    Unknown,
    /// The registry has not answered yet.
    Pending,
    /// The registry was not asked.
    NotAsked,
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// What tells it from its siblings.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// Its share, relative to its siblings'.
    pub weight: u32,
}

/// The request as an instance would see it, and how often and how long it would be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// The service.
    pub service: String,
    /// What its instances are said to speak.
    pub protocol: Protocol,
    /// The method.
    pub method: String,
    /// The target.
    pub target: String,
    /// The headers. What the gateway itself put there may be a secret, so of most of that only the name is told.
    pub headers: Vec<(String, String)>,
    /// The clocks in force.
    pub timeouts: Timeouts,
    /// When it would be tried again.
    pub retry: Retry,
}

/// The clocks in force; `None` is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// To the last byte of the answer, all attempts included.
    pub total: Option<String>,
    /// To the head of the answer, for each attempt.
    pub attempt: Option<String>,
    /// To open a connection.
    pub connect: Option<String>,
    /// From the end of the request to the head of the answer.
    pub first_byte: Option<String>,
    /// Between two pieces of a body.
    pub idle: Option<String>,
}

/// When a request would be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How many tries there are, the first included.
    pub attempts: u32,
    /// What is a reason to try again, beside a connection that was gone before anything was sent.
    pub on: Vec<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its status. `200` stands for whatever the instance says, if the request is forwarded.
    pub status: u16,
    /// Why the gateway answers itself, if it does.
    pub cause: Option<String>,
    /// Whether an instance is asked.
    pub forwarded: bool,
    /// Where the client is sent, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Who answers, in words.
    pub sentence: String,
}
