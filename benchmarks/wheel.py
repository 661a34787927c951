"""`python -m benchmarks.wheel`: the timing wheel beside heapq and asyncio's timers, a million each, in one run.

Keys are ids as the scheduler holds them (UUIDs made before), due at random within a minute, expired millisecond by
millisecond. Each structure has a process of its own, so that its memory is the growth of that process.
"""

import asyncio
import gc
import heapq
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID

from benchmarks.machine import load_average
from services.scheduler.wheel import TimingWheel

COUNT = 1_000_000
HORIZON_MS = 60_000
ROUNDS = 3


class Timers(Protocol):
    """Ticks are milliseconds from 0."""

    def insert(self, key: UUID, due: int) -> object: ...

    def cancel(self, token: object) -> None: ...

    def expire_all(self) -> int:
        """Tick by tick to the end of the horizon. Gives how many expired."""


class Wheel:
    def __init__(self) -> None:
        self._wheel: TimingWheel[UUID] = TimingWheel(0)

    def insert(self, key: UUID, due: int) -> object:
        self._wheel.schedule(key, due)
        return key

    def cancel(self, token: object) -> None:
        self._wheel.cancel(token)  # type: ignore[arg-type]

    def expire_all(self) -> int:
        return sum(len(self._wheel.advance(now)) for now in range(1, HORIZON_MS + 1))


class Heap:
    """With the usual way to cancel: the entry stays and is skipped when it comes up."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, UUID]] = []
        self._held: dict[UUID, int] = {}

    def insert(self, key: UUID, due: int) -> object:
        self._held[key] = due
        heapq.heappush(self._heap, (due, key))
        return key

    def cancel(self, token: object) -> None:
        del self._held[token]  # type: ignore[arg-type]

    def expire_all(self) -> int:
        heap, held, expired = self._heap, self._held, 0
        for now in range(1, HORIZON_MS + 1):
            due = []
            while heap and heap[0][0] <= now:
                at, key = heapq.heappop(heap)
                if held.get(key) == at:
                    del held[key]
                    due.append(key)
            expired += len(due)
        return expired


class Loop(asyncio.SelectorEventLoop):
    """A real event loop whose time passes a millisecond per turn."""

    now = 0.0

    def time(self) -> float:
        return self.now


class LoopTimers:
    def __init__(self) -> None:
        self._loop = Loop()
        self._due: list[UUID] = []

    def insert(self, key: UUID, due: int) -> object:
        return self._loop.call_at(due / 1000, self._due.append, key)

    def cancel(self, token: object) -> None:
        assert isinstance(token, asyncio.TimerHandle)
        token.cancel()

    def expire_all(self) -> int:
        self._loop.call_soon(self._turn, 1)
        self._loop.run_forever()
        return len(self._due)

    def _turn(self, now: int) -> None:
        self._loop.now = now / 1000 + 1e-9
        if now <= HORIZON_MS + 1:
            self._loop.call_soon(self._turn, now + 1)
        else:
            self._loop.stop()


class Cost(NamedTuple):
    """Nanoseconds per operation; bytes per timer held, its key not counted."""

    insert_ns: float
    cancel_ns: float
    expire_ns: float
    held_bytes: float


def cost(make: Callable[[], Timers]) -> Cost:
    """Insert all, cancel a tenth and insert it again, expire all."""
    chance = random.Random(1)  # noqa: S311  no secret
    keys = [UUID(int=chance.getrandbits(128)) for _ in range(COUNT)]
    dues = [chance.randrange(1, HORIZON_MS) for _ in keys]
    gc.collect()
    gc.freeze()
    before = resident_bytes()
    timers = make()
    begun = time.perf_counter()
    tokens = [timers.insert(key, due) for key, due in zip(keys, dues, strict=True)]
    inserted = time.perf_counter()
    held = resident_bytes() - before - COUNT * 8  # the list of tokens
    some = range(0, COUNT, 10)
    cancelling = time.perf_counter()
    for n in some:
        timers.cancel(tokens[n])
    cancelled = time.perf_counter()
    for n in some:
        timers.insert(keys[n], dues[n] + 1)
    expiring = time.perf_counter()
    assert timers.expire_all() == COUNT
    expired = time.perf_counter()
    return Cost(
        (inserted - begun) * 1e9 / COUNT,
        (cancelled - cancelling) * 1e9 / len(some),
        (expired - expiring) * 1e9 / COUNT,
        held / COUNT,
    )


def resident_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def main() -> int:
    print(f"{COUNT:,} timers within {HORIZON_MS // 1000} s, best of {ROUNDS}; load before {load_average():.2f}")
    print(f"{'':8} {'insert':>10} {'cancel':>10} {'expire':>10} {'held':>10}")
    spawn = multiprocessing.get_context("spawn")
    for make in (Wheel, Heap, LoopTimers):
        with spawn.Pool(1, maxtasksperchild=1) as pool:
            costs = [pool.apply(cost, (make,)) for _ in range(ROUNDS)]
        best = Cost(*(min(figures) for figures in zip(*costs, strict=True)))
        print(
            f"{make.__name__:10} {best.insert_ns:5.0f} ns {best.cancel_ns:7.0f} ns {best.expire_ns:7.0f} ns"
            f" {best.held_bytes:8.0f} B"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
