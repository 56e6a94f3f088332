//! Sends a request that is only asked about through the gateway, and watches.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use http::header::{ALLOW, FORWARDED, HOST, LOCATION};
use http::{HeaderName, HeaderValue};
use portcullis_config::units::{self, HostPattern};
use portcullis_config::{capture_of, did_you_mean};
use portcullis_middleware::client::Source;
use portcullis_middleware::layer::{self, Running, hop};
use portcullis_middleware::router::{self, Criterion, HostMap, host_of};
use portcullis_middleware::{Exchange, MatchedRoute, Origin, Rejection, Request, Response, RouteInfo};
use tower::Layer;

use super::Asked;
use super::asked::Described;
use super::explanation::{
    Answer, Candidate, Chain, Client, Explanation, Instance, Listener, Outcome, Retry, Service, Standing, Step, Target,
    Timeouts, Upstream, Verdict,
};
use crate::edge::{self, Door, Entrance};
use crate::plan::{Branch, Link, Plan, PlannedAnswer, PlannedRoute};
use crate::proxy::{self, Rehearsed, Stage};
use crate::registry;
use crate::server::Peer;

/// Where a connection comes from if nobody says.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a running plan would do with a request, and why; or what is wrong with the question.
pub async fn explain(plan: &Plan, asked: &Asked) -> Result<Explanation, String> {
    rehearse(plan, asked, Stage::default()).await
}

/// The same, for a plan that was only built: its registries were not asked.
pub(super) async fn offline(plan: &Plan, asked: &Asked) -> Result<Explanation, String> {
    rehearse(plan, asked, Stage::offline()).await
}

async fn rehearse(plan: &Plan, asked: &Asked, stage: Stage) -> Result<Explanation, String> {
    let Described { request, port } = asked.read()?;
    let (door, how) = choose(plan, asked, &request, port)?;
    let local = door.address.tcp().map(|address| match address.port() {
        // The port is whatever the system gave; the client knows it.
        0 => SocketAddr::new(address.ip(), port.unwrap_or(0)),
        _ => address,
    });
    // As if the handshake had been for the host that is asked for.
    let tls = door.tls.as_ref().map(|tls| Arc::new(tls.imagined(&host_of(&request))));
    let whom = match (asked.client, local) {
        (Some(client), _) => client,
        (None, Some(_)) => LOOPBACK,
        (None, None) => {
            return Err(format!(
                "listener `{}` is at a unix socket, where clients have no address; say whom a proxy names with --client",
                door.names[0]
            ));
        }
    };
    let address = Some(SocketAddr::new(whom, 0));
    let peer = Peer { address, source: Source::Itself, local, tls };

    let mut real = copy(&request);
    real.extensions_mut().insert(stage.clone());
    let arrived = edge::arrive(door, &mut real, Some(&peer));
    let path = real.uri().path();
    let path = (path != request.uri().path()).then(|| path.to_owned());
    let response = edge::answer(&arrived, real).await;

    let mut told = copy(&request);
    told.extensions_mut().insert(stage.clone());
    let again = edge::arrive(door, &mut told, Some(&peer));
    let mut story = Story::begin(plan, told);
    if let Ok(entrance) = &again.entrance {
        let picked = arrived.exchange.service().map(|name| &**name);
        story.tell(entrance, &again.exchange, picked, Rejection::of(&response)).await;
    }

    let route = arrived.exchange.route();
    let planned = route.and_then(|route| plan.route(route)).or(story.planned);
    let sent = stage.sent();
    Ok(Explanation {
        client: client(&arrived.exchange, &request, asked)?,
        listener: arrived.listener.map(|entrance| listener(plan, entrance, asked, how)),
        path,
        route: route.map(|route| route.name.clone()),
        target: planned.map(|planned| target(plan, planned, arrived.exchange.service(), &stage)),
        upstream: sent.map(|sent| upstream(sent, planned, asked)),
        answer: answer(plan, &response, sent, &story, &arrived),
        request: asked.clone(),
        candidates: story.candidates,
        chain: story.steps,
    })
}

