"""`/v1/tasks`: takes tasks in, and tells what became of them."""

import hashlib
from typing import Protocol
from uuid import UUID

from aiohttp import web

from libs.common.clock import Clock
from libs.common.egress import EgressRules
from libs.common.ids import derived_id, new_id
from services.ingest.creation import Sender, this_millisecond
from services.ingest.creator import Publishes, TaskCreator
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.idempotency import idempotency_key
from services.ingest.lookup import found
from services.ingest.requests import NewTask, json_body, read_task
from services.ingest.stored import StoredAttempt, StoredTask
from services.ingest.trace import TASK_ID, traceparent
from services.ingest.view import AttemptList, TaskView, attempt_views, task_view


class Remembers(Protocol):
    """The part of `Store` that is read over HTTP."""

    async def task(self, project: str, id_: UUID) -> StoredTask | None: ...

    async def attempts(self, id_: UUID) -> list[StoredAttempt]: ...


class TaskDoor:
    def __init__(self, publisher: Publishes, history: Remembers, clock: Clock, egress: EgressRules) -> None:
        self._creator = TaskCreator(publisher, history, egress)
        self._history = history
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="POST",
                path="/v1/tasks",
                handler=self.create,
                scope="tasks:write",
                summary="Schedule a call",
                takes={JSON: NewTask},
                headers=("Idempotency-Key", "traceparent"),
                gives={201: TaskView},
                problems=(400, 408, 409, 413, 415, 422, 503),
            ),
            Endpoint(
                method="GET",
                path="/v1/tasks/{id}",
                handler=self.show,
                scope="tasks:read",
                summary="A task, payload included",
                gives={200: TaskView},
                problems=(404, 503),
            ),
            Endpoint(
                method="GET",
                path="/v1/tasks/{id}/attempts",
                handler=self.attempts,
                scope="tasks:read",
                summary="Each call of a task, and what was answered",
                gives={200: AttemptList},
                problems=(404, 503),
            ),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """201 after the broker's confirm, never before."""
        project, key = caller_of(request).project, idempotency_key(request)
        raw = await json_body(request)
        new = read_task(raw)
        sender = Sender(
            id=derived_id(project, key) if key else new_id(),
            project=project,
            fingerprint=hashlib.sha256(raw).hexdigest(),
            now=this_millisecond(self._clock.now()),
            traceparent=traceparent(request),
        )
        request[TASK_ID] = sender.id
        create = self._creator.create if key is None else self._creator.create_once
        task, is_replay = await create(new, sender)
        headers = {"Location": f"/v1/tasks/{task.id}"}
        if not is_replay:
            return json_response(task_view(task, task.created_at), status=201, headers=headers)
        headers["Idempotency-Replayed"] = "true"
        return json_response(task_view(task, self._clock.now()), status=201, headers=headers)

    async def show(self, request: web.Request) -> web.Response:
        project = caller_of(request).project
        task = await found(self._history, project, request.match_info["id"])
        return json_response(task_view(task, self._clock.now()))

    async def attempts(self, request: web.Request) -> web.Response:
        project = caller_of(request).project
        task = await found(self._history, project, request.match_info["id"])
        views = attempt_views(task, await self._history.attempts(task.id))
        return json_response(AttemptList(data=views))
