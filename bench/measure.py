"""The ways to measure that are no load. Each takes a stand, a contender and about how many seconds it may take, and
gives a sample: numbers by name. A case repeats that in turns with the others.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager

import client
from client import WrongAnswer
from contender import Contender
from load import Load, Sample
from machine import gateway_cores
from stand import Stand


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
            # So long that whoever gives memory back for connections that rest has done so.
            time.sleep(3)
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