/// A request that is sent twice: once for the answer, once for the story.
fn copy(request: &Request) -> Request {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

/// The door that the request comes to, and why this one.
fn choose<'a>(
    plan: &'a Plan,
    asked: &Asked,
    request: &Request,
    port: Option<u16>,
) -> Result<(&'a Arc<Door>, String), String> {
    let doors: Vec<_> = plan.doors().collect();
    let Some(first) = doors.first() else { return Err("there is no listener".to_owned()) };
    if let Some(name) = &asked.listener {
        let named = doors.iter().find(|door| door.names.iter().any(|known| **known == **name));
        return match named {
            Some(door) => Ok((door, "the listener that was named".to_owned())),
            None => {
                let names: Vec<_> = doors.iter().flat_map(|door| door.listener_names()).collect();
                let meant = did_you_mean(name, names.iter().copied());
                let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
                Err(format!("there is no listener `{name}`{meant} (there is: {})", names.join(", ")))
            }
        };
    }
    let listens = |door: &Arc<Door>| port.filter(|port| door.address.tcp().is_some_and(|it| it.port() == *port));
    if let Some((door, port)) = doors.iter().find_map(|door| Some((door, listens(door)?))) {
        return Ok((door, format!("listens on port {port}")));
    }
    let nobody = port.map(|port| format!("none listens on port {port}; ")).unwrap_or_default();
    let host = host_of(request);
    // Of equals the last is the greatest, and the first of the file is wanted.
    let best = doors.iter().rev().max_by_key(|door| precision(&door.listeners, &host));
    match best.filter(|door| door.listeners.find(&host).is_some()) {
        Some(door) => Ok((door, format!("{nobody}its hosts match best"))),
        None => Ok((first, format!("{nobody}none serves this host"))),
    }
}

/// How precisely a host is meant by the listeners of a door: exactly, by a wildcard and how long a one, or not at all.
fn precision(listeners: &HostMap<Arc<Entrance>>, host: &str) -> Option<usize> {
    if listeners.get(&HostPattern::Exact(host.to_owned())).is_some() {
        return Some(usize::MAX);
    }
    let parents = host.match_indices('.').map(|(at, _)| &host[at + 1..]);
    let mut wildcards = parents.filter(|parent| listeners.get(&HostPattern::Wildcard((*parent).to_owned())).is_some());
    let any = listeners.get(&HostPattern::Any).map(|_| 0);
    wildcards.next().map(str::len).or(any)
}

/// The request's way through the middlewares, told step by step.
struct Story<'a> {
    plan: &'a Plan,
    request: Request,
    /// Whether the request gets here.
    reached: bool,
    /// The route that takes the request, or that would.
    planned: Option<&'a Arc<PlannedRoute>>,
    candidates: Vec<Candidate>,
    steps: Vec<Step>,
}

impl<'a> Story<'a> {
    fn begin(plan: &'a Plan, request: Request) -> Self {
        Self { plan, request, reached: true, planned: None, candidates: Vec::new(), steps: Vec::new() }
    }

