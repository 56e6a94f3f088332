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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gateway;

    fn plan() -> Plan {
        let text = r#"
            [listener.web]
            address = "127.0.0.1:8080"
            [registry.default]
            type = "consul"
            token = "hunter2"
            [service.orders]
            instances = ["127.0.0.1:9001", { address = "127.0.0.1:9002", weight = 2 }]
            [middleware.key]
            type = "headers"
            request = { set = { authorization = "hunter2" } }
            [[route]]
            name = "orders"
            match = { path = "/orders" }
            chain = ["key", { type = "timeout", total = "2s" }]
            split = [{ service = "orders", weight = 95 }, { service = "next", weight = 5, chain = ["key"] }]
            [[route]]
            match = { path = "/ok" }
            respond = { status = 204 }
        "#;
        let (plan, faults) = Gateway::new(crate::plugins()).plan_text("gateway.toml", text);
        plan.unwrap_or_else(|| panic!("{}", faults.render(false)))
    }

    #[test]
    fn routes_are_shown_with_their_lines_and_chains() {
        let view = routes(&plan());
        let orders = &view["routes"][0];
        assert_eq!((&orders["name"], &orders["at"]), (&json!("orders"), &json!("gateway.toml:12")));
        assert_eq!(orders["listeners"], json!(["web"]));
        assert_eq!(orders["chain"][0], json!({ "name": "key", "type": "headers", "at": "gateway.toml:9" }));
        assert_eq!(orders["answer"]["services"][1]["weight"], 5);
        assert_eq!(orders["answer"]["services"][1]["chain"][0]["name"], "key");
        assert_eq!(view["routes"][1]["answer"], json!({ "respond": 204 }));
    }

    #[test]
    fn services_are_shown_with_what_is_known_of_them() {
        let view = services(&plan());
        let (next, orders) = (&view["services"][0], &view["services"][1]);
        assert_eq!(
            next,
            &json!({ "name": "next", "registry": "default", "standing": "pending", "stale_seconds": 0, "instances": [] })
        );
        assert_eq!((&orders["registry"], &orders["standing"]), (&Value::Null, &json!("known")));
        assert_eq!(
            (&orders["instances"][1]["address"], &orders["instances"][1]["weight"]),
            (&json!("127.0.0.1:9002"), &json!(2))
        );
    }

    #[test]
    fn settings_stay_where_they_are() {
        let plan = plan();
        assert!(!format!("{}{}", routes(&plan), services(&plan)).contains("hunter2"));
    }
}
