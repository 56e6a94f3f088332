"""Programs that are started here, what they cost, and that none of them stays behind."""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

_running: list["Process"] = []


class Cpu(NamedTuple):
    """Seconds of processor time."""

    user: float
    system: float

    def since(self, before: "Cpu") -> "Cpu":
        return Cpu(self.user - before.user, self.system - before.system)

    @property
    def both(self) -> float:
        return self.user + self.system


_sections = 0
_late: int | None = None


def leave_nothing_behind() -> None:
    """Whatever ends this program but a SIGKILL also ends what it has started."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number, _frame):
        global _late
        if _sections:
            _late = number
        else:
            raise SystemExit(128 + number)

    def last() -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        stop_all()

    for number in signals:
        signal.signal(number, end)
    atexit.register(last)


@contextmanager
def uninterrupted():
    """Lets a signal wait. One between the start of a program and the note of its number would leave it behind."""
    global _sections, _late
    _sections += 1
    try:
        yield
    finally:
        _sections -= 1
        if _late is not None and not _sections:
            number, _late = _late, None
            raise SystemExit(128 + number)


class Process:
    """A program with its children, in a process group of its own, on the cores given."""

    def __init__(self, command: list[str], cores: list[int], log: Path, environment: dict[str, str] | None = None):
        self.command = command
        self.log = log
        pinned = ["taskset", "-c", ",".join(map(str, cores)), *command]
        with uninterrupted(), log.open("wb") as output:
            self._child = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
            self.pid = self._child.pid
            _running.append(self)

    def alive(self) -> bool:
        return self._child.poll() is None

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-8:]) or "(it said nothing)"

    def cpu(self) -> Cpu:
        """Of all its processes and threads, those that have ended included."""
        user = system = 0
        for _, fields in self._members():
            # Its own, and that of children it has waited for.
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
        return Cpu(user / TICK, system / TICK)

    def resident(self) -> int:
        """Bytes of memory that its processes hold."""
        return sum(int(fields[21]) for _, fields in self._members()) * PAGE

    def pids(self) -> list[int]:
        return [pid for pid, _ in self._members()]

    def _members(self):
        """The number and the status fields (from the state on) of every process of its group."""
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                text = Path(entry.path, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The name before the last parenthesis may hold spaces.
            fields = text.rpartition(")")[2].split()
            if int(fields[2]) == self.pid:
                yield int(entry.name), fields

    @uninterrupted()
    def stop(self) -> None:
        if self not in _running:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._child.wait()
        _running.remove(self)
        # Children of a killed program are the system's to reap; its ports are free only then.
        deadline = time.monotonic() + 5
        while any(True for _, fields in self._members() if fields[0] not in "ZX") and time.monotonic() < deadline:
            time.sleep(0.005)


def stop_all() -> None:
    while _running:
        _running[-1].stop()


_given: set[int] = set()


def free_port() -> int:
    """One that nobody listens on, below those that the system gives to clients: a load would soon take it otherwise."""
    while True:
        port = random.randrange(18000, 32000)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
