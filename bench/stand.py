"""The stand: an upstream, a sink for traces, and the contenders that run on it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import client
import fetch
from contender import HTTP1, Contender, Place, Running, Spoken
from machine import WORK, gateway_cores, load_cores
from processes import Process, free_port, stop_all

if TYPE_CHECKING:
    from load import Load


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
        self.upstream_port, self.h2c_port, self.sink_port = free_port(), free_port(), free_port()
        self.upstream = self._tool(tools, "upstream", self.upstream_port, self.h2c_port)
        self._tool(tools, "sink", self.sink_port)
        client.wait_until_right(self.upstream, self.upstream_port, "/113", client.body_of(113))
        return self

    def __exit__(self, *_) -> None:
        stop_all()

    def _tool(self, tools: str, name: str, *ports: int) -> Process:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        return Process([tools, name, *addresses], load_cores(), self.folder / f"{name}.log")

    def start(self, contender: Contender, spoken: Spoken = HTTP1) -> Running:
        """Starts one, on the gateway's core. Whether it answers is the caller's to find out."""
        place = self._place(contender, spoken)
        program = self.programs[contender.key]
        command = contender.arrange(program, place)
        cores = gateway_cores(contender.workers)
        environment = {**fetch.libraries(program), **contender.environment}
        process = Process(command, cores, place.folder / "output.log", environment)
        self.commands.setdefault(contender.key, _shown(command, cores, contender))
        return Running(contender, place, process)

    def running(self, contender: Contender, load: Load) -> Running:
        """One that runs already and gives right answers, or else is started and looked at."""
        if contender.key not in self._running:
            running = self.start(contender, load.spoken)
            try:
                body = client.body_of(load.size)
                client.wait_until_right(running.process, running.place.port, load.path, body, tls=load.spoken.tls)
                load.verify(running, self)
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

    def _place(self, contender: Contender, spoken: Spoken) -> Place:
        folder = self.folder / contender.key.replace(":", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        upstream = self.h2c_port if spoken.h2c else self.upstream_port
        place = Place(folder, free_port(), free_port(), upstream, self.sink_port, spoken)
        place.access_log.parent.mkdir()
        return place


def _shown(command: list[str], cores: list[int], contender: Contender) -> str:
    """Without folders, which differ from machine to machine."""
    names = [re.sub(r"[^\s=]*/", "", word) for word in command]
    settings = [f"{name}={value}" for name, value in contender.environment.items()]
    return " ".join([*settings, "taskset", "-c", ",".join(map(str, cores)), *names])
