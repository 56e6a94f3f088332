"""What takes part: a program with its settings."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Mapping

import fetch
from processes import Process


@dataclass(frozen=True)
class Place:
    """Where a contender listens and writes, and where it sends."""

    folder: Path
    port: int
    admin: int
    upstream: int
    sink: int

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True)
class Running:
    """A contender at work."""

    contender: "Contender"
    place: Place
    process: Process


def told(program: Path, *question: str) -> str:
    """The first thing in a program's answer that looks like a version."""
    environment = {**os.environ, **fetch.libraries(program)}
    answer = subprocess.run([program, *question], env=environment, capture_output=True, text=True, timeout=30)
    found = re.search(r"\d+\.\d+\.\d+", answer.stdout + answer.stderr)
    return found.group() if found else "of an unknown version"


@dataclass(frozen=True)
class Contender:
    key: str
    title: str
    #: Gets the program; raises `CannotBeHad`.
    fetch: Callable[[], Path]
    #: Writes its settings, and says with which command they are put to work.
    arrange: Callable[[Path, Place], list[str]]
    #: Its version, for the report.
    version: Callable[[Path], str] = lambda program: told(program, "--version")
    environment: Mapping[str, str] = field(default_factory=dict)
    #: On how many cores it may run.
    workers: int = 1
    #: Over how many routes a case may spread its requests: `/api/0/…`, `/api/1/…`, and so on.
    routes: int = 1
    #: What must be true of it beside right answers; raises `WrongAnswer`.
    prove: Callable[[Running], None] = lambda _: None
    #: How much of what it should have written was lost so far.
    lost: Callable[[Running], float] = lambda _: 0.0
    #: Of a gateway under test, not a peer.
    ours: bool = False
