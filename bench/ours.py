"""Portcullis in the settings that the cases ask for. A new one is a function here, named in a case."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Callable

import client
import tls
from client import WrongAnswer
from contender import Contender, Place, Running

NETWORKS = 10_000


def settings(
    place: Place,
    *,
    routes: int = 0,
    workers: int = 1,
    forwarding: str = "off",
    log: str = '"off"',
    before: tuple[str, ...] = (),
    chain: tuple[str, ...] = (),
    middleware: str = "",
) -> str:
    """A file with one route for everything, or with that many for `/api/0/…`, `/api/1/…` and so on."""
    pair = f"cert = {json.dumps(str(tls.CERTIFICATE))}, key = {json.dumps(str(tls.KEY))}"
    listener = f"tls = {{ certificates = [{{ {pair} }}] }}" if place.spoken.tls else ""
    service = 'protocol = "h2c"' if place.spoken.h2c else ""
    head = f"""
workers = {workers}
access_log = {{ output = {log} }}

[listener.web]
address = "127.0.0.1:{place.port}"
forwarding = "{forwarding}"
chain = {json.dumps([*before, "router"])}
{listener}

[admin]
address = "127.0.0.1:{place.admin}"

[service.upstream]
instances = ["127.0.0.1:{place.upstream}"]
{service}
{middleware}"""

    def route(name: str, path: str) -> str:
        return f"""
[[route]]
name = "{name}"
match = {{ path = {path} }}
chain = {json.dumps(chain)}
service = "upstream"
"""

    if routes == 0:
        return head + route("all", '{ prefix = "/" }')
    return head + "".join(route(f"api-{number}", f'"/api/{number}/{{size}}"') for number in range(routes))


def plain(place: Place, workers: int = 1) -> str:
    return settings(place, workers=workers)


def full(place: Place) -> str:
    """Every second network of those with 24 bits, so that no two make one; then the one that the load comes from."""
    networks = [f"10.{number // 256}.{number % 256}.0/24" for number in range(0, 2 * NETWORKS, 2)]
    place.write("networks.txt", "\n".join([*networks[1:], "127.0.0.1/32"]) + "\n")
    return settings(
        place,
        routes=1_000,
        forwarding="x",
        log=f'{{ file = {json.dumps(str(place.access_log))} }}',
        before=("request_id",),
        chain=("office",),
        middleware="""
[middleware.office]
type = "ip_whitelist"
allow_files = ["networks.txt"]
""",
    )


def xray(place: Place, rate: float) -> str:
    return settings(
        place,
        chain=("trace",),
        middleware=f"""
[middleware.trace]
type = "xray"
name = "bench"
daemon = "127.0.0.1:{place.sink}"
sampling = {{ reservoir = 0, rate = {rate} }}
""",
    )


def routes(place: Place, count: int) -> str:
    return settings(place, routes=count)


def everything_happens(running: Running) -> None:
    """That all that `full` switches on is on."""
    head = client.get(running.place.port, "/api/7/head").body.decode().lower()
    for header in ("x-request-id:", "x-forwarded-for: 127.0.0.1"):
        if header not in head:
            raise WrongAnswer(f"the upstream was not sent `{header}`")
    stranger = client.get(running.place.port, "/api/7/113", source="127.0.0.2")
    if stranger.status != 403:
        raise WrongAnswer(f"a client from outside of the whitelist got {stranger.status}")
    if counted(running, "portcullis_requests_total") < 2:
        raise WrongAnswer("the requests were not counted")
    log = running.place.access_log
    if not client.soon(lambda: log.exists() and '"status":403' in log.read_text().replace(" ", "")):
        raise WrongAnswer("the access log has no line of a request")


def is_traced(running: Running, sampled: bool) -> None:
    head = client.get(running.place.port, "/api/7/head").body.decode().lower()
    if "x-amzn-trace-id: root=" not in head:
        raise WrongAnswer("the upstream was sent no trace id")
    if sampled and not client.soon(lambda: counted(running, "portcullis_xray_documents_total", 'result="exported"') > 0):
        raise WrongAnswer("no segment was sent to the daemon")


def counted(running: Running, name: str, label: str = "") -> float:
    """The sum of a metric's series."""
    page = client.get(running.place.admin, "/metrics").body.decode()
    rows = (line for line in page.splitlines() if line.startswith(name) and label in line)
    return sum(float(line.split()[-1]) for line in rows)


def lost(running: Running) -> float:
    return counted(running, "portcullis_access_log_dropped_total") + counted(
        running, "portcullis_xray_documents_total", 'result="dropped"'
    )


#: What a setting is called in tables, and how it is made.
SETTINGS: dict[str, tuple[str, Callable[[Place], str], dict]] = {
    "plain": ("", plain, {}),
    "full": (", everything on", full, {"prove": everything_happens, "lost": lost}),
    "xray_0": (", X-Ray, 0 % sampled", partial(xray, rate=0.0), {"prove": partial(is_traced, sampled=False)}),
    "xray_5": (
        ", X-Ray, 5 % sampled",
        partial(xray, rate=0.05),
        {"prove": partial(is_traced, sampled=False), "lost": lost},
    ),
    "xray_100": (
        ", X-Ray, 100 % sampled",
        partial(xray, rate=1.0),
        {"prove": partial(is_traced, sampled=True), "lost": lost},
    ),
    "routes_10": (", 10 routes", partial(routes, count=10), {"routes": 10}),
    "routes_10000": (", 10,000 routes", partial(routes, count=10_000), {"routes": 10_000}),
    "workers_2": (", 2 workers", partial(plain, workers=2), {"workers": 2}),
}


def contender(name: str, program: Path, setting: str) -> Contender:
    """One of our builds in one of the settings. `name` is empty unless several builds are compared."""
    title, make, more = SETTINGS[setting]

    def arrange(program: Path, place: Place) -> list[str]:
        file = place.write("gateway.toml", make(place))
        return [str(program), "run", file, "--log-level", "warn"]

    key = f"{name or 'portcullis'}:{setting}"
    return Contender(key, f"{name or 'Portcullis'}{title}", lambda: program, arrange, ours=True, **more)
