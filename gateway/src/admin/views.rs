//! What the plan is, as JSON: routes and services, by name and with their place in the file. Never a secret.

use serde_json::{Value, json};

use crate::plan::{Link, Plan, PlannedAnswer, PlannedRoute};
use crate::proxy::Upstream;
use crate::registry::{Instance, Standing};

/// The routes, in file order.
pub(super) fn routes(plan: &Plan) -> Value {
    let routes: Vec<_> = plan.routes().iter().map(|route| self::route(plan, route)).collect();
    json!({ "routes": routes })
}

fn route(plan: &Plan, route: &PlannedRoute) -> Value {
    let mut view = json!({
        "name": route.info.name,
        "at": plan.at(route.info.place),
        "listeners": route.listeners,
        "chain": chain(plan, &route.chain),
        "timeouts": route.timeouts,
    });
    let answer = match &route.answer {
        PlannedAnswer::Respond(status) => json!({ "respond": status }),
        PlannedAnswer::Redirect(status) => json!({ "redirect": status }),
        PlannedAnswer::Services(branches) => {
            let branches = branches.iter().map(|branch| {
                json!({ "service": branch.service, "weight": branch.weight, "chain": chain(plan, &branch.chain) })
            });
            json!({ "services": branches.collect::<Vec<_>>() })
        }
    };
    view["answer"] = answer;
    view
}

fn chain(plan: &Plan, links: &[Link]) -> Vec<Value> {
    let link = |link: &Link| json!({ "name": link.name, "type": link.type_name, "at": plan.at(link.place) });
    links.iter().map(link).collect()
}

/// The services that the plan knows by name, ordered by it.
pub(super) fn services(plan: &Plan) -> Value {
    let services: Vec<_> = plan.services().iter().map(|upstream| service(plan, upstream)).collect();
    json!({ "services": services })
}

fn service(plan: &Plan, upstream: &Upstream) -> Value {
    let snapshot = upstream.service().instances();
    let registry = plan.registry_of(upstream.name());
    let stale = registry.as_deref().and_then(|name| plan.registry(name)).map(|live| live.stats().stale.as_secs());
    json!({
        "name": &**upstream.name(),
        "registry": registry,
        "standing": match snapshot.standing {
            Standing::Pending => "pending",
            Standing::Unknown => "unknown",
            Standing::Known => "known",
        },
        "stale_seconds": stale.unwrap_or_default(),
        "instances": snapshot.instances.iter().map(instance).collect::<Vec<_>>(),
    })
}

fn instance(instance: &Instance) -> Value {
    json!({
        "id": instance.id,
        "address": instance.address.to_string(),
        "weight": instance.weight,
        "metadata": instance.metadata,
        "tags": instance.tags,
    })
}
