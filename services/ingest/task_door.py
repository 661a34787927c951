"""`/v1/tasks`: takes tasks in, and tells what became of them."""

import hashlib
from datetime import datetime
from typing import Protocol
from uuid import UUID

import structlog
from aiohttp import web

from libs.common.clock import Clock, format_utc
from libs.common.contracts import CreateTask, Task, encode
from libs.common.egress import EgressRules
from libs.common.ids import derived_id, new_id
from libs.common.publisher import NotPublished
from libs.common.topology import CREATE, Route
from services.ingest.creation import Sender, create, this_millisecond
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.idempotency import RecentKeys, Use, check_body, idempotency_key
from services.ingest.lookup import found
from services.ingest.replays import Replays
from services.ingest.requests import NewTask, json_body, read_task
from services.ingest.stored import StoredAttempt, StoredTask, just_created
from services.ingest.trace import TASK_ID, traceparent
from services.ingest.view import AttemptList, TaskView, attempt_views, task_view

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
        self._recent = RecentKeys()
        self._log = log.bind()  # once: a line per task costs enough
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
        if key is None:
            return _created(await self._published(create(new, sender, self._egress)))
        with self._recent.claimed(sender.id, sender.fingerprint):
            return await self._create_once(new, sender)

    async def _create_once(self, new: NewTask, sender: Sender) -> web.Response:
        """The task of an Idempotency-Key, made now or before."""
        use = self._recent.use(sender.id, sender.fingerprint)
        if use is not None:
            sender = sender._replace(now=use.created_at)  # the same times again
        task = create(new, sender, self._egress)
        earlier = await self._replays.earlier(sender.project, sender.id)
        if earlier is not None:
            check_body(sender.id, earlier.fingerprint, sender.fingerprint)
        elif use is not None and use.is_confirmed:
            earlier = just_created(task)  # not projected yet
        if earlier is not None:
            return _replayed(earlier, self._clock.now())
        this = Use(sender.fingerprint, sender.now)
        try:
            await self._published(task)
        except NotPublished as error:
            self._recent.settle(sender.id, this, error)
            raise
        self._recent.settle(sender.id, this, None)
        return _created(task)

    async def _published(self, task: Task) -> Task:
        await self._publisher.publish(CREATE, encode(CreateTask(task=task)))
        self._log.info("task.created", task_id=str(task.id), due_at=format_utc(task.due_at))
        return task

    async def show(self, request: web.Request) -> web.Response:
        project = caller_of(request).project
        task = await found(self._history, project, request.match_info["id"])
        return json_response(task_view(task, self._clock.now()))

    async def attempts(self, request: web.Request) -> web.Response:
        project = caller_of(request).project
        task = await found(self._history, project, request.match_info["id"])
        views = attempt_views(task, await self._history.attempts(task.id))
        return json_response(AttemptList(data=views))


def _created(task: Task) -> web.Response:
    return _answered(just_created(task), task.created_at, {})


def _replayed(earlier: StoredTask, now: datetime) -> web.Response:
    return _answered(earlier, now, {"Idempotency-Replayed": "true"})


def _answered(task: StoredTask, now: datetime, headers: dict[str, str]) -> web.Response:
    headers["Location"] = f"/v1/tasks/{task.id}"
    return json_response(task_view(task, now), status=201, headers=headers)
