"""`/v1/tasks`: takes tasks in, and tells what became of them."""

import asyncio
import hashlib
import re
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec
import structlog
from aiohttp import web

from libs.common.clock import Clock, format_utc
from libs.common.contracts import CreateTask, encode
from libs.common.egress import EgressRules
from libs.common.ids import derived_id, new_id
from libs.common.topology import CREATE, Route
from services.ingest.auth import Keys
from services.ingest.creation import Sender, create, this_millisecond
from services.ingest.problems import Problem, not_found, unsupported_media_type
from services.ingest.replays import Replays
from services.ingest.requests import read_task
from services.ingest.stored import StoredAttempt, StoredTask, just_created
from services.ingest.trace import TASK_ID, traceparent
from services.ingest.view import attempt_views, task_view

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
    def __init__(self, keys: Keys, publisher: Publishes, history: Remembers, clock: Clock, egress: EgressRules) -> None:
        self._keys = keys
        self._publisher = publisher
        self._history = history
        self._replays = Replays(history)
        self._clock = clock
        self._egress = egress

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/tasks", self.create),
            web.get("/v1/tasks/{id}", self.show),
            web.get("/v1/tasks/{id}/attempts", self.attempts),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """201 after the broker's confirm, never before."""
        project = self._keys.project_of(request.headers.get("Authorization"))
        raw = await _json_body(request)
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
        project = self._keys.project_of(request.headers.get("Authorization"))
        task = await self._found(project, request.match_info["id"])
        return _json(task_view(task, self._clock.now()))

    async def attempts(self, request: web.Request) -> web.Response:
        project = self._keys.project_of(request.headers.get("Authorization"))
        task = await self._found(project, request.match_info["id"])
        views = attempt_views(task, await self._history.attempts(task.id))
        return _json({"data": views, "next_cursor": None})

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
    return _json(task_view(task, now), status=201, headers=headers)


async def _json_body(request: web.Request) -> bytes:
    is_json = request.content_type == "application/json" or request.content_type.endswith("+json")
    if "Content-Type" in request.headers and not is_json:
        raise unsupported_media_type("application/json")
    return await request.read()


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise not_found("There is no task under this id, which is no UUID") from None


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )
