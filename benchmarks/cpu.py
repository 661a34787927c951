"""CPU seconds of processes, from /proc: a process with all its children, dead ones included.

The kernel counts in ticks of 10 ms, so a number below a second is rough.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.layout import Layout
from deploy.local.processes import read_pid

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
NOT_MEASURED = ("supervisor", "epmd", "smtp")
"""Of the stack's processes: they do nothing during a burst."""


@dataclass(frozen=True)
class Usage:
    """CPU seconds since boot or start. `machine` is everything that ran, ours or not."""

    processes: Mapping[str, float]
    machine: float

    def since(self, before: "Usage") -> "Usage":
        used = {name: seconds - before.processes[name] for name, seconds in self.processes.items()}
        return Usage(used, self.machine - before.machine)


def pids_of(layout: Layout) -> dict[str, int]:
    """By name, the processes of a stack that are worth measuring."""
    found = {path.name: read_pid(path) for path in layout.pids.iterdir() if not path.name.startswith(".")}
    return {name: pid for name, pid in sorted(found.items()) if pid is not None and name not in NOT_MEASURED}


def usage(pids: Mapping[str, int]) -> Usage:
    """Of all these processes now, each with its children."""
    stats = _stats()
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    for pid in pids.values():  # named itself, so not part of another's tree
        children[stats[pid].parent].remove(pid)
    return Usage({name: _tree(pid, stats, children) for name, pid in pids.items()}, _machine())


@dataclass(frozen=True)
class _Stat:
    parent: int
    own_s: float
    dead_children_s: float


def _tree(pid: int, stats: Mapping[int, _Stat], children: Mapping[int, list[int]]) -> float:
    stat = stats[pid]
    own = stat.own_s + stat.dead_children_s
    return own + sum(_tree(child, stats, children) for child in children.get(pid, ()))


def _stats() -> dict[int, _Stat]:
    found = {int(entry.name): _stat(entry) for entry in PROC.iterdir() if entry.name.isdigit()}
    return {pid: stat for pid, stat in found.items() if stat is not None}


def _stat(folder: Path) -> _Stat | None:
    try:
        text = (folder / "stat").read_text()
    except OSError:  # it ended
        return None
    # After the name, which may hold spaces and brackets. Fields as in proc(5), from `state`, which is number 3.
    fields = text.rpartition(")")[2].split()
    ticks = [int(field) for field in fields[11:15]]
    return _Stat(int(fields[1]), sum(ticks[:2]) / TICKS_PER_S, sum(ticks[2:]) / TICKS_PER_S)


def _machine() -> float:
    """Busy seconds of all cores together: everything but idle and waiting for disks."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, _cpu_line().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def _cpu_line() -> str:
    return (PROC / "stat").read_text().partition("\n")[0]
