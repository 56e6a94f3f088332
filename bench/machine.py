"""Where things lie, and who runs on which core."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "bench"


class CannotBeHad(Exception):
    """Something that the benchmark needs is not here and cannot be fetched."""


CORES = sorted(os.sched_getaffinity(0))


def gateway_cores(workers: int = 1) -> list[int]:
    """The last cores: the first one hears most interrupts."""
    return CORES[-workers:]


def load_cores() -> list[int]:
    """All but the gateway's: for the load generator, the upstream and this program."""
    return CORES[:-1] or CORES


def settle() -> None:
    """Moves this program, and so everything it starts, away from the gateway's core, with as many files as allowed."""
    os.sched_setaffinity(0, load_cores())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def need_two_cores() -> None:
    if len(CORES) < 2:
        raise CannotBeHad("two cores cannot be had: the gateway needs one, and the load generator another")


def busy_seconds() -> float:
    """CPU time that all programs on this machine have taken so far, on the cores that are ours to use."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *numbers = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in CORES:
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, numbers)
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, str]:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "processor": f"{model}, {len(CORES)} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def revision() -> str:
    git = ["git", "-C", str(ROOT)]
    told = subprocess.run([*git, "log", "-1", "--format=%h of %cs"], capture_output=True, text=True)
    if told.returncode != 0:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return told.stdout.strip() + (", with changes" if changed.stdout.strip() else "")
