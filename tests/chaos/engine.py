"""Follows a plan: does each fault at its time, undoes it, and waits until who was hurt serves again.

Each lane goes on by itself, so that one that is slow to come back does not shield the others. Whatever happens, what
was begun is undone: nothing stays frozen, cut or deleted.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from deploy.local import readiness
from deploy.local.private import PrivateStack
from deploy.local.readiness import Question
from tests.chaos.fault import Done, Fault
from tests.chaos.faults import ENDS_ITSELF, House, broker, hurt, processes
from tests.chaos.plan import SERVES_S, lanes

BACK_WITHIN_S = 90.0
LOOK_AGAIN_S = 0.2


class NotBack(Exception):
    """Who was hurt does not serve again."""


class Engine:
    """`done` grows as faults end."""

    def __init__(self, house: House, say: Callable[[str], None]) -> None:
        self.done: list[Done] = []
        self._house = house
        self._layout = house.stack.layout
        self._questions = questions(house.stack)
        self._say = say
        self._begun = time.monotonic()

    async def run(self, plan: Sequence[Fault]) -> list[str]:
        """Gives the reasons why the plan could not be followed to its end, or the stack does not serve after it."""
        ends = await asyncio.gather(*map(self._lane, lanes(plan).values()), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, NotBack | processes.NotThere | broker.NotHealed):
                raise end
        return [str(end) for end in ends if end is not None] + await self._not_serving()

    async def _lane(self, faults: Sequence[Fault]) -> None:
        free_at_s = 0.0
        for fault in faults:
            await asyncio.sleep(max(fault.at_s, free_at_s) - self._now_s())
            await self._befall(fault)
            free_at_s = self._now_s() + SERVES_S

    async def _befall(self, fault: Fault) -> None:
        began_ms, began_s = _now_ms(), self._now_s()
        self._say(f"{began_s:7.1f} s  {fault}" + ("" if fault.kind in ENDS_ITSELF else f", for {fault.for_s:.1f} s"))
        try:
            async with hurt(self._house, fault):
                if fault.kind not in ENDS_ITSELF:
                    await asyncio.sleep(fault.for_s)
            healed_s = self._now_s()
            await self._serves(fault)
        finally:  # also one that does not heal explains what it has done
            self.done.append(Done(fault, began_ms, _now_ms()))
        self._say(
            f"{self._now_s():7.1f} s          {fault.kind} {fault.target} is over after {healed_s - began_s:.1f} s,"
            f" served again after {self._now_s() - began_s:.1f} s"
        )

    async def _serves(self, fault: Fault) -> None:
        """Raises: NotBack."""
        names = [fault.target] if fault.kind in ("kill", "restart", "freeze") else []
        if fault.kind == "missing":  # whoever looked for it meanwhile has ended
            names = list(self._house.stack.admin_urls())
        why = await self._wait_for(names)
        if why:
            raise NotBack(f"after {fault}, within {BACK_WITHIN_S:.0f} s: {'; '.join(why)}")

    async def _not_serving(self) -> list[str]:
        why = await self._wait_for(list(self._questions))
        return [f"after all faults, within {BACK_WITHIN_S:.0f} s: {one}" for one in why]

    async def _wait_for(self, names: Sequence[str]) -> list[str]:
        """Until all of these serve; gives the reasons of those that do not within `BACK_WITHIN_S`."""
        deadline = time.monotonic() + BACK_WITHIN_S
        waiting = list(names)
        while waiting:
            answers = await asyncio.gather(*(self._questions[name]() for name in waiting))
            why = {name: answer for name, answer in zip(waiting, answers, strict=True) if answer is not None}
            if time.monotonic() > deadline:
                return [f"{name} does not serve: {answer}" for name, answer in why.items()]
            waiting = list(why)
            await asyncio.sleep(LOOK_AGAIN_S if why else 0)
        return []

    def _now_s(self) -> float:
        return time.monotonic() - self._begun


def questions(stack: PrivateStack) -> dict[str, Question]:
    """Who can be hurt, and how one knows that it serves."""
    servers = {
        "rabbitmq": readiness.rabbitmq(stack.variables["CARILLON_AMQP_URL"]),
        "postgres": readiness.postgres(stack.variables["CARILLON_POSTGRES_URL"]),
        "redis": readiness.valkey(stack.variables["CARILLON_REDIS_URL"]),
    }
    return {name: readiness.service(url) for name, url in stack.admin_urls().items()} | servers


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
