"""`client.tasks`: create, look at, and change tasks, one or many."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from carillon.errors import CarillonError
from carillon.fields import NewTask, NewTime, TaskFields, TaskFilter, query, wire
from carillon.models import Attempt, BatchResult, BatchResults, Bulk, Explanation, Page, Purged, Task
from carillon.transport import Request, Transport, segment

if TYPE_CHECKING:
    from typing_extensions import Unpack

Id = UUID | str

LOOK_EVERY_S, LOOK_EVERY_MAX_S = 0.5, 5.0
BATCH_PAUSE_S = 1.0  # what the API asks for when its broker does not confirm

_NOT_NOW = (429, 503)


class Tasks:
    """Each method raises CarillonError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(self, url: str, *, idempotency_key: str | None = None, **fields: Unpack[TaskFields]) -> Task:
        """The task, once Carillon has made sure of it: it will be called. Repeats by itself, and nothing doubles.

        Give an `idempotency_key` of your own, and a repeat from anywhere (another process, tomorrow) is the same task.
        """
        body = wire({"url": url, **fields})
        request = Request("POST", "/v1/tasks", body=body, idempotency_key=idempotency_key or str(uuid4()))
        return await self._transport.send(request, Task)

    async def batch(
        self, tasks: Sequence[NewTask | Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> Sequence[BatchResult]:
        """Up to 1,000 tasks at once; one result each, in order. A bad one does not keep the others out.

        While the broker has not confirmed some of them the whole is repeated, under the same key.
        """
        body = {"tasks": [wire(task) for task in tasks]}
        request = Request("POST", "/v1/tasks/batch", body=body, idempotency_key=idempotency_key or str(uuid4()))
        until = self._transport.until()
        results = (await self._transport.send(request, BatchResults, until)).results
        with suppress(CarillonError):  # then what is known of each stands
            while _is_unsettled(results) and await self._transport.pause(BATCH_PAUSE_S, until):
                results = (await self._transport.send(request, BatchResults, until)).results
        return results

    async def get(self, id: Id) -> Task:
        return await self._transport.send(Request("GET", _path(id), is_repeatable=True), Task)

    async def attempts(self, id: Id) -> Sequence[Attempt]:
        """Each call so far."""
        request = Request("GET", f"{_path(id)}/attempts", is_repeatable=True)
        return (await self._transport.send(request, Page[Attempt])).data

    async def explain(self, id: Id) -> Explanation:
        return await self._transport.send(Request("GET", f"{_path(id)}/explain", is_repeatable=True), Explanation)

    async def watch(self, id: Id, *, every_s: float = LOOK_EVERY_S) -> AsyncIterator[Task]:
        """The task now, whenever it has changed, and at last when it is final. Far from its time it is asked less."""
        seen: Task | None = None
        while True:
            task = await self.get(id)
            if task != seen:
                yield task
            if task.is_final:
                return
            seen = task
            await sleep(_look_again_in_s(task, every_s))

    async def patch(self, id: Id, **time: Unpack[NewTime]) -> Task:
        """Another time for a task that is still scheduled. Raises: Conflict, for any other."""
        return await self._transport.send(Request("PATCH", _path(id), body=wire(time), is_repeatable=True), Task)

    async def cancel(self, id: Id) -> Task:
        """`status` is "cancelled": no call follows. Any other: it is not known yet, ask again. Raises: Conflict,
        when it is final."""
        return await self._transport.send(Request("DELETE", _path(id), is_repeatable=True), Task)

    async def run(self, id: Id) -> Task:
        """Call it now instead of at its time."""
        return await self._transport.send(Request("POST", f"{_path(id)}/run"), Task)

    async def redrive(self, id: Id) -> Task:
        """Start a failed task again: same id, first attempt, fresh ladder."""
        return await self._transport.send(Request("POST", f"{_path(id)}/redrive"), Task)

    async def cancel_many(self, filter: TaskFilter, *, all: bool = False, dry_run: bool = False) -> Bulk:
        """Cancel what matches, in the background; a `dry_run` only counts. Without a filter `all` must be said."""
        return await self._many("cancel", filter, all, dry_run, is_repeatable=True)

    async def redrive_many(self, filter: TaskFilter, *, all: bool = False, dry_run: bool = False) -> Bulk:
        """Start what matches again (what failed, if the filter names no status), in the background."""
        return await self._many("redrive", filter, all, dry_run, is_repeatable=dry_run)

    async def purge_many(self, filter: TaskFilter, *, all: bool = False, dry_run: bool = False) -> Bulk:
        """Erase payloads and history of what matches and has ended, in the background. Needs the scope admin."""
        return await self._many("purge", filter, all, dry_run, is_repeatable=True)

    async def purge(self, ids: Sequence[Id], *, dry_run: bool = False) -> Purged:
        """Erase payloads and history of these tasks, as far as they have ended. Needs the scope admin."""
        body = {"ids": [str(id) for id in ids], "dry_run": dry_run}
        return await self._transport.send(Request("POST", "/v1/tasks/purge", body=body, is_repeatable=True), Purged)

    async def bulk(self, id: Id) -> Bulk:
        """How far a command for many tasks has come."""
        return await self._transport.send(Request("GET", f"/v1/bulk/{segment(id)}", is_repeatable=True), Bulk)

    async def _many(self, what: str, filter: TaskFilter, all: bool, dry_run: bool, *, is_repeatable: bool) -> Bulk:
        texts: dict[str, str | bool] = dict(query(filter))
        body = {"filter": texts | {"all": True} if all else texts, "dry_run": dry_run}
        request = Request("POST", f"/v1/tasks/{what}", body=body, is_repeatable=is_repeatable)
        return await self._transport.send(request, Bulk)

    def list(self, *, page_size: int | None = None, **filter: Unpack[TaskFilter]) -> AsyncIterator[Task]:
        """Every task that matches, newest first; pages are fetched as you go."""
        limit = [] if page_size is None else [("limit", str(page_size))]
        return self._transport.pages("/v1/tasks", [*query(filter), *limit], Task)


def _is_unsettled(results: Sequence[BatchResult]) -> bool:
    return any(result.status in _NOT_NOW for result in results)


def _path(id: Id) -> str:
    return f"/v1/tasks/{segment(id)}"


def _look_again_in_s(task: Task, every_s: float) -> float:
    if task.next_attempt_at is None:
        return every_s
    left_s = (task.next_attempt_at - datetime.now(timezone.utc)).total_seconds()
    return max(every_s, min(left_s / 2, LOOK_EVERY_MAX_S))