    /// Tells what every middleware says. `picked` and `refusal` are how it really went: where a split sends the request
    /// is drawn anew each time.
    async fn tell(
        &mut self,
        entrance: &Entrance,
        exchange: &Exchange,
        picked: Option<&str>,
        refusal: Option<&Rejection>,
    ) {
        let router = entrance.links.iter().position(|link| link.type_name == "router");
        let (before, routing) = entrance.links.split_at(router.unwrap_or(entrance.links.len()));
        self.pass(before, Chain::Listener).await;
        let Some(routing) = routing.first() else { return };

        self.candidates = candidates(self.plan, entrance.routes.explain(&self.request));
        let verdict = if self.reached { Verdict::Passed } else { Verdict::NotReached };
        let Ok(hit) = entrance.routes.take(&mut self.request) else {
            let refused = |refusal: &Rejection| Verdict::Refused(refusal.cause().name().to_owned());
            let verdict = if self.reached { refusal.map_or(Verdict::Passed, refused) } else { verdict };
            return self.steps.push(self.step(routing, Chain::Listener, verdict));
        };
        self.steps.push(self.step(routing, Chain::Listener, verdict));
        let (route, matched): (_, MatchedRoute) = (hit.matched.route.clone(), hit.matched);
        exchange.settle_route(route.clone());
        self.request.extensions_mut().insert(matched);
        self.planned = self.plan.route(&route);
        let Some(planned) = self.planned else { return };
        self.pass(&planned.chain, Chain::Route).await;
        if let PlannedAnswer::Services(branches) = &planned.answer {
            self.branch(branches, picked, refusal).await;
        }
    }

    /// The middlewares of the split's part that the request took: the one with the service it was sent to, else the one
    /// that refused it.
    async fn branch(&mut self, branches: &[Branch], picked: Option<&str>, refusal: Option<&Rejection>) {
        let possible: Vec<_> = branches.iter().filter(|branch| branch.weight > 0).collect();
        let (steps, reached) = (self.steps.len(), self.reached);
        let request = copy(&self.request);
        for branch in &possible {
            self.pass(&branch.chain, Chain::Split).await;
            let is_it = match picked {
                Some(picked) => branch.service == picked || capture_of(&branch.service).is_some(),
                None => self.steps[steps..].iter().any(|step| match (&step.verdict, refusal) {
                    (Verdict::Refused(cause), Some(refusal)) => cause == refusal.cause().name(),
                    (verdict, None) => matches!(verdict, Verdict::Answered(_)),
                    _ => false,
                }),
            };
            if is_it || possible.len() == 1 {
                return;
            }
            self.steps.truncate(steps);
            self.reached = reached;
            self.request = copy(&request);
        }
    }

    /// Sends the request through middlewares as far as it gets.
    async fn pass(&mut self, links: &[Link], chain: Chain) {
        for link in links {
            let step =
                if self.reached { self.ask(link, chain).await } else { self.step(link, chain, Verdict::NotReached) };
            self.steps.push(step);
        }
    }

    async fn ask(&mut self, link: &Link, chain: Chain) -> Step {
        let before = copy(&self.request);
        let (verdict, detail) = match link.layer.rehearse(&mut self.request) {
            layer::Verdict::Passed => (Verdict::Passed, None),
            layer::Verdict::Refused(rejection) => refused(&rejection),
            layer::Verdict::Wraps => self.wrap(link).await,
        };
        self.reached = matches!(verdict, Verdict::Passed | Verdict::Wraps);
        let changes = if self.reached { changes(&before, &self.request) } else { Vec::new() };
        Step { detail, changes, ..self.step(link, chain, verdict) }
    }

    /// What becomes of the request in a middleware that wraps what follows; here, a hop that only looks at it.
    async fn wrap(&mut self, link: &Link) -> (Verdict, Option<String>) {
        let passed = Arc::new(Mutex::new(None));
        let slot = passed.clone();
        let look = hop(move |request| {
            *slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(request);
            Running::ready(Response::default())
        });
        let response = edge::run(&link.layer.layer(look), copy(&self.request)).await;
        let passed = passed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        match (passed, Rejection::of(&response)) {
            (Some(request), None) => {
                self.request = request;
                (Verdict::Wraps, None)
            }
            (_, Some(rejection)) => refused(rejection),
            (None, None) => (Verdict::Answered(response.status().as_u16()), None),
        }
    }

    fn step(&self, link: &Link, chain: Chain, verdict: Verdict) -> Step {
        Step {
            name: link.name.clone(),
            type_name: link.type_name.clone(),
            at: self.plan.at(link.place),
            chain,
            verdict,
            detail: None,
            changes: Vec::new(),
        }
    }
}

