//! The admin listener: health, numbers, what is configured, and the few things that can be done to a running gateway.
//!
//! It listens on loopback unless the file says otherwise, and it has no passwords: whoever reaches it may use it. A web
//! page that a developer visits must not, so requests that a browser sends on behalf of another site are refused.

pub mod client;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use portcullis_config::{DEFAULT_REGISTRY, units};
use portcullis_middleware::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tower::ServiceExt;
use tracing::debug;

use crate::app::{Order, Reloaded};
use crate::authority;
use crate::explain::Asked;
use crate::gateway::Gateway;
use crate::observe;
use crate::registry::{Address, Instance, InstanceId, Registration, Registry, RegistryError, ServiceName};
use crate::server::{self, Application, Manners, Peer, Socket, strict};
use crate::workers::Workers;

/// Starts the admin API on a bound socket.
pub fn start(control: &Workers, socket: Socket, gateway: Arc<Gateway>, orders: mpsc::Sender<Order>) -> server::Handle {
    let admin = Arc::new(Admin(router(gateway, orders)));
    control.open(socket, vec![admin; control.count()])
}

/// The admin API as an axum application, to be embedded elsewhere.
pub fn router(gateway: Arc<Gateway>, orders: mpsc::Sender<Order>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/routes", get(routes))
        .route("/services", get(services))
        .route("/config", get(config))
        .route("/explain", post(explain))
        .route("/reload", post(reload))
        .route("/register", post(register))
        .route("/deregister", post(deregister))
        .layer(DefaultBodyLimit::max(64 * 1024))
        .layer(middleware::from_fn(no_other_sites))
        .with_state(Api { gateway, orders })
}

struct Admin(Router);

impl Application for Admin {
    type Body = axum::body::Body;

    fn manners(&self) -> Manners {
        Manners { connections: 256, ..Manners::default() }
    }

    fn refuse(&self, refusal: &strict::Refusal, peer: &Peer) -> Response {
        debug!(peer = %peer, what = %refusal.note(), "refused a request");
        Refusal(refusal.fault.status(), refusal.fault.sentence().into()).into_response()
    }

    async fn serve(&self, request: Request, _: &Peer) -> Response {
        self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

#[derive(Clone)]
struct Api {
    gateway: Arc<Gateway>,
    orders: mpsc::Sender<Order>,
}

/// A refusal with a sentence, as JSON.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// A browser names the site that a request comes from (`Origin`, `Sec-Fetch-Site`), and a name that was rebound to loopback
/// is the request's host.
async fn no_other_sites(mut request: Request, next: Next) -> Response {
    let refusal =
        |what| Refusal(StatusCode::FORBIDDEN, format!("requests {what} are refused by the admin API")).into_response();
    let site = request.headers().get("sec-fetch-site");
    let foreign = site.is_some_and(|site| site != "none" && site != "same-origin");
    if foreign || request.headers().contains_key(header::ORIGIN) {
        return refusal("that a web page makes");
    }
    let Ok(host) = authority::settle(&mut request) else {
        return Refusal(StatusCode::BAD_REQUEST, "the request's host cannot be told".to_owned()).into_response();
    };
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    // Host names of a container network have no dots; a page's own site has one.
    if literal || !host.contains('.') || host.ends_with(".localhost") || host.ends_with(".internal") {
        return next.run(request).await;
    }
    refusal("for a public host name")
}

async fn index() -> &'static str {
    "GET /health /ready /metrics /routes /services /config\nPOST /explain /reload /register /deregister\n"
}

/// The process runs.
async fn health() -> &'static str {
    "ok\n"
}

/// The gateway serves and is not about to stop.
async fn ready(State(api): State<Api>) -> Response {
    if api.gateway.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn metrics(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, observe::CONTENT_TYPE)], Body::from(api.gateway.metrics())).into_response()
}

async fn routes(State(api): State<Api>) -> Json<Value> {
    Json(views::routes(&api.gateway.plan()))
}

async fn services(State(api): State<Api>) -> Json<Value> {
    Json(views::services(&api.gateway.plan()))
}

/// What was loaded, when, and what was wrong with the last try. Never the text: it may hold secrets.
async fn config(State(api): State<Api>) -> Json<Value> {
    Json(api.gateway.configuration())
}

