"""Kills with SIGKILL, by pid file, and waits for each victim to serve again before it is killed once more.

Every process has a lane of its own, so that one that is slow to come back does not shield the others, and several may
be dead at the same time.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deploy.local import readiness
from deploy.local.private import PrivateStack
from deploy.local.processes import is_alive, is_ours, read_pid
from deploy.local.readiness import Question
from tests.chaos.duplicates import Death

BACK_WITHIN_S = 90.0
LOOK_AGAIN_S = 0.1
# Between its return and its next death: what never serves proves nothing, and others wait for it in vain.
SERVES_S = 5.0
# Not in the first seconds, when nothing is under way yet, nor in the last, so that the last ones too kill under load.
FIRST_SHARE, LAST_SHARE = 0.05, 0.90


class NotBack(Exception):
    """A victim does not serve again."""


@dataclass(frozen=True)
class Kill:
    victim: str
    at_s: float
    back_after_s: float
    at_ms: int
    """Since 1970, as the calls and emissions are dated."""

    @property
    def death(self) -> Death:
        return Death(self.victim, self.at_ms, self.at_ms + round(1000 * self.back_after_s))


class Killer:
    """`kills` grows as victims come back. `wanted`: processes or services by name; everything unless given."""

    def __init__(self, stack: PrivateStack, say: Callable[[str], None], wanted: Sequence[str] = ()) -> None:
        self.kills: list[Kill] = []
        self._layout = stack.layout
        self._questions = chosen(questions(stack), wanted)
        self._say = say
        self._begun = time.monotonic()

    @property
    def victims(self) -> list[str]:
        return list(self._questions)

    def count(self) -> Counter[str]:
        """Kills by victim."""
        return Counter(kill.victim for kill in self.kills)

    async def run(self, plan: Mapping[str, Sequence[float]]) -> list[str]:
        """Follow the plan; gives the reasons why it could not be followed to its end."""
        lanes = [self._lane(victim, times_s) for victim, times_s in plan.items()]
        ends = await asyncio.gather(*lanes, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, NotBack):
                raise end
        return [str(end) for end in ends if end is not None]

    async def _lane(self, victim: str, times_s: Sequence[float]) -> None:
        for number, at_s in enumerate(times_s, start=1):
            at_least_s = SERVES_S if number > 1 else 0.0
            await asyncio.sleep(max(self._begun + at_s - time.monotonic(), at_least_s))
            pid = self._kill(victim)
            killed_at_s, killed_at_ms = self._now_s(), time.time_ns() // 1_000_000
            self._say(f"{killed_at_s:7.1f} s  kill -9 {victim} (pid {pid}), {number} of {len(times_s)}")
            await self._back(victim, pid)
            self.kills.append(Kill(victim, killed_at_s, self._now_s() - killed_at_s, killed_at_ms))
            self._say(f"{self._now_s():7.1f} s          {victim} is back after {self._now_s() - killed_at_s:.1f} s")

    def _kill(self, victim: str) -> int:
        pid = read_pid(self._layout.pid_file(victim))
        if pid is None or not is_ours(pid, self._layout):
            raise NotBack(f"{victim} is not there to be killed: pid file says {pid}")
        os.kill(pid, signal.SIGKILL)
        return pid

    async def _back(self, victim: str, old: int) -> None:
        why: str | None = "it was not started again"
        try:
            async with asyncio.timeout(BACK_WITHIN_S):
                while why is not None:
                    await asyncio.sleep(LOOK_AGAIN_S)
                    pid = read_pid(self._layout.pid_file(victim))
                    if pid is not None and pid != old and is_alive(pid):
                        why = await self._questions[victim]()
        except TimeoutError:
            raise NotBack(f"{victim} does not serve within {BACK_WITHIN_S:.0f} s after its death: {why}") from None

    def _now_s(self) -> float:
        return time.monotonic() - self._begun


def plan(victims: Sequence[str], kills: int, over_s: float, dice: random.Random) -> dict[str, list[float]]:
    """For each victim the times of its deaths, in seconds since the run began."""
    first_s, last_s = FIRST_SHARE * over_s, LAST_SHARE * over_s
    return {victim: sorted(dice.uniform(first_s, last_s) for _ in range(kills)) for victim in victims}


def plan_at_random(victims: Sequence[str], total: int, over_s: float, dice: random.Random) -> dict[str, list[float]]:
    """The same, of so many deaths in all, each of anybody."""
    times: dict[str, list[float]] = {victim: [] for victim in victims}
    for _ in range(total):
        times[dice.choice(victims)].append(dice.uniform(FIRST_SHARE * over_s, LAST_SHARE * over_s))
    return {victim: sorted(of_one) for victim, of_one in times.items()}


def chosen(questions: Mapping[str, Question], wanted: Sequence[str]) -> dict[str, Question]:
    """Those named, each by its own name or its service's. Raises: ValueError for a name that nobody has."""
    names = {name: (name, name.rpartition("-")[0]) for name in questions}
    if strangers := set(wanted) - {word for words in names.values() for word in words}:
        raise ValueError(f"nobody here is called {', '.join(sorted(strangers))}: choose from {', '.join(questions)}")
    return {name: ask for name, ask in questions.items() if not wanted or set(names[name]) & set(wanted)}


def questions(stack: PrivateStack) -> dict[str, Question]:
    """Who can be killed, and how one knows that it serves."""
    servers = {
        "rabbitmq": readiness.rabbitmq(stack.variables["CARILLON_AMQP_URL"]),
        "postgres": readiness.postgres(stack.variables["CARILLON_POSTGRES_URL"]),
        "redis": readiness.valkey(stack.variables["CARILLON_REDIS_URL"]),
    }
    return {name: readiness.service(url) for name, url in stack.admin_urls().items()} | servers
