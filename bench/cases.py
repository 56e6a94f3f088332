"""What is measured, and what Portcullis means to reach. A new case is one entry in `CASES`; if it needs another way to
measure, that is one function in `measure.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import measure
from contender import HTTP1, Contender, Spoken
from load import Load, Messages, Sample, Streams
from stand import Stand


@dataclass(frozen=True)
class Column:
    """A number of a sample, as the report shows it."""

    name: str
    title: str
    scale: float = 1.0
    digits: int = 1

    def show(self, value: float) -> str:
        return f"{value * self.scale:,.{self.digits}f}"


@dataclass(frozen=True)
class Case:
    key: str
    title: str
    #: One or two sentences for the report.
    what: str
    measure: Callable[[Stand, Contender, float], Sample]
    #: The settings in which Portcullis takes part, see `ours.SETTINGS`.
    ours: tuple[str, ...] = ("plain",)
    #: Whether the peers do.
    peers: bool = True
    #: The first one is what ratios are made of.
    columns: tuple[Column, ...] = ()
    #: No more than these, where fewer say enough.
    rounds: int = 100

    @property
    def spoken(self) -> Spoken:
        return self.measure.spoken if isinstance(self.measure, Load) else HTTP1


LOAD = (
    Column("cpu", "CPU µs"),
    Column("user", "user"),
    Column("system", "system"),
    Column("rate", "requests/s", digits=0),
    Column("p50", "p50 ms", 1e-3, 2),
    Column("p99", "p99 ms", 1e-3, 2),
    Column("p999", "p99.9 ms", 1e-3, 2),
    Column("busy", "core busy %", 100, 0),
)

CASES = [
    Case(
        "plain",
        "GET, 113 bytes",
        "64 kept connections. *Everything on* is 1,000 routes, an IP whitelist of 10,000 networks, a request id, "
        "forwarding headers, metrics and the access log in a file; all others do nothing but pass on.",
        Load(),
        ours=("plain", "full"),
        columns=LOAD,
    ),
    Case("64k", "GET, 64 KiB", "64 kept connections.", Load(size=64 * 1024), columns=LOAD),
    Case("1m", "GET, 1 MiB", "16 kept connections.", Load(size=1024 * 1024, connections=16), columns=LOAD),
    Case(
        "connect",
        "A new connection for every request",
        "113 bytes, 64 connections at a time. Connections to the upstream are kept, but for the relay's, which has one "
        "for each of the client's.",
        Load(close=True),
        columns=LOAD,
    ),
    Case(
        "tls",
        "HTTP/1.1 over TLS",
        "113 bytes, 64 kept connections from the client, without TLS to the upstream. TLS 1.3 with AES-128-GCM.",
        Load(spoken=Spoken(tls=True)),
        columns=LOAD,
        rounds=5,
    ),
    Case(
        "handshakes",
        "A new TLS connection for every request",
        "113 bytes, 64 connections at a time, each with a full handshake of TLS 1.3: X25519, and a certificate with "
        "ECDSA on P-256. Nobody goes on with a former session, though everybody offers it. Connections to the upstream "
        "are kept. The load generator has more to do than the gateway.",
        Load(close=True, spoken=Spoken(tls=True)),
        columns=LOAD,
        rounds=5,
    ),
    Case(
        "http2",
        "HTTP/2 from the client",
        "113 bytes over TLS 1.3 with AES-128-GCM, 8 connections with 8 requests at a time on each. The upstream is asked "
        "by HTTP/1.1 without TLS.",
        Streams(),
        columns=LOAD,
        rounds=5,
    ),
    Case(
        "http2_up",
        "HTTP/2 to the upstream",
        "113 bytes, 64 kept connections from the client by HTTP/1.1. The upstream is asked by HTTP/2, both without TLS.",
        Load(spoken=Spoken(h2c=True)),
        columns=LOAD,
        rounds=5,
    ),
    Case(
        "websocket",
        "WebSocket messages",
        "64 upgraded connections, on each of which the client sends 64 bytes and waits for their return. What is counted "
        "are messages that came back: each passes the gateway twice.",
        Messages(),
        columns=LOAD,
        rounds=5,
    ),
    Case(
        "xray",
        "X-Ray on the route",
        "113 bytes. Segments go to a daemon over UDP.",
        Load(),
        ours=("plain", "xray_0", "xray_5", "xray_100"),
        peers=False,
        columns=LOAD,
    ),
    Case(
        "routes",
        "10 and 10,000 routes",
        "113 bytes, every route in its turn.",
        Load(spread=True),
        ours=("routes_10", "routes_10000"),
        peers=False,
        columns=LOAD,
    ),
    Case(
        "workers",
        "One worker and two",
        "113 bytes, 128 connections. With only two cores the second worker shares its core with the load generator and "
        "the upstream. *Of what the cores allow* compares the throughput with what these cores would give if CPU per "
        "request (the gateway's, and that of the load generator and the upstream) were all that counts.",
        Load(connections=128),
        ours=("plain", "workers_2"),
        peers=False,
        columns=(*LOAD, Column("allowed", "of what the cores allow %", 100, 0)),
    ),
    Case(
        "memory",
        "Memory per connection",
        "A thousand connections are opened: idle ones after one answer each, and ones that stop after 1 KiB of a head. They "
        "are weighed three seconds later.",
        measure.memory,
        columns=(
            Column("idle", "KiB per idle connection", 1 / 1024),
            Column("half", "KiB per half-sent head", 1 / 1024),
            Column("resident", "MiB before", 1 / 1024**2),
        ),
        rounds=3,
    ),
    Case(
        "start",
        "Start",
        "From the start of the program to its first right answer.",
        measure.start,
        columns=(Column("start", "ms"),),
    ),
    Case(
        "commands",
        "Ten thousand routes",
        "`check` and `explain` as commands; a reload from the signal to the first answer of the new configuration, and "
        "the longest wait for an answer meanwhile.",
        measure.commands,
        ours=("routes_10000",),
        peers=False,
        columns=(
            Column("reload", "reload ms"),
            Column("meanwhile", "longest answer ms"),
            Column("check", "`check` ms"),
            Column("explain", "`explain` ms"),
        ),
        rounds=5,
    ),
]


@dataclass(frozen=True)
class Goal:
    """A number of Portcullis, in one of its settings, and what it must not exceed."""

    text: str
    case: str
    setting: str
    limit: float
    #: The contender that it is divided by: a peer, a setting of ours, or `peers` for the best of all but the relay.
    against: str = ""
    column: str = "cpu"
    #: What turns the number into the limit's unit.
    scale: float = 1.0
    unit: str = "×"


KIB = {"scale": 1 / 1024, "unit": " KiB"}
MS = {"unit": " ms"}

GOALS = [
    Goal("plain proxy, to HAProxy", "plain", "plain", 0.95, against="haproxy"),
    Goal("plain proxy, to the raw relay", "plain", "plain", 1.25, against="relay"),
    Goal("everything on, to our plain proxy", "plain", "full", 1.15, against="plain"),
    Goal("everything on, to the best peer without it", "plain", "full", 1.0, against="peers"),
    Goal("64 KiB, to the best peer", "64k", "plain", 1.0, against="peers"),
    Goal("1 MiB, to the best peer", "1m", "plain", 1.0, against="peers"),
    Goal("new connections, to the best peer", "connect", "plain", 1.0, against="peers"),
    Goal("HTTP/1.1 over TLS, to the best peer", "tls", "plain", 1.0, against="peers"),
    Goal("TLS handshakes, to the best peer", "handshakes", "plain", 1.0, against="peers"),
    Goal("HTTP/2 from the client, to the best peer", "http2", "plain", 1.0, against="peers"),
    Goal("HTTP/2 to the upstream, to the best peer", "http2_up", "plain", 1.0, against="peers"),
    Goal("WebSocket messages, to the best peer", "websocket", "plain", 1.0, against="peers"),
    Goal("X-Ray, 5 % sampled, to without", "xray", "xray_5", 1.03, against="plain"),
    Goal("X-Ray, 100 % sampled, to without", "xray", "xray_100", 1.15, against="plain"),
    Goal("10,000 routes, to 10", "routes", "routes_10000", 1.05, against="routes_10"),
    Goal("CPU per request with two workers, to one", "workers", "workers_2", 1.10, against="plain"),
    Goal("memory per idle connection", "memory", "plain", 12, column="idle", **KIB),
    Goal("memory per half-sent head", "memory", "plain", 24, column="half", **KIB),
    Goal("`check` of 10,000 routes", "commands", "routes_10000", 200, column="check", **MS),
    Goal("`explain` with 10,000 routes", "commands", "routes_10000", 200, column="explain", **MS),
    Goal("reload of 10,000 routes", "commands", "routes_10000", 200, column="reload", **MS),
]