async fn explain(State(api): State<Api>, body: Result<Json<Asked>, JsonRejection>) -> Result<Response, Refusal> {
    let Json(asked) = body.map_err(unreadable)?;
    let explanation = crate::explain::explain(&api.gateway.plan(), &asked).await;
    let explanation = explanation.map_err(|sentence| Refusal(StatusCode::BAD_REQUEST, sentence))?;
    Ok(Json(explanation).into_response())
}

async fn reload(State(api): State<Api>) -> Response {
    let (answer, reloaded) = oneshot::channel();
    if api.orders.send(Order::Reload(answer)).await.is_err() {
        return Refusal(StatusCode::SERVICE_UNAVAILABLE, "the gateway is about to stop".to_owned()).into_response();
    }
    match reloaded.await {
        Ok(Reloaded::Live(changes, faults)) => {
            Json(json!({ "reloaded": true, "changes": changes, "faults": faults })).into_response()
        }
        Ok(Reloaded::Refused(faults)) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            Json(json!({ "reloaded": false, "error": "the file is wrong; the old plan keeps serving", "faults": faults })),
        )
            .into_response(),
        Ok(Reloaded::Unavailable(reason)) => {
            (StatusCode::CONFLICT, Json(json!({ "reloaded": false, "error": reason }))).into_response()
        }
        Err(_) => Refusal(StatusCode::SERVICE_UNAVAILABLE, "the gateway is about to stop".to_owned()).into_response(),
    }
}

/// The body of `POST /register`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    /// The registry's name in the file.
    #[serde(default = "default_registry")]
    registry: String,
    service: ServiceName,
    /// What tells it from its siblings; the address unless given.
    id: Option<InstanceId>,
    address: Address,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    tags: BTreeSet<String>,
    /// How long it stays unless it registers again, such as `"30s"`.
    ttl: Option<units::Duration>,
}

/// The body of `POST /deregister`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deregister {
    #[serde(default = "default_registry")]
    registry: String,
    id: InstanceId,
}

fn default_registry() -> String {
    DEFAULT_REGISTRY.to_owned()
}

fn one() -> u32 {
    1
}

async fn register(State(api): State<Api>, body: Result<Json<Register>, JsonRejection>) -> Result<Json<Value>, Refusal> {
    let Json(asked) = body.map_err(unreadable)?;
    if asked.ttl.is_some_and(|ttl| ttl.is_zero()) {
        let sentence =
            "`ttl` is zero, so the instance would be gone at once; leave it out to keep the instance for ever";
        return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, sentence.to_owned()));
    }
    let registry = registry(&api, &asked.registry)?;
    let bare = Instance::at(asked.address);
    let instance = Instance {
        id: asked.id.unwrap_or(bare.id),
        weight: asked.weight,
        metadata: asked.metadata,
        tags: asked.tags,
        address: bare.address,
    };
    let id = instance.id.to_string();
    let registration = Registration { service: asked.service, instance, ttl: asked.ttl.map(|ttl| *ttl) };
    registry.register(registration).await.map_err(|error| refused(&asked.registry, &error))?;
    Ok(Json(json!({ "registered": id })))
}

async fn deregister(
    State(api): State<Api>,
    body: Result<Json<Deregister>, JsonRejection>,
) -> Result<Json<Value>, Refusal> {
    let Json(asked) = body.map_err(unreadable)?;
    let registry = registry(&api, &asked.registry)?;
    registry.deregister(&asked.id).await.map_err(|error| refused(&asked.registry, &error))?;
    Ok(Json(json!({ "deregistered": asked.id.to_string() })))
}

fn registry(api: &Api, name: &str) -> Result<Arc<dyn Registry>, Refusal> {
    let plan = api.gateway.plan();
    plan.registry(name).map(|live| live.registry().clone()).ok_or_else(|| {
        Refusal(
            StatusCode::NOT_FOUND,
            format!("there is no registry `{name}`; the file declares {}", plan.registry_names()),
        )
    })
}

fn unreadable(rejection: JsonRejection) -> Refusal {
    Refusal(rejection.status(), rejection.body_text())
}

fn refused(registry: &str, error: &RegistryError) -> Refusal {
    let status = match error {
        RegistryError::NotFound(_) => StatusCode::NOT_FOUND,
        RegistryError::ReadOnly => StatusCode::METHOD_NOT_ALLOWED,
        RegistryError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
        RegistryError::Unreachable(_) => StatusCode::BAD_GATEWAY,
        RegistryError::Malformed(_) | RegistryError::Refused(_) => StatusCode::BAD_GATEWAY,
    };
    Refusal(status, format!("registry `{registry}`: {error}"))
}
