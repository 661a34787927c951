"""Virtual time: an event loop that never waits, and clocks that read it."""

import asyncio
import random
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

T = TypeVar("T")

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
Rule = Literal[
    "accept waits for a fire",
    "fire commits after the confirm",
    "the row decides what is due",
    "a claim for every call",
    "a claim lasts as long as its call",
    "ack after all of it",
]
"""Of the design: each may be switched off, to see that somebody notices."""
STEPS_MAX = 2_000_000
"""Of the loop: a world that spins at one moment is a bug, and should say so."""


class NothingEverHappens(Exception):
    """All wait for each other."""


class _Jump(selectors.BaseSelector):
    """Waiting is a jump to the next timer. There are no sockets in this world."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.steps += 1
        if timeout is None:
            raise NothingEverHappens
        if self.steps > STEPS_MAX:
            raise NothingEverHappens(f"after {STEPS_MAX} steps it is {self.now:.3f} s")
        self.now += max(timeout, 0.0)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run_virtually(world: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(world)


class Time:
    """The true time of the world, which is Postgres'. Others may be wrong about it by `off_s`."""

    def __init__(self, off_s: float = 0.0) -> None:
        self._off_s = off_s

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.monotonic() + self._off_s)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Luck:
    """What a seed says of delays and faults. `faults` 0 to 1: how bad the times are; `broken`: rules switched off."""

    def __init__(self, seed: int, faults: float, broken: Rule | None = None) -> None:
        self.dice = random.Random(seed)
        self.faults = faults
        self.broken = broken

    def strikes(self, chance: float) -> bool:
        return self.dice.random() < chance * self.faults

    async def delay(self, most_s: float = 0.004) -> None:
        """A moment; now and then a long one."""
        factor = 100 if self.strikes(0.01) else 1
        await asyncio.sleep(self.dice.random() * most_s * factor)


class Life:
    """One process: what it runs ends with it, and what it asks for after its end is never done."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_over = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failure: BaseException | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.is_over:
            self.failure = self.failure or error

    def check(self) -> None:
        """Nobody acts after death, not even to tidy up. Raises: CancelledError."""
        if self.is_over:
            raise asyncio.CancelledError

    def end(self) -> None:
        """As kill -9 does."""
        self.is_over = True
        for task in list(self._tasks):
            task.cancel()
