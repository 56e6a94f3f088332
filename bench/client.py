"""A client that believes nothing: every contender has to give right answers before it is measured."""

from __future__ import annotations

import http.client
import itertools
import socket
import string
import time
from typing import Callable, NamedTuple

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


def get(port: int, path: str, source: str = "127.0.0.1") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(source, 0))
    try:
        return ask(connection, path)
    finally:
        connection.close()


def soon(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something comes true in that time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_until_right(process: Process, port: int, path: str, body: bytes, pause: float = 0.01) -> None:
    """Until the answer is right for the first time."""
    deadline = time.monotonic() + 30
    last = "it accepted no connection"
    while time.monotonic() < deadline:
        if not process.alive():
            raise WrongAnswer(f"it ended at once: {process.last_words()}")
        try:
            answer = get(port, path)
        except (OSError, http.client.HTTPException):
            time.sleep(pause)
            continue
        if answer.status == 200 and answer.body == body:
            return
        last = f"its last answer was a {answer.status} of {len(answer.body)} bytes"
        time.sleep(pause)
    raise WrongAnswer(f"it gave no right answer in 30 s: {last}; it said: {process.last_words()}")


def verify(port: int, upstream: int, path: str, size: int, close: bool) -> None:
    """That answers are right, and that connections are kept, or closed, on both sides as the case has it."""
    expected = body_of(size)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Connection": "close"} if close else {}
    before = accepted(upstream)
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
