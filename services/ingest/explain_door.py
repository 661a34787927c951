"""`GET /v1/tasks/{id}/explain`: gathers what is known of a task, and says it."""

from typing import Protocol
from uuid import UUID

from aiohttp import web

from libs.common.clock import Clock
from libs.common.contracts import Call, decode_call
from libs.common.host import host_of
from services.ingest.endpoint import Endpoint, caller_of, json_response
from services.ingest.explain import explain
from services.ingest.explanation import Explanation, Facts, OpenBreaker, Rule
from services.ingest.lookup import found
from services.ingest.projection import FINAL
from services.ingest.stored import StoredAttempt, StoredTask


class Remembers(Protocol):
    """The part of `Store` that this needs."""

    async def task(self, project: str, id_: UUID) -> StoredTask | None: ...

    async def attempts(self, id_: UUID) -> list[StoredAttempt]: ...


class KnowsObstacles(Protocol):
    """`ObstacleStore`."""

    async def obstacles(self, project: str, host: str) -> tuple[Rule | None, list[OpenBreaker]]: ...


class ExplainDoor:
    def __init__(self, history: Remembers, targets: KnowsObstacles, clock: Clock) -> None:
        self._history = history
        self._targets = targets
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path="/v1/tasks/{id}/explain",
                handler=self.explain,
                scope="tasks:read",
                summary="Where a task is, why it is not called yet, and what would move it",
                gives={200: Explanation},
                problems=(404, 503),
            )
        ]

    async def explain(self, request: web.Request) -> web.Response:
        task = await found(self._history, caller_of(request).project, request.match_info["id"])
        return json_response(explain(await self._facts(task), self._clock.now()))

    async def _facts(self, task: StoredTask) -> Facts:
        call = decode_call(task.call) if task.has_payload else Call(url="")
        host = host_of(call.url)
        attempts = await self._history.attempts(task.id) if task.last_attempt else []
        last = next((each for each in reversed(attempts) if each.generation == task.generation), None)
        if task.state in FINAL:
            return Facts(task, call, host, last=last)
        rule, breakers = await self._targets.obstacles(task.project, host)
        return Facts(task, call, host, rule, breakers, last)
