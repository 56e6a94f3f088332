"""The ways to measure. Each takes a stand, a contender and about how many seconds it may take, and gives a sample:
numbers by name. A case repeats that in turns with the others.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import client
import fetch
from client import WrongAnswer
from contender import Contender, Running
from machine import CORES, busy_seconds, gateway_cores, load_cores
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
    """Requests as fast as the answers come, over some connections."""

    size: int = 113
    connections: int = 64
    #: A new connection for every request.
    close: bool = False
    #: Over all routes that the contender has, in turn.
    spread: bool = False

    @property
    def path(self) -> str:
        return f"/api/7/{self.size}"

    def __call__(self, stand: Stand, contender: Contender, seconds: float) -> Sample:
        running = stand.running(contender, self.path, self.size, self.close)
        self.apply(running, WARM_UP)
        gateway, upstream = running.process.cpu(), stand.upstream.cpu()
        lost, all_of_them, own = contender.lost(running), busy_seconds(), _own()
        began = time.monotonic()
        told = self.apply(running, seconds)
        took = time.monotonic() - began
        gateway, upstream = running.process.cpu().since(gateway), stand.upstream.cpu().since(upstream)
        own = _own().since(own)
        lost, all_of_them = contender.lost(running) - lost, busy_seconds() - all_of_them
        _empty_log(running)

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

    def apply(self, running: Running, seconds: float) -> Sample:
        script = REPORT + (SPREAD % (running.contender.routes - 1, self.size) if self.spread else "")
        with tempfile.NamedTemporaryFile("w", suffix=".lua", dir=running.place.folder) as file:
            file.write(script)
            file.flush()
            done = subprocess.run(
                [*self.command(seconds), "--script", file.name, f"http://127.0.0.1:{running.place.port}{self.path}"],
                env={**os.environ, **fetch.libraries(wrk())},
                capture_output=True,
                text=True,
            )
        if done.returncode != 0:
            raise WrongAnswer(f"wrk ended with: {(done.stderr or done.stdout).strip()}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def command(self, seconds: float) -> list[str]:
        connections = ["--threads", "1", "--connections", str(self.connections)]
        header = ["--header", "Connection: close"] if self.close else []
        return [str(wrk()), *connections, *header, "--timeout", "10s", "--duration", f"{max(1, round(seconds))}s"]


def memory(stand: Stand, contender: Contender, _seconds: float) -> Sample:
    """What a thousand connections add, each idle after its first answer, or in the midst of a head."""
    many, load = 1000, Load()
    sample = {}
    for name, opened in (("idle", client.open_idle), ("half", client.open_half_sent)):
        with _fresh(stand, contender, load) as running:
            load.apply(running, 1)
            time.sleep(0.3)
            before = running.process.resident()
            connections = opened(running.place.port, load.path, many)
            time.sleep(0.5)
            sample[name] = (running.process.resident() - before) / many
            sample["resident"] = float(before)
            for connection in connections:
                connection.close()
    return sample


def start(stand: Stand, contender: Contender, _seconds: float) -> Sample:
    """From the start of the program to its first right answer."""
    load = Load()
    began = time.monotonic()
    running = stand.start(contender)
    try:
        body = client.body_of(load.size)
        client.wait_until_right(running.process, running.place.port, load.path, body, pause=0.0005)
        return {"start": (time.monotonic() - began) * 1e3}
    finally:
        running.process.stop()


def commands(stand: Stand, contender: Contender, _seconds: float) -> Sample:
    """`check`, `explain` and a reload, of the contender's file."""
    load = Load()
    with _fresh(stand, contender, load) as running:
        program, file = str(stand.programs[contender.key]), running.place.folder / "gateway.toml"
        sample = {
            "check": _took([program, "check", str(file)], gateway_cores()),
            "explain": _took([program, "explain", str(file), "GET", "http://127.0.0.1/api/7/113"], gateway_cores()),
        }
        file.write_text(file.read_text() + '\n[[route]]\nmatch = { path = "/new" }\nrespond = { body = "new" }\n')
        began = time.monotonic()
        os.kill(running.process.pid, 1)
        longest = 0.0
        while True:
            asked = time.monotonic()
            answer = client.get(running.place.port, "/new")
            now = time.monotonic()
            longest = max(longest, now - asked)
            if answer.body == b"new":
                break
            if now - began > 30:
                raise WrongAnswer("it did not reload in 30 s")
            time.sleep(0.001)
        sample["reload"] = (now - began) * 1e3
        sample["meanwhile"] = longest * 1e3
        return sample


@cache
def wrk() -> Path:
    here = shutil.which("wrk")
    return Path(here) if here else fetch.from_apt(["wrk", "libluajit-5.1-2"], "usr/bin/wrk")


@contextmanager
def _fresh(stand: Stand, contender: Contender, load: Load):
    """Started for one sample, since memory that was taken once is seldom given back."""
    running = stand.start(contender)
    try:
        body = client.body_of(load.size)
        client.wait_until_right(running.process, running.place.port, load.path, body)
        yield running
    finally:
        running.process.stop()


def _took(command: list[str], cores: list[int]) -> float:
    """Milliseconds that a command takes, which must succeed."""
    began = time.monotonic()
    pinned = ["taskset", "-c", ",".join(map(str, cores)), *command]
    done = subprocess.run(pinned, capture_output=True, text=True)
    if done.returncode != 0:
        raise WrongAnswer(f"`{' '.join(command[1:3])}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return (time.monotonic() - began) * 1e3


def _allowed(gateway: float, load: float, workers: int) -> float:
    """Requests a second if the gateway keeps its cores busy, or the load its own, or both together all of them."""
    return min(workers / gateway, len(load_cores()) / load, len(CORES) / (gateway + load)) * 1e6


def _own() -> Cpu:
    """Of this program and of the load generators that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Cpu(sum(it.ru_utime for it in used), sum(it.ru_stime for it in used))


def _empty_log(running: Running) -> None:
    """An access log grows by many megabytes a second; it is written for real, and not kept."""
    log = running.place.folder / "access.log"
    if log.exists():
        os.truncate(log, 0)
