"""What each process holds at a moment: memory, descriptors, threads, CPU from /proc; asyncio tasks from its metrics."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.cpu import usage
from benchmarks.scrape import gauge
from benchmarks.soak.servers import Servers

PROC = Path("/proc")
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
        figures = {name: {**held(_tree(pid, children)), "CPU s": cpu.processes[name]} for name, pid in alive.items()}
        return {**figures, MACHINE: {"CPU s": cpu.machine}}


def held(pids: Iterable[int]) -> dict[str, float]:
    """Of these processes together. `anon MiB` is what they allocated themselves: a leak can only be there; PSS has
    files and shared buffers too, each page's share."""
    sums = dict.fromkeys(("anon MiB", "PSS MiB", "RSS MiB", "descriptors", "threads"), 0.0)
    for pid in pids:
        folder = PROC / str(pid)
        try:
            memory = _kib(folder / "smaps_rollup")
            threads = len(os.listdir(folder / "task"))
            descriptors = len(os.listdir(folder / "fd"))
        except OSError:  # it ended
            continue
        # Swapped pages were allocated too.
        sums["anon MiB"] += (memory["Pss_Anon"] + memory.get("SwapPss", 0)) / 1024
        sums["PSS MiB"] += memory["Pss"] / 1024
        sums["RSS MiB"] += memory["Rss"] / 1024
        sums["descriptors"] += descriptors
        sums["threads"] += threads
    return sums


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
