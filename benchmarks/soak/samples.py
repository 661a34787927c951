"""What each process holds at a moment: memory, descriptors, threads, CPU from /proc; asyncio tasks from its metrics.

Connections to the sink are counted apart from other descriptors: a dispatcher opens as many as it makes calls at once,
and closes those that nobody used for seconds, so they breathe with each moment of haste. One that leaks stays open
when no call is made any more (`calling`).
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.cpu import usage
from benchmarks.scrape import gauge
from benchmarks.soak.servers import Servers

PROC = Path("/proc")
TO_SINK = "connections to the sink"
TASKS = "carillon_asyncio_tasks"
MACHINE = "the machine"
"""Everything that ran on it, ours or not."""

Figures = dict[str, dict[str, float]]
"""By process, by measure."""


@dataclass(frozen=True)
class Sample:
    at_s: float
    """Since the load began."""
    figures: Figures


@dataclass
class Sampler:
    """A process stands for itself and its children; one that has ended is left out of the sample."""

    pids: Mapping[str, int]
    admin_urls: Mapping[str, str]
    session: aiohttp.ClientSession
    servers: Servers
    folder: Path
    """The stack's: what it keeps on disk is added up as `disk`."""
    sink_port: int
    began: float

    async def sample(self) -> Sample:
        at_s = time.monotonic() - self.began
        figures = self._of_processes()
        for name, url in self.admin_urls.items():
            if name in figures:
                figures[name]["asyncio tasks"] = await gauge(self.session, url, TASKS)
        for name, told in (await self.servers.ask()).items():
            figures.setdefault(name, {}).update(told)
        figures["disk"] = {
            "logs MiB": _size(self.folder / "logs"),
            "rabbitmq MiB": _size(self.folder / "data" / "rabbitmq"),
            "postgres MiB": _size(self.folder / "data" / "postgres"),
        }
        return Sample(at_s, figures)

    def _of_processes(self) -> Figures:
        children = _children()
        alive = {name: pid for name, pid in self.pids.items() if (PROC / str(pid)).exists()}
        cpu = usage(alive)
        to_sink = _sockets_to(self.sink_port)
        figures = {name: held(_tree(pid, children), to_sink) for name, pid in alive.items()}
        for name, process in figures.items():
            process["CPU s"] = cpu.processes[name]
        return {**figures, MACHINE: {"CPU s": cpu.machine}}


def calling(pids: Mapping[str, int], sink_port: int) -> dict[str, int]:
    """How many connections to the sink each process has; those that have none are left out."""
    to_sink, children = _sockets_to(sink_port), _children()
    found = {name: int(held(_tree(pid, children), to_sink)[TO_SINK]) for name, pid in pids.items()}
    return {name: count for name, count in found.items() if count}


def held(pids: Iterable[int], to_sink: Collection[str]) -> dict[str, float]:
    """Of these processes together. `anon MiB` is what they allocated themselves: a leak can only be there; PSS has
    files and shared buffers too, each page's share. Descriptors that are `to_sink` count apart."""
    sums = dict.fromkeys(("anon MiB", "PSS MiB", "RSS MiB", "descriptors", TO_SINK, "threads"), 0.0)
    for pid in pids:
        folder = PROC / str(pid)
        try:
            memory = _kib(folder / "smaps_rollup")
            threads = len(os.listdir(folder / "task"))
            descriptors = _opened(folder / "fd")
        except OSError:  # it ended
            continue
        # Swapped pages were allocated too.
        sums["anon MiB"] += (memory["Pss_Anon"] + memory.get("SwapPss", 0)) / 1024
        sums["PSS MiB"] += memory["Pss"] / 1024
        sums["RSS MiB"] += memory["Rss"] / 1024
        calls = sum(opened in to_sink for opened in descriptors)
        sums[TO_SINK] += calls
        sums["descriptors"] += len(descriptors) - calls
        sums["threads"] += threads
    return sums


def _opened(folder: Path) -> list[str]:
    """What each descriptor stands for; one that is closed meanwhile is left out."""
    found = []
    for name in os.listdir(folder):
        try:
            found.append(os.readlink(folder / name))
        except FileNotFoundError:
            continue
    return found


def _sockets_to(port: int) -> set[str]:
    """Of this machine, as descriptors name them. Source: proc_net_tcp in the kernel's documentation."""
    rows = [line.split() for line in (PROC / "net" / "tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if int(row[2].rpartition(":")[2], 16) == port}


def _size(folder: Path) -> float:
    """In MiB; what disappears meanwhile is nothing."""
    total = 0
    for path, _folders, files in os.walk(folder):
        for file in files:
            try:
                total += (Path(path) / file).lstat().st_size
            except OSError:
                continue
    return total / 1024 / 1024


def _kib(rollup: Path) -> dict[str, int]:
    pairs = (line.split(":") for line in rollup.read_text().splitlines()[1:])
    return {name: int(value.split()[0]) for name, value in pairs}


def _tree(pid: int, children: Mapping[int, list[int]]) -> list[int]:
    return [pid, *(below for child in children.get(pid, ()) for below in _tree(child, children))]


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                # After the name, which may hold spaces and brackets: state, parent, ...
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found
