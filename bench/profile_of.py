"""Where the time goes: system calls per request, and the functions that take most."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from contender import Contender
from machine import CannotBeHad
from load import Load
from stand import Stand


def syscalls(stand: Stand, contender: Contender, load: Load, seconds: float) -> str:
    """Calls per request by name. Under strace a request takes many times as long, so that fewer share an `epoll_wait`."""
    running = stand.running(contender, load)
    load.apply(running, 1)
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as file:
        attach = [argument for pid in running.process.pids() for argument in ("-p", str(pid))]
        tracer = _start(["strace", "-c", "-f", "-o", file.name, *attach])
        told = load.understand(load.apply(running, seconds), running)
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        table = file.read()
    stand.clear()
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", table, re.MULTILINE)
    counts = {name: int(calls) / told["requests"] for calls, name in rows if name != "total"}
    lines = [f"{count:8.2f}  {name}" for name, count in sorted(counts.items(), key=lambda it: -it[1]) if count >= 0.005]
    return "\n".join([*lines, f"{sum(counts.values()):8.2f}  together, per request"])


def functions(stand: Stand, contender: Contender, load: Load, seconds: float) -> str:
    running = stand.running(contender, load)
    load.apply(running, 1)
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "perf.data"))
        pids = ",".join(map(str, running.process.pids()))
        perf = _start(["perf", "record", "-e", "cpu-clock", "-g", "-o", data, "-p", pids])
        load.apply(running, seconds)
        perf.send_signal(signal.SIGINT)
        perf.wait()
        shown = subprocess.run(
            ["perf", "report", "-i", data, "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.2"],
            capture_output=True,
            text=True,
        )
    stand.clear()
    rows = [line.rstrip() for line in shown.stdout.splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join(rows[:20]) or f"perf tells nothing: {shown.stderr.strip()}"


def _start(command: list[str]) -> subprocess.Popen:
    if shutil.which(command[0]) is None:
        raise CannotBeHad(f"{command[0]} cannot be had: it is not installed here")
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
