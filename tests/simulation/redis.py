"""The dispatcher's marks in memory, with the same answers as the scripts of `Marks` give on Redis.

Away means, as there: every claim is granted, and what was to be written is lost.
"""

import asyncio
from uuid import UUID

from libs.common.contracts import Task
from libs.common.redis import RedisAway
from services.dispatcher.marks import (
    ATTEMPTS_MAX,
    CANCEL_S,
    CLAIM_S,
    DONE_S,
    RENEW_EVERY_S,
    SUCCESS_S_MAX,
    VERDICT_S,
    Cancelled,
    CancelResult,
    Claim,
    Claimed,
    InFlight,
    Settled,
    Standing,
    Told,
)
from services.dispatcher.retry import Done, Retry, Verdict
from tests.simulation.world import Life, Luck, Time

Mark = str | tuple[str, Verdict]


class Memory:
    """One Redis."""

    def __init__(self, luck: Luck) -> None:
        self.luck = luck
        self.time = Time()
        self.is_up = True
        self.was_ever_away = False
        self._held: dict[tuple[object, ...], tuple[Mark, float]] = {}

    def get(self, *key: object) -> Mark | None:
        mark, until = self._held.get(key, (None, 0.0))
        return mark if until > self.time.monotonic() else None

    def set(self, mark: Mark, seconds: float, *key: object) -> None:
        self._held[key] = (mark, self.time.monotonic() + seconds)

    def delete(self, *key: object) -> None:
        self._held.pop(key, None)

    async def go_away(self, seconds: float, *, and_forget: bool) -> None:
        self.is_up, self.was_ever_away = False, True
        await asyncio.sleep(seconds)
        if and_forget:
            self._held.clear()
        self.is_up = True


class SimMarks:
    """`Marks` of one replica."""

    def __init__(self, memory: Memory, life: Life) -> None:
        self._memory = memory
        self._life = life
        self._claimed: dict[tuple[object, ...], float] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self.renew()

    async def renew(self) -> None:
        now = self._memory.time.monotonic()
        old = [key for key, since in self._claimed.items() if now - since >= RENEW_EVERY_S]
        if self._memory.luck.broken == "a claim lasts as long as its call" or not await self._is_there():
            return
        for key in self._claimed.keys() & old:
            self._claimed[key] = now
            if self._memory.get(*key) in (None, f"c{self._life.name}"):
                self._memory.set(f"c{self._life.name}", CLAIM_S, *key)

    async def claim(self, task: Task) -> Claim:
        asked_at, key = self._memory.time.monotonic(), _key(task)
        claim = await self._asked(task)
        if claim == Claimed():
            self._claimed[key] = asked_at
        return claim

    async def _asked(self, task: Task) -> Claim:
        if not await self._is_there():
            return Claimed()
        who = (task.id, task.generation)
        found = self._against(task, who)
        if found is not None:
            return found
        self._memory.set(f"c{self._life.name}", CLAIM_S, *_key(task))
        await self._memory.luck.delay(0.001)
        return Claimed()

    def _against(self, task: Task, who: tuple[UUID, int]) -> Standing | None:
        """The verdict before the success, or the outcome of a call that died unpublished is never heard of."""
        if self._memory.luck.broken == "a claim for every call":
            return None
        match self._memory.get(*_key(task)):
            case (_, verdict):
                return Told(verdict)
            case str(mark) if mark.startswith("c"):
                return InFlight(mark[1:])
            case str():
                return Settled()
        if self._memory.get("success", *who):
            return Settled()
        return Cancelled() if self._memory.get("cancel", *who) else None

    async def look(self, task: Task) -> Standing | None:
        return self._against(task, (task.id, task.generation)) if await self._is_there() else None

    async def tell(self, task: Task, verdict: Verdict) -> Told | Settled | None:
        self._claimed.pop(_key(task), None)
        if not await self._is_there():
            return None
        match self._memory.get(*_key(task)):
            case (_, stands):
                return Told(stands)
            case "d" | "e":
                return Settled()
        self._memory.set(("v", verdict), VERDICT_S, *_key(task))
        return None

    async def is_cancelled(self, task: Task) -> bool:
        return await self._is_there() and bool(self._memory.get("cancel", task.id, task.generation))

    async def cancel(self, id_: UUID, generation: int) -> CancelResult:
        if not await self._is_there():
            raise RedisAway("a simulation")
        if self._memory.get("success", id_, generation):
            return "ended"
        answer: CancelResult = "cancelled"
        for number in range(1, ATTEMPTS_MAX + 1):
            mark = self._memory.get("attempt", id_, generation, number)
            if mark == "e":
                return "ended"
            if mark and mark != "d":
                answer = "in-flight"
        self._memory.set("x", CANCEL_S, "cancel", id_, generation)
        return answer

    async def release(self, task: Task) -> None:
        key = _key(task)
        self._claimed.pop(key, None)
        if await self._is_there() and self._memory.get(*key) == f"c{self._life.name}":
            self._memory.delete(*key)

    async def settle(self, task: Task, verdict: Verdict, longest_wait_s: float) -> None:
        if not await self._is_there():
            return
        mark = "d" if isinstance(verdict, Retry) else "e"
        self._memory.set(mark, DONE_S, *_key(task))
        if isinstance(verdict, Done) and task.attempt > 1:
            seconds = min(DONE_S + int(longest_wait_s), SUCCESS_S_MAX)
            self._memory.set("d", seconds, "success", task.id, task.generation)

    async def _is_there(self) -> bool:
        await self._memory.luck.delay(0.001)
        self._life.check()
        return self._memory.is_up


def _key(task: Task) -> tuple[object, ...]:
    return ("attempt", task.id, task.generation, task.attempt)
