"""`GET /v1/tasks/{id}/explain`."""

from typing import Protocol
from uuid import UUID

from aiohttp import web

from libs.common.clock import Clock
from services.ingest.endpoint import Endpoint, caller_of, json_response
from services.ingest.explanation import Explanation
from services.ingest.inquiry import Inquiry, KnowsObstacles
from services.ingest.lookup import found
from services.ingest.stored import StoredAttempt, StoredTask


class Remembers(Protocol):
    """The part of `Store` that this needs."""

    async def task(self, project: str, id_: UUID) -> StoredTask | None: ...

    async def attempts(self, id_: UUID) -> list[StoredAttempt]: ...


class ExplainDoor:
    def __init__(self, history: Remembers, targets: KnowsObstacles, clock: Clock) -> None:
        self._history = history
        self._inquiry = Inquiry(targets, clock)

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
        attempts = await self._history.attempts(task.id) if task.last_attempt else []
        last = next((each for each in reversed(attempts) if each.generation == task.generation), None)
        return json_response(await self._inquiry.explanation(task, last))
