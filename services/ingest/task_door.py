"""`/v1/tasks`: takes tasks in, and tells what became of them."""

import asyncio
import hashlib
import re
from datetime import datetime
from typing import Protocol
from uuid import UUID

import structlog
from aiohttp import web

from libs.common.clock import Clock, format_utc
from libs.common.contracts import CreateTask, encode
from libs.common.egress import EgressRules
from libs.common.ids import derived_id, new_id
from libs.common.topology import CREATE, Route
from services.ingest.creation import Sender, create, this_millisecond
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.problems import Problem, not_found
from services.ingest.replays import Replays
from services.ingest.requests import NewTask, json_body, read_task
from services.ingest.stored import StoredAttempt, StoredTask, just_created
from services.ingest.trace import TASK_ID, traceparent
from services.ingest.view import AttemptList, TaskView, attempt_views, task_view

# A task is projected milliseconds after its 201; a reader who is faster than that waits.
MISS_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.6, 0.65)

_KEY = re.compile(r"[\x21-\x7e]{1,255}")

log = structlog.get_logger(__name__)


class Publishes(Protocol):
    """The part of `Publisher` that the doors need."""

    async def publish(self, route: Route, item: bytes) -> None:
        """Return when it is confirmed. Raises: NotPublished."""


class Remembers(Protocol):
    """The part of `Store` that is read over HTTP."""

    async def task(self, project: str, id_: UUID) -> StoredTask | None: ...

    async def attempts(self, id_: UUID) -> list[StoredAttempt]: ...


class TaskDoor:
    def __init__(self, publisher: Publishes, history: Remembers, clock: Clock, egress: EgressRules) -> None:
        self._publisher = publisher
        self._history = history
        self._replays = Replays(history)
        self._clock = clock
        self._egress = egress

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
                problems=(400, 409, 413, 415, 422, 503),
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
        project = caller_of(request).project
        raw = await json_body(request)
        new = read_task(raw)
        key = idempotency_key(request)
        sender = Sender(
            id=derived_id(project, key) if key else new_id(),
            project=project,
            fingerprint=hashlib.sha256(raw).hexdigest(),
            now=this_millisecond(self._clock.now()),
            traceparent=traceparent(request),
        )
        task = create(new, sender, self._egress)
        request[TASK_ID] = task.id
        if key and (earlier := await self._replays.earlier(project, task.id)) is not None:
            return _replay(earlier, task.fingerprint, self._clock.now())
        await self._publisher.publish(CREATE, encode(CreateTask(task=task)))
        log.info("task.created", task_id=str(task.id), due_at=format_utc(task.due_at))
        return _created(just_created(task), task.created_at, {})

    async def show(self, request: web.Request) -> web.Response:
        project = caller_of(request).project
        task = await self._found(project, request.match_info["id"])
        return json_response(task_view(task, self._clock.now()))

    async def attempts(self, request: web.Request) -> web.Response:
        project = caller_of(request).project
        task = await self._found(project, request.match_info["id"])
        views = attempt_views(task, await self._history.attempts(task.id))
        return json_response(AttemptList(data=views))

    async def _found(self, project: str, text: str) -> StoredTask:
        id_ = _uuid(text)
        for pause_s in (*MISS_PAUSES_S, None):
            task = await self._history.task(project, id_)
            if task is not None:
                return task
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        raise not_found(f"There is no task {id_}")


def idempotency_key(request: web.Request) -> str | None:
    """Raises: Problem (422)."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        detail = "The header Idempotency-Key must be 1 to 255 visible ASCII characters: send a UUID, for example."
        raise Problem(422, "bad_idempotency_key", detail)
    return key


def _replay(earlier: StoredTask, fingerprint: str, now: datetime) -> web.Response:
    if earlier.fingerprint != fingerprint:
        raise Problem(
            422,
            "idempotency_key_reused",
            f"This Idempotency-Key belongs to the task {earlier.id}, which was made from another body. Send the"
            " same body to get it again, or a new key for a new task.",
        )
    return _created(earlier, now, {"Idempotency-Replayed": "true"})


def _created(task: StoredTask, now: datetime, headers: dict[str, str]) -> web.Response:
    headers["Location"] = f"/v1/tasks/{task.id}"
    return json_response(task_view(task, now), status=201, headers=headers)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise not_found("There is no task under this id, which is no UUID") from None
