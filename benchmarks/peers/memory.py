"""Memory of processes with their children, shared pages counted once (PSS), sampled while a block runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

PROC = Path("/proc")
SAMPLE_EVERY_S = 1.0


class Peak:
    """In MiB, by group of processes; each group has its peak at its own time."""

    def __init__(self) -> None:
        self.mib: dict[str, float] = {}

    def note(self, groups: Mapping[str, Iterable[int]]) -> None:
        children = _children()
        for name, pids in groups.items():
            now = sum(_tree_kib(pid, children) for pid in pids) / 1024
            self.mib[name] = max(self.mib.get(name, 0.0), now)


@asynccontextmanager
async def sampled(peak: Peak, groups: Callable[[], Mapping[str, Iterable[int]]]) -> AsyncIterator[None]:
    async def sample() -> None:
        while True:
            peak.note(groups())
            await asyncio.sleep(SAMPLE_EVERY_S)

    task = asyncio.create_task(sample())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _tree_kib(pid: int, children: Mapping[int, list[int]]) -> int:
    return _own_kib(pid) + sum(_tree_kib(child, children) for child in children.get(pid, ()))


def _own_kib(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:  # it ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            parent = _parent(entry)
            if parent is not None:
                found.setdefault(parent, []).append(int(entry.name))
    return found


def _parent(folder: Path) -> int | None:
    try:
        # After the name, which may hold spaces and brackets: state, parent, ...
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended
        return None