fn refused(rejection: &Rejection) -> (Verdict, Option<String>) {
    let why = rejection.noted().or(rejection.told()).map(str::to_owned);
    (Verdict::Refused(rejection.cause().name().to_owned()), why)
}

/// What a middleware changed. Of headers only the names: what a gateway adds for its services may be a secret.
fn changes(before: &Request, after: &Request) -> Vec<String> {
    let mut changes = Vec::new();
    if before.method() != after.method() {
        changes.push(format!("method {} → {}", before.method(), after.method()));
    }
    if before.uri() != after.uri() {
        changes.push(format!("{} → {}", before.uri(), after.uri()));
    }
    let text = |value: Option<&HeaderValue>| {
        value.map_or_else(|| "none".into(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (old, new) = (before.headers(), after.headers());
    if old.get(HOST) != new.get(HOST) {
        changes.push(format!("host {} → {}", text(old.get(HOST)), text(new.get(HOST))));
    }
    let values =
        |headers: &http::HeaderMap, name: &HeaderName| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
    for name in new.keys().filter(|name| **name != HOST) {
        match (old.contains_key(name), values(old, name) == values(new, name)) {
            (false, _) => changes.push(format!("adds `{name}`")),
            (true, false) => changes.push(format!("sets `{name}`")),
            (true, true) => {}
        }
    }
    let gone = old.keys().filter(|name| **name != HOST && !new.contains_key(*name));
    changes.extend(gone.map(|name| format!("removes `{name}`")));
    changes
}

fn candidates(plan: &Plan, considered: Vec<router::Consideration>) -> Vec<Candidate> {
    // Those that match stand in the order they are tried, so the first that lost is the one that came closest.
    let closest = considered.iter().find_map(|one| match one.outcome {
        router::Outcome::Lost(criterion) => Some((one.route.name.clone(), criterion)),
        _ => None,
    });
    let mut matches: HashMap<*const RouteInfo, usize> = HashMap::new();
    for one in &considered {
        *matches.entry(Arc::as_ptr(&one.route)).or_default() += 1;
    }
    let candidate = |one: router::Consideration| {
        let (outcome, reason) = match &one.outcome {
            router::Outcome::Won => (
                Outcome::Won,
                match &closest {
                    Some((other, criterion)) => format!("won over `{other}`: {}", merit(*criterion)),
                    None => "won, nothing else matches".to_owned(),
                },
            ),
            router::Outcome::Lost(_) => (Outcome::Lost, one.outcome.to_string()),
            router::Outcome::Failed(_) => (Outcome::Failed, one.outcome.to_string()),
            router::Outcome::Undecided => (Outcome::Undecided, one.outcome.to_string()),
        };
        Candidate {
            route: one.route.name.clone(),
            at: plan.at(one.route.place),
            alternative: (matches[&Arc::as_ptr(&one.route)] > 1).then_some(one.alternative + 1),
            outcome,
            reason,
        }
    };
    considered.into_iter().map(candidate).collect()
}

/// What the winner has over the one that came closest.
fn merit(criterion: Criterion) -> &'static str {
    match criterion {
        Criterion::Host => "its host is more specific",
        Criterion::Priority => "its priority is higher",
        Criterion::PathKind => "exact paths win over regexes, and those over patterns and prefixes",
        Criterion::RegexOrder => "its regex comes first in the file",
        Criterion::LiteralSegments => "its path has more literal segments",
        Criterion::Method => "it names methods",
        Criterion::Headers => "it matches more headers",
        Criterion::Query => "it matches more of the query",
        Criterion::FileOrder => "it comes first in the file",
    }
}

fn client(exchange: &Exchange, request: &Request, asked: &Asked) -> Result<Client, String> {
    let client = exchange.client().map_err(|_| "the client's address cannot be told".to_owned())?;
    let peer = client.peer.map_or(client.ip, |peer| peer.ip());
    let speaks = request.headers().contains_key("x-forwarded-for") || request.headers().contains_key(FORWARDED);
    let mut how = match client.origin {
        Origin::Peer if client.peer_is_trusted => "the peer itself, a trusted proxy that names nobody else".to_owned(),
        Origin::Peer if speaks => {
            "the peer itself; it is none of `trusted_proxies`, so it cannot speak for others".to_owned()
        }
        Origin::Peer => "the peer itself".to_owned(),
        Origin::ProxyProtocol => format!("named by the trusted peer {peer} in the PROXY protocol"),
        Origin::Forwarded(index) => format!("entry {} of `Forwarded`, from the trusted proxy {peer}", index + 1),
        Origin::XForwardedFor(index) => {
            format!("entry {} of `X-Forwarded-For`, from the trusted proxy {peer}", index + 1)
        }
    };
    if asked.client.is_none() {
        how.push_str("; assumed, for want of --client");
    }
    Ok(Client { address: client.ip, origin: client.origin.to_string(), peer, trusted: client.peer_is_trusted, how })
}

fn listener(plan: &Plan, entrance: &Entrance, asked: &Asked, how: String) -> Listener {
    let place = plan.file().and_then(|file| {
        let named = file.listeners.iter().find(|named| named.name.value == *entrance.name)?;
        Some(plan.at(named.place))
    });
    let how = match &asked.listener {
        Some(name) if **name != *entrance.name => {
            format!("shares its address with `{name}`, and its hosts match better")
        }
        _ => how,
    };
    Listener { name: entrance.name.to_string(), at: place.unwrap_or_default(), how }
}

fn target(plan: &Plan, planned: &PlannedRoute, picked: Option<&Arc<str>>, stage: &Stage) -> Target {
    match &planned.answer {
        PlannedAnswer::Respond(status) => Target::Respond { status: *status },
        PlannedAnswer::Redirect(status) => Target::Redirect { status: *status },
        PlannedAnswer::Services(branches) => {
            Target::Services(branches.iter().map(|branch| service(plan, branch, picked, stage)).collect())
        }
    }
}

fn service(plan: &Plan, branch: &Branch, picked: Option<&Arc<str>>, stage: &Stage) -> Service {
    let dynamic = capture_of(&branch.service).is_some();
    let name = match picked {
        Some(picked) if dynamic => picked.to_string(),
        _ => branch.service.clone(),
    };
    let declared = plan.file().and_then(|file| file.services.iter().find(|named| named.name.value == name));
    let registry = plan.registry_of(&name);
    let sent = stage.sent().map(|sent| &sent.service).filter(|service| **service.name() == *name).cloned();
    let snapshot = sent.or_else(|| plan.service(&name)).map(|upstream| upstream.service().instances().clone());
    let standing = match snapshot.as_ref().map(|snapshot| snapshot.standing) {
        Some(registry::Standing::Known) => Standing::Known,
        Some(registry::Standing::Unknown) => Standing::Unknown,
        Some(registry::Standing::Pending) | None if stage.is_offline() => Standing::NotAsked,
        Some(registry::Standing::Pending) => Standing::Pending,
        None => Standing::Unknown,
    };
    let instances = snapshot.iter().flat_map(|snapshot| &snapshot.instances);
    Service {
        at: declared.map(|named| plan.at(named.place)),
        weight: branch.weight,
        picked: picked.is_some_and(|picked| **picked == *name),
        registry,
        standing,
        instances: instances
            .map(|instance| Instance {
                id: instance.id.to_string(),
                address: instance.address.to_string(),
                weight: instance.weight,
            })
            .collect(),
        name,
    }
}

/// Headers that the gateway writes itself, and that are no secret.
const OPEN: [&str; 10] = [
    "host",
    "forwarded",
    "via",
    "traceparent",
    "x-amzn-trace-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

fn upstream(sent: &Rehearsed, planned: Option<&Arc<PlannedRoute>>, asked: &Asked) -> Upstream {
    let from_client = |name: &HeaderName, value: &HeaderValue| {
        let same = |(key, given): &(String, String)| {
            key.eq_ignore_ascii_case(name.as_str()) && given.trim().as_bytes() == value.as_bytes()
        };
        asked.headers.iter().any(same)
    };
    let shown = |(name, value): (&HeaderName, &HeaderValue)| {
        let open = OPEN.contains(&name.as_str()) || from_client(name, value);
        let value = if open { String::from_utf8_lossy(value.as_bytes()).into_owned() } else { "…".to_owned() };
        (name.to_string(), value)
    };
    let clock = |limit: Option<std::time::Duration>| limit.map(duration);
    let total = planned.and_then(|planned| planned.timeouts.total).and_then(|total| total.limit());
    Upstream {
        service: sent.service.name().to_string(),
        protocol: sent.service.policy().protocol,
        method: sent.method.to_string(),
        target: sent.target.to_string(),
        headers: sent.headers.iter().map(shown).collect(),
        timeouts: Timeouts {
            total: clock(total),
            attempt: clock(sent.timeouts.attempt),
            connect: clock(sent.timeouts.connect),
            first_byte: clock(sent.timeouts.first_byte),
            idle: clock(sent.timeouts.idle),
        },
        retry: retry(&sent.retry),
    }
}

fn retry(retry: &proxy::Retry) -> Retry {
    let words = [(retry.connect, "connect"), (retry.reset, "reset")];
    let words = words.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned());
    let statuses = retry.statuses.iter().map(|status| status.as_u16().to_string());
    Retry { attempts: retry.attempts, on: words.chain(statuses).collect() }
}

fn answer(
    plan: &Plan,
    response: &Response,
    sent: Option<&Rehearsed>,
    story: &Story<'_>,
    arrived: &edge::Arrived<'_>,
) -> Answer {
    let cause = Rejection::of(response).map(Rejection::cause);
    let status = response.status();
    let location = response.headers().get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let route = arrived.exchange.route();
    let stopped = story.steps.iter().find(|step| matches!(step.verdict, Verdict::Refused(_) | Verdict::Answered(_)));
    let forwarded = cause.is_none() && sent.is_some();
    let sentence = match (stopped, Rejection::of(response), sent) {
        (Some(step), _, _) if step.type_name != "router" => format!("by middleware `{}`", step.name),
        (_, Some(refusal), _) => {
            let mut why = refusal.told().map_or_else(|| meaning(refusal), str::to_owned);
            if let Some(methods) = response.headers().get(ALLOW).and_then(|methods| methods.to_str().ok()) {
                why.push_str(&format!(" ({methods})"));
            }
            match (arrived.exchange.service(), route) {
                (Some(service), _) => format!("for service `{service}`: {why}"),
                (None, Some(route)) => format!("in route `{}`: {why}", route.name),
                (None, None) => why,
            }
        }
        (_, None, Some(sent)) => match sent.service.service().instances().instances.len() {
            0 => "stands for whatever an instance answers; which there are, the registry was not asked".to_owned(),
            _ => "stands for whatever the instance answers".to_owned(),
        },
        (_, None, None) => match route.and_then(|route| plan.route(route)) {
            Some(planned) => format!("by route `{}` itself", planned.info.name),
            None => "by the gateway itself".to_owned(),
        },
    };
    Answer { status: status.as_u16(), cause: cause.map(|cause| cause.name().to_owned()), forwarded, location, sentence }
}

/// A cause's meaning as the end of a sentence.
fn meaning(rejection: &Rejection) -> String {
    let meaning = rejection.cause().meaning().trim().replace("\n", " ");
    let words: Vec<_> = meaning.split_whitespace().collect();
    let sentence = words.join(" ");
    let sentence = sentence.trim_end_matches('.');
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

fn duration(duration: std::time::Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    units::Duration::from_millis(milliseconds).to_string()
}
