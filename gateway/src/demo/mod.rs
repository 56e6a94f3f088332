//! `portcullis demo`: the main job on one machine, with nothing else to install.
//!
//! Two small upstreams and a stand-in for the X-Ray daemon run in this process. The gateway before them is the real
//! one: the route table is a file like any other (`demo.toml`), the upstreams register themselves as any service would.

mod daemon;
mod upstream;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::admin::client;
use crate::app::{self, App};
use crate::cli::{self, SOFTWARE, UNAVAILABLE, print};
use crate::gateway::Gateway;
use crate::plugins::Plugins;

/// The route table of the demo. Its addresses are filled in when it starts.
const ROUTES: &str = include_str!("demo.toml");

/// `portcullis demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The gateway's port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The admin listener's port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 9901)]
    admin_port: u16,
    /// Send the demo's requests, print the answers, and stop; fails if an answer is not the promised one.
    #[arg(long)]
    check: bool,
}

/// Runs the demo until Ctrl-C, or through its requests once.
pub(crate) fn run(demo: Demo, plugins: Plugins) -> ExitCode {
    let runtime = match app::control() {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(UNAVAILABLE, &format!("cannot start: {error}")),
    };
    let code = match runtime.block_on(start(&demo, plugins)) {
        Ok(running) if demo.check => runtime.block_on(running.check()),
        Ok(running) => match runtime.block_on(running.app.until_stopped()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(fallen) => cli::fail(SOFTWARE, &fallen.to_string()),
        },
        Err(sentence) => cli::fail(UNAVAILABLE, &sentence),
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

struct Running {
    app: App,
    address: SocketAddr,
    daemon: daemon::Daemon,
}

async fn start(demo: &Demo, plugins: Plugins) -> Result<Running, String> {
    let daemon = daemon::Daemon::start().await.map_err(|error| format!("cannot start the trace listener: {error}"))?;
    let gateway_address = SocketAddr::from((Ipv4Addr::LOCALHOST, demo.port));
    let admin_address = SocketAddr::from((Ipv4Addr::LOCALHOST, demo.admin_port));
    let text = ROUTES
        .replace("127.0.0.1:8080", &gateway_address.to_string())
        .replace("127.0.0.1:9901", &admin_address.to_string())
        .replace("127.0.0.1:2000", &daemon.address().to_string());

    let gateway = Gateway::new(plugins);
    let (plan, faults) = gateway.plan_text("demo.toml", &text);
    let Some(plan) = plan else {
        return Err(format!("the demo's own route table is refused:\n{}", faults.render(false)));
    };
    let app = App::start(gateway, plan, None)
        .await
        .map_err(|error| format!("{error}\nhelp: `portcullis demo --port 0 --admin-port 0` takes free ports"))?;
    let address = app.bound(gateway_address).unwrap_or(gateway_address);
    let admin = app.admin().unwrap_or(admin_address);
    for (service, name) in [("orders", "orders-1"), ("orders", "orders-2"), ("shop", "shop-1")] {
        let upstream = upstream::start(name).await.map_err(|error| format!("cannot start an upstream: {error}"))?;
        let registration = format!(r#"{{"service": "{service}", "id": "{name}", "address": "{upstream}"}}"#);
        // As any service would: one call to the admin API.
        let answer = client::post(admin, "/register", registration).await.map_err(|error| error.to_string())?;
        if answer.0 != 200 {
            return Err(format!("the upstream `{name}` could not register itself: {}", answer.1));
        }
    }
    print(&introduction(address, admin));
    Ok(Running { app, address, daemon })
}

fn introduction(gateway: SocketAddr, admin: SocketAddr) -> String {
    let mut text = format!(
        "Portcullis is listening on http://{gateway}, its admin API on http://{admin}.\n\
         Two instances of `orders` and one of `shop` have registered themselves.\n\nTry:\n\n"
    );
    for step in STEPS {
        text.push_str(&format!("  # {}\n  {}\n\n", step.says, step.curl(gateway)));
    }
    text.push_str(&format!(
        "  # which route would win, and why the others did not\n  \
         portcullis explain GET http://{gateway}/admin/users --admin {admin}\n\n  \
         # numbers\n  curl -s http://{admin}/metrics\n\n\
         Traces appear below as they come in. Ctrl-C stops the demo.\n\n"
    ));
    text
}

/// One line to try, and what it promises.
struct Step {
    says: &'static str,
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    status: u16,
    contains: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        says: "Router: by path to a service; run it twice, and the other instance answers",
        method: "GET",
        path: "/orders/7",
        headers: &[],
        status: 200,
        contains: "orders-",
    },
    Step {
        says: "IP Whitelist: this route is for 10.0.0.0/8 only, and you are not from there",
        method: "GET",
        path: "/admin/users",
        headers: &[],
        status: 403,
        contains: "ip_not_allowed",
    },
    Step {
        says: "the same through a trusted proxy that speaks for a client inside",
        method: "GET",
        path: "/admin/users",
        headers: &[("X-Forwarded-For", "10.1.2.3")],
        status: 200,
        contains: "back office",
    },
    Step {
        says: "X-Ray: a trace that began elsewhere goes on here",
        method: "GET",
        path: "/orders/8",
        headers: &[("X-Amzn-Trace-Id", "Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f6413ad;Sampled=1")],
        status: 200,
        contains: "Root=1-67891233-abcdef012345678912345678",
    },
    Step {
        says: "a header sends you to the canary",
        method: "GET",
        path: "/orders/9",
        headers: &[("X-Env", "canary")],
        status: 200,
        contains: "shop-1",
    },
    Step {
        says: "a service that only the registry knows, named by the path",
        method: "GET",
        path: "/services/shop/cart",
        headers: &[],
        status: 200,
        contains: "shop-1",
    },
    Step {
        says: "a request no route wants",
        method: "GET",
        path: "/nowhere",
        headers: &[],
        status: 404,
        contains: "no_route",
    },
    Step {
        says: "the wrong method",
        method: "DELETE",
        path: "/healthz",
        headers: &[],
        status: 405,
        contains: "method_not_allowed",
    },
];

impl Step {
    fn curl(&self, gateway: SocketAddr) -> String {
        let mut line = String::from("curl -i");
        if self.method != "GET" {
            line.push_str(&format!(" -X {}", self.method));
        }
        for (name, value) in self.headers {
            line.push_str(&format!(" -H '{name}: {value}'"));
        }
        line.push_str(&format!(" http://{gateway}{}", self.path));
        line
    }
}

impl Running {
    /// Sends every step once and compares.
    async fn check(mut self) -> ExitCode {
        let mut failed = 0;
        for step in STEPS {
            let answer = client::send(self.address, step.method, step.path, step.headers, String::new()).await;
            let (verdict, shown) = match answer {
                Ok((status, body)) if status == step.status && body.contains(step.contains) => {
                    ("ok", format!("{status} {body}"))
                }
                Ok((status, body)) => {
                    ("FAILED", format!("{status} {body}\n  wanted {} and `{}`", step.status, step.contains))
                }
                Err(error) => ("FAILED", error.to_string()),
            };
            failed += usize::from(verdict != "ok");
            print(&format!("{verdict}: {}\n  {}\n  {}\n", step.says, step.curl(self.address), shown.trim_end()));
        }
        if self.daemon.first_trace(Duration::from_secs(5)).await {
            print("ok: the traces above came in by UDP\n");
        } else {
            failed += 1;
            print("FAILED: no trace came in\n");
        }
        if failed == 0 { ExitCode::SUCCESS } else { cli::fail(1, &format!("{failed} steps of the demo failed")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_own_file_gives_no_reason_to_complain() {
        let (plan, faults) = Gateway::new(crate::plugins()).plan_text("demo.toml", ROUTES);
        assert!(plan.is_some() && faults.is_empty(), "{}", faults.render(false));
    }
}
