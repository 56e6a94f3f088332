"""A client that believes nothing: every contender has to give right answers before it is measured."""

from __future__ import annotations

import http.client
import itertools
import shutil
import socket
import string
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Callable, NamedTuple

import tls as terms
from machine import CannotBeHad
from processes import Process


class WrongAnswer(Exception):
    """A contender did not do what the case asks for."""


class Answer(NamedTuple):
    status: int
    body: bytes
    kept: bool


def body_of(size: int) -> bytes:
    """What the upstream answers to `/any/path/SIZE`."""
    return bytes(itertools.islice(itertools.cycle(string.ascii_lowercase.encode()), size))


def ask(connection: http.client.HTTPConnection, path: str, headers: dict[str, str] | None = None) -> Answer:
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    body = response.read()
    return Answer(response.status, body, connection.sock is not None)


def get(port: int, path: str, source: str = "127.0.0.1", tls: bool = False) -> Answer:
    connection = connect(port, source, tls)
    try:
        return ask(connection, path)
    finally:
        connection.close()


def connect(port: int, source: str = "127.0.0.1", tls: bool = False) -> http.client.HTTPConnection:
    """Opened by the first request."""
    if tls:
        return http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=10, source_address=(source, 0), context=terms.context()
        )
    return http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(source, 0))


def soon(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something comes true in that time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_until_right(
    process: Process, port: int, path: str, body: bytes, pause: float = 0.01, tls: bool = False
) -> None:
    """Until the answer is right for the first time."""
    deadline = time.monotonic() + 30
    last = "it accepted no connection"
    while time.monotonic() < deadline:
        if not process.alive():
            raise WrongAnswer(f"it ended at once: {process.last_words()}")
        try:
            answer = get(port, path, tls=tls)
        except (OSError, http.client.HTTPException):
            time.sleep(pause)
            continue
        if answer.status == 200 and answer.body == body:
            return
        last = f"its last answer was a {answer.status} of {len(answer.body)} bytes"
        time.sleep(pause)
    raise WrongAnswer(f"it gave no right answer in 30 s: {last}; it said: {process.last_words()}")


def verify(port: int, upstream: int, path: str, size: int, close: bool, tls: bool = False) -> None:
    """That answers are right, and that connections are kept, or closed, on both sides as the case has it."""
    expected = body_of(size)
    connection = connect(port, tls=tls)
    headers = {"Connection": "close"} if close else {}
    before = accepted(upstream)
    if tls:
        connection.connect()
        if connection.sock.getpeercert(binary_form=True) != terms.certificate():
            raise WrongAnswer("it has another certificate than it was given")
    for _ in range(4):
        answer = ask(connection, path, headers)
        if answer.status != 200:
            raise WrongAnswer(f"`{path}` was answered with {answer.status}")
        if answer.body != expected:
            raise WrongAnswer(f"`{path}` was answered with {len(answer.body)} bytes that are not the upstream's")
        if answer.kept == close:
            raise WrongAnswer("the connection was kept" if close else "the connection was not kept")
    connection.close()
    # One for the first request, one for this question.
    opened = accepted(upstream) - before - 1
    if not close and opened > 1:
        raise WrongAnswer(f"4 requests in turn took {opened} connections to the upstream")


def verify_http2(port: int, upstream: int, path: str, size: int) -> None:
    """The same over HTTP/2, which is chosen by ALPN."""
    before, many = accepted(upstream), 4
    told = "%{stderr}%{http_version} %{response_code} %{num_connects}\n"
    asked = [str(curl()), "--silent", "--insecure", "--http2", "--max-time", "10", "--write-out", told]
    done = subprocess.run([*asked, *[f"https://127.0.0.1:{port}{path}"] * many], capture_output=True)
    answers = done.stderr.decode().splitlines()
    if answers != ["2 200 1"] + ["2 200 0"] * (many - 1):
        raise WrongAnswer(f"curl saw versions, answers and new connections `{', '.join(answers)}`")
    if done.stdout != body_of(size) * many:
        raise WrongAnswer(f"{many} answers over HTTP/2 have {len(done.stdout)} bytes that are not the upstream's")
    opened = accepted(upstream) - before - 1
    if opened > 1:
        raise WrongAnswer(f"{many} requests in turn took {opened} connections to the upstream")


@cache
def curl() -> Path:
    """One that speaks HTTP/2."""
    here = shutil.which("curl")
    if here is None or "HTTP2" not in subprocess.run([here, "--version"], capture_output=True, text=True).stdout.split():
        raise CannotBeHad("curl with HTTP/2 cannot be had: answers over HTTP/2 are looked at with it")
    return Path(here)


def accepted(upstream: int) -> int:
    """How many connections the upstream has accepted."""
    return int(get(upstream, "/connections").body)


def open_idle(port: int, path: str, count: int) -> list[socket.socket]:
    """Connections that have had an answer each, and now wait."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    connections = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(request)
        if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
            raise WrongAnswer("a connection was refused")
        connections.append(connection)
    return connections


def open_half_sent(port: int, path: str, count: int) -> list[socket.socket]:
    """Connections that have sent a kibibyte of a head, and not its end."""
    begin = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Half: ".encode().ljust(1024, b"x")
    connections = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(begin)
        connections.append(connection)
    return connections
