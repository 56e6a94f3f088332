"""Requests as fast as the answers come: by wrk, by h2load, or as WebSocket messages."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import quantiles

import client
import fetch
import tls
from client import WrongAnswer
from contender import HTTP1, Contender, Running, Spoken, told
from machine import CORES, busy_seconds, load_cores
from processes import Cpu
from stand import Stand

Sample = dict[str, float]

WARM_UP = 1.0

# wrk runs this once, at the end; without a `request` function it sends the same bytes again and again, at no cost.
REPORT = """
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format('\\n{"requests":%d,"us":%d,"errors":%d,"p50":%g,"p99":%g,"p999":%g}\\n',
        summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""

# For a case that spreads its requests: one for every route, in turn, each made before the first is sent.
SPREAD = """
local made, turn = {}, 0
init = function()
    for route = 0, %d do made[route + 1] = wrk.format("GET", "/api/" .. route .. "/%d") end
end
request = function()
    turn = turn %% #made + 1
    return made[turn]
end
"""


@dataclass(frozen=True)
class Load:
    """By wrk, in HTTP/1.1 over some connections."""

    size: int = 113
    connections: int = 64
    #: A new connection for every request.
    close: bool = False
    #: Over all routes that the contender has, in turn.
    spread: bool = False
    spoken: Spoken = HTTP1

    @property
    def path(self) -> str:
        return f"/api/7/{self.size}"

    def __call__(self, stand: Stand, contender: Contender, seconds: float) -> Sample:
        running = stand.running(contender, self)
        self.apply(running, WARM_UP)
        gateway, upstream = running.process.cpu(), stand.upstream.cpu()
        lost, all_of_them, own = contender.lost(running), busy_seconds(), _own()
        began = time.monotonic()
        said = self.apply(running, seconds)
        took = time.monotonic() - began
        gateway, upstream = running.process.cpu().since(gateway), stand.upstream.cpu().since(upstream)
        own = _own().since(own)
        lost, all_of_them = contender.lost(running) - lost, busy_seconds() - all_of_them
        _empty_log(running)

        told = self.understand(said, running)
        requests = told["requests"]
        if requests == 0 or not running.process.alive():
            raise WrongAnswer(f"it answered nothing any more; it said: {running.process.last_words()}")
        each = 1e6 / requests
        rate = requests / told["us"] * 1e6
        both_loads = (upstream.both + own.both) * each
        return {
            "cpu": gateway.both * each,
            "user": gateway.user * each,
            "system": gateway.system * each,
            "load": both_loads,
            "rate": rate,
            "allowed": rate / _allowed(gateway.both * each, both_loads, contender.workers),
            "p50": told["p50"],
            "p99": told["p99"],
            "p999": told["p999"],
            "busy": gateway.both / took / contender.workers,
            "foreign": max(0.0, all_of_them - gateway.both - upstream.both - own.both) / took,
            "errors": told["errors"] / requests,
            "lost": lost / requests,
        }

    def verify(self, running: Running, stand: Stand) -> None:
        """That answers are right, and that what the case speaks is spoken."""
        place = running.place
        client.verify(place.port, stand.upstream_port, self.path, self.size, self.close, place.spoken.tls)
        if place.spoken.h2c:
            seen = client.get(place.port, "/api/7/head", tls=place.spoken.tls).body.split(b"\r\n")[0]
            if not seen.endswith(b" HTTP/2.0"):
                raise WrongAnswer(f"the upstream was asked by HTTP/2, and saw `{seen.decode()}`")

    def ready(self) -> None:
        """Raises `CannotBeHad` if the load generator cannot be had, or not on equal terms."""
        if self.spoken.tls:
            tls.look_at(self.command(1), self.environment())
        else:
            self.program()

    def apply(self, running: Running, seconds: float) -> str:
        """What the load generator says."""
        script = REPORT + (SPREAD % (running.contender.routes - 1, self.size) if self.spread else "")
        with tempfile.NamedTemporaryFile("w", suffix=".lua", dir=running.place.folder) as file:
            file.write(script)
            file.flush()
            return self.run([*self.command(seconds), "--script", file.name, self.url(running.place.port)])

    def understand(self, said: str, _running: Running) -> Sample:
        return json.loads(said.strip().splitlines()[-1])

    def program(self) -> Path:
        return wrk()

    def version(self) -> str:
        return told(self.program(), "--version")

    def command(self, seconds: float) -> list[str]:
        connections = ["--threads", "1", "--connections", str(self.connections)]
        header = ["--header", "Connection: close"] if self.close else []
        return [str(wrk()), *connections, *header, "--timeout", "10s", "--duration", f"{whole(seconds)}s"]

    def url(self, port: int | str) -> str:
        return f"{'https' if self.spoken.tls else 'http'}://127.0.0.1:{port}{self.path}"

    def shown(self, seconds: float) -> str:
        """Its command, for the report."""
        program, *rest = [*self.command(seconds), self.url("PORT")]
        return " ".join([Path(program).name, *rest])

    def environment(self) -> dict[str, str]:
        return {**os.environ, **fetch.libraries(self.program()), **(tls.environment() if self.spoken.tls else {})}

    def run(self, command: list[str]) -> str:
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
        if done.returncode != 0:
            raise WrongAnswer(f"{Path(command[0]).name} ended with: {(done.stderr or done.stdout).strip()}")
        return done.stdout


@dataclass(frozen=True)
class Streams(Load):
    """By h2load, in HTTP/2 over TLS."""

    connections: int = 8
    #: Requests at a time, on each connection.
    streams: int = 8
    spoken: Spoken = Spoken(tls=True, http2=True)

    def verify(self, running: Running, stand: Stand) -> None:
        super().verify(running, stand)
        client.verify_http2(running.place.port, stand.upstream_port, self.path, self.size)

    def ready(self) -> None:
        client.curl()
        super().ready()

    def apply(self, running: Running, seconds: float) -> str:
        log = self._log(running)
        log.unlink(missing_ok=True)
        return self.run([*self.command(seconds), "--log-file", str(log), self.url(running.place.port)])

    def understand(self, said: str, running: Running) -> Sample:
        for agreed in ("TLS Protocol: TLSv1.3", f"Cipher: {tls.SUITE}", f"Server Temp Key: {tls.GROUP}", "Application protocol: h2"):
            if agreed not in said:
                raise WrongAnswer(f"h2load was to find `{agreed}`, and said: {said.strip()}")
        seconds = float(re.search(r"finished in ([\d.]+)s", said).group(1))
        done = int(re.search(r"(\d+) done", said).group(1))
        right = int(re.search(r"(\d+) 2xx", said).group(1))
        # When each began, its status, and how long it took.
        rows = (line.split() for line in self._log(running).read_text().splitlines())
        parts = quantiles((float(took) for _, status, took, *_ in rows if status == "200"), n=1000, method="inclusive")
        return {
            "requests": done,
            "us": seconds * 1e6,
            "errors": done - right,
            "p50": parts[499],
            "p99": parts[989],
            "p999": parts[998],
        }

    def program(self) -> Path:
        return h2load()

    def command(self, seconds: float) -> list[str]:
        at_once = ["--clients", str(self.connections), "--max-concurrent-streams", str(self.streams)]
        agreed = ["--npn-list", "h2", "--tls13-ciphers", tls.SUITE, "--groups", tls.GROUP]
        return [str(h2load()), "--threads", "1", *at_once, *agreed, "--duration", str(whole(seconds))]

    def _log(self, running: Running) -> Path:
        # Not beside the contender's settings: whoever follows those would hear of every line.
        return running.place.folder.parent / "requests.log"


@dataclass(frozen=True)
class Messages(Load):
    """WebSocket messages of 64 bytes, each of which comes back. They are what is counted."""

    spoken: Spoken = Spoken(websocket=True)

    def verify(self, running: Running, stand: Stand) -> None:
        super().verify(running, stand)
        self.apply(running, 0)

    def apply(self, running: Running, seconds: float) -> str:
        # No time at all is one message for each connection.
        return self.run(self.command(seconds, f"127.0.0.1:{running.place.port}"))

    def program(self) -> Path:
        return fetch.built("tools")

    def command(self, seconds: float, address: str) -> list[str]:
        return [str(self.program()), "messages", address, self.path, str(self.connections), str(round(seconds))]

    def shown(self, seconds: float) -> str:
        program, *rest = self.command(seconds, "127.0.0.1:PORT")
        return " ".join([Path(program).name, *rest])

    def version(self) -> str:
        return "of this repository"


def whole(seconds: float) -> int:
    return max(1, round(seconds))


@cache
def wrk() -> Path:
    here = shutil.which("wrk")
    return Path(here) if here else fetch.from_apt(["wrk", "libluajit-5.1-2"], "usr/bin/wrk")


@cache
def h2load() -> Path:
    here = shutil.which("h2load")
    libraries = ["libev4", "libjansson4", "libjemalloc2", "libnghttp2-14", "libxml2"]
    return Path(here) if here else fetch.from_apt(["nghttp2-client", *libraries], "usr/bin/h2load")


def _allowed(gateway: float, load: float, workers: int) -> float:
    """Requests a second if the gateway keeps its cores busy, or the load its own, or both together all of them."""
    return min(workers / gateway, len(load_cores()) / load, len(CORES) / (gateway + load)) * 1e6


def _own() -> Cpu:
    """Of this program and of the load generators that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Cpu(sum(it.ru_utime for it in used), sum(it.ru_stime for it in used))


def _empty_log(running: Running) -> None:
    """An access log grows by many megabytes a second; it is written for real, and not kept."""
    log = running.place.access_log
    if log.exists():
        os.truncate(log, 0)
