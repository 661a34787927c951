"""Gathers what is known of a task and of what stands in its way, for whoever wants it explained."""

from typing import Protocol

from libs.common.clock import Clock
from libs.common.contracts import Call, decode_call
from libs.common.host import host_of
from services.ingest.explain import explain
from services.ingest.explanation import Explanation, Facts, OpenBreaker, Rule
from services.ingest.projection import FINAL
from services.ingest.stored import StoredAttempt, StoredTask


class KnowsObstacles(Protocol):
    """`ObstacleStore`."""

    async def obstacles(self, project: str, host: str) -> tuple[Rule | None, list[OpenBreaker]]: ...


class Inquiry:
    def __init__(self, targets: KnowsObstacles, clock: Clock) -> None:
        self._targets = targets
        self._clock = clock

    async def explanation(self, task: StoredTask, last: StoredAttempt | None) -> Explanation:
        """`last` is the latest call of the task's generation, where it is kept. Raises: PostgresAway."""
        return explain(await self._facts(task, last), self._clock.now())

    async def _facts(self, task: StoredTask, last: StoredAttempt | None) -> Facts:
        call = decode_call(task.call) if task.has_payload else Call(url="")
        host = host_of(call.url)
        if task.state in FINAL:
            return Facts(task, call, host, last=last)
        rule, breakers = await self._targets.obstacles(task.project, host)
        return Facts(task, call, host, rule, breakers, last)
