"""The stand: an upstream, a sink for traces, and the contenders that run on it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import client
import fetch
from contender import Contender, Place, Running
from machine import WORK, gateway_cores, load_cores
from processes import Process, free_port, stop_all


class Stand:
    """Ends everything that was started on it when it is left."""

    def __init__(self, programs: dict[str, Path]):
        #: Where each contender's program lies.
        self.programs = programs
        self.folder = WORK / "run"
        #: With which command each was started, for the report.
        self.commands: dict[str, str] = {}
        self._running: dict[str, Running] = {}

    def __enter__(self) -> "Stand":
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        tools = str(fetch.built("tools"))
        self.upstream_port, self.sink_port = free_port(), free_port()
        self.upstream = self._tool(tools, "upstream", self.upstream_port)
        self._tool(tools, "sink", self.sink_port)
        client.wait_until_right(self.upstream, self.upstream_port, "/113", client.body_of(113))
        return self

    def __exit__(self, *_) -> None:
        stop_all()

    def _tool(self, tools: str, name: str, port: int) -> Process:
        return Process([tools, name, f"127.0.0.1:{port}"], load_cores(), self.folder / f"{name}.log")

    def start(self, contender: Contender) -> Running:
        """Starts one, on the gateway's core. Whether it answers is the caller's to find out."""
        place = self._place(contender)
        program = self.programs[contender.key]
        command = contender.arrange(program, place)
        cores = gateway_cores(contender.workers)
        environment = {**fetch.libraries(program), **contender.environment}
        process = Process(command, cores, place.folder / "output.log", environment)
        self.commands.setdefault(contender.key, _shown(command, cores, contender))
        return Running(contender, place, process)

    def running(self, contender: Contender, path: str, size: int, close: bool = False) -> Running:
        """One that runs already and gives right answers, or else is started and looked at."""
        if contender.key not in self._running:
            running = self.start(contender)
            try:
                port = running.place.port
                client.wait_until_right(running.process, port, path, client.body_of(size))
                client.verify(port, self.upstream_port, path, size, close)
                contender.prove(running)
            except BaseException:
                running.process.stop()
                raise
            self._running[contender.key] = running
        return self._running[contender.key]

    def clear(self) -> None:
        """Ends the contenders, and leaves the upstream."""
        for running in self._running.values():
            running.process.stop()
        self._running.clear()

    def _place(self, contender: Contender) -> Place:
        folder = self.folder / contender.key.replace(":", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return Place(folder, free_port(), free_port(), self.upstream_port, self.sink_port)


def _shown(command: list[str], cores: list[int], contender: Contender) -> str:
    """Without folders, which differ from machine to machine."""
    names = [re.sub(r"[^\s=]*/", "", word) for word in command]
    settings = [f"{name}={value}" for name, value in contender.environment.items()]
    return " ".join([*settings, "taskset", "-c", ",".join(map(str, cores)), *names])
