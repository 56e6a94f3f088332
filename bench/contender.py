"""What takes part: a program with its settings."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Callable, Mapping

import fetch
from processes import Process


@dataclass(frozen=True)
class Spoken:
    """What a case speaks beside HTTP/1.1 without TLS."""

    #: Clients come over TLS, and choose between HTTP/1.1 and HTTP/2 by ALPN.
    tls: bool = False
    #: They choose HTTP/2.
    http2: bool = False
    #: The upstream is asked by HTTP/2 without TLS.
    h2c: bool = False
    #: Clients ask for WebSocket.
    websocket: bool = False

    def named(self) -> list[str]:
        """What of it is spoken."""
        return [field.name for field in fields(self) if getattr(self, field.name)]


HTTP1 = Spoken()


@dataclass(frozen=True)
class Place:
    """Where a contender listens and writes, where it sends, and what it speaks."""

    folder: Path
    port: int
    admin: int
    upstream: int
    sink: int
    spoken: Spoken = HTTP1

    @property
    def access_log(self) -> Path:
        """In a folder of its own, as logs are: the one with the settings is watched for changes."""
        return self.folder / "log" / "access.log"

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
    #: Why it is not able to speak something, by the field of [`Spoken`].
    unable: Mapping[str, str] = field(default_factory=dict)
    #: Of a gateway under test, not a peer.
    ours: bool = False

    def obstacle(self, spoken: Spoken) -> str | None:
        """Why it cannot take part where this is spoken."""
        return next((self.unable[name] for name in spoken.named() if name in self.unable), None)
