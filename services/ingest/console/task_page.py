"""/console/tasks/{id}: one task with its calls, and what an operator can do to it."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

import structlog
from aiohttp import web

from libs.common.clock import Clock, format_utc
from libs.common.contracts import Call, decode_call
from libs.common.postgres import PostgresAway
from libs.common.publisher import NotPublished
from services.ingest.console.forms import back, field_of
from services.ingest.console.guard import audit_note
from services.ingest.console.page import Page, visitor_of
from services.ingest.console.render import render
from services.ingest.console.task_sheet import Sheet, possible, sheet
from services.ingest.console.timeline import Named, latest, timeline
from services.ingest.console.when import read_when
from services.ingest.inquiry import Inquiry
from services.ingest.lookup import awaited, found, task_id
from services.ingest.problems import FieldError, Problem, problem_of
from services.ingest.projection import FINAL
from services.ingest.replays import FindsTasks
from services.ingest.store_attempts import AttemptStore
from services.ingest.store_purge import Purged
from services.ingest.stored import StoredTask
from services.ingest.task_changes import TaskChanges

_NAMED = re.compile(r"([0-9]{1,7})\.([0-9]{1,7})")

log = structlog.get_logger(__name__)


class Purges(Protocol):
    """The part of `PurgeStore` that this needs."""

    async def purge(self, project: str, ids: list[UUID]) -> dict[UUID, Purged]: ...


class Told(NamedTuple):
    """What came of a command, and the task as it left it: the history shows that milliseconds later."""

    text: str
    task: StoredTask | None = None


class TaskPages:
    def __init__(
        self,
        history: FindsTasks,
        attempts: AttemptStore,
        inquiry: Inquiry,
        changes: TaskChanges,
        purges: Purges,
        clock: Clock,
        public_url: str | None,
    ) -> None:
        self._history = history
        self._attempts = attempts
        self._inquiry = inquiry
        self._changes = changes
        self._purges = purges
        self._clock = clock
        self._public_url = public_url

    def pages(self) -> list[Page]:
        one = "/tasks/{id}"
        return [
            Page(method="GET", path=one, handler=self.show, role="viewer"),
            Page(method="POST", path=f"{one}/run", handler=self.run, role="operator", action="task.run"),
            Page(method="POST", path=f"{one}/cancel", handler=self.cancel, role="operator", action="task.cancel"),
            Page(method="POST", path=f"{one}/redrive", handler=self.redrive, role="operator", action="task.redrive"),
            Page(method="GET", path=f"{one}/reschedule", handler=self.ask_when, role="operator"),
            Page(
                method="POST",
                path=f"{one}/reschedule",
                handler=self.reschedule,
                role="operator",
                action="task.reschedule",
            ),
            Page(method="GET", path=f"{one}/purge", handler=self.ask_purge, role="admin"),
            Page(method="POST", path=f"{one}/purge", handler=self.purge, role="admin", action="task.purge"),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        task = await self._task(request)
        return await render(request, "task.html", sheet=await self._sheet(task, _named(request)))

    async def run(self, request: web.Request) -> web.StreamResponse:
        async def run(project: str, id_: str) -> Told:
            return Told("Due now: it is called in a moment.", await self._changes.run(project, id_))

        return await self._carried_out(request, run)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        async def cancel(project: str, id_: str) -> Told:
            task, is_certain = await self._changes.cancel(project, id_)
            if is_certain:
                return Told("Cancelled: no call of it follows.", task)
            audit_note(request, is_certain=False)
            return Told(
                "In flight: a call is under way, or nobody answered in time. Unless that call succeeds, none follows."
            )

        return await self._carried_out(request, cancel)

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        async def redrive(project: str, id_: str) -> Told:
            task = await self._changes.redrive(project, id_)
            audit_note(request, generation=task.generation)
            return Told("Redriven: it starts again now, with a fresh ladder.", task)

        return await self._carried_out(request, redrive)

    async def ask_when(self, request: web.Request) -> web.StreamResponse:
        task = await self._task(request)
        if "reschedule" not in possible(task, self._clock.now()):
            raise Problem(409, "not_scheduled", "Only a task that waits for its first call can be moved.")
        return await self._when_page(request, task, [])

    async def reschedule(self, request: web.Request) -> web.StreamResponse:
        """A time that is no time comes back with the form; all else is told on the task's page."""

        async def move(project: str, id_: str) -> Told:
            new = read_when(field_of(request, "when"), field_of(request, "timezone"))
            task = await self._changes.move(project, id_, new)
            audit_note(request, due_at=format_utc(task.due_at))
            return Told(f"Rescheduled: it is called at {format_utc(task.due_at)}.", task)

        try:
            return await self._carried_out(request, move)
        except Problem as problem:
            if not problem.errors:
                raise
            return await self._when_page(request, await self._task(request), problem.errors)

    async def ask_purge(self, request: web.Request) -> web.StreamResponse:
        task = await self._task(request)
        is_possible = "purge" in possible(task, self._clock.now())
        return await render(request, "task_purge.html", task=task, call=_call(task), is_possible=is_possible)

    async def purge(self, request: web.Request) -> web.StreamResponse:
        async def purge(project: str, text: str) -> Told:
            id_ = task_id(text)
            if (await self._purges.purge(project, [id_]))[id_] == "waiting":
                raise Problem(409, "not_ended", "The task has not ended: only tasks that have ended are purged.")
            log.info("tasks.purged", user=visitor_of(request).name, ids=1)
            return Told("Purged: what it sent and what was answered is erased.")

        await self._task(request)
        return await self._carried_out(request, purge)

    async def _carried_out(
        self, request: web.Request, command: Callable[[str, str], Awaitable[Told]]
    ) -> web.StreamResponse:
        """To the task's page, which tells what came of it."""
        project, id_ = visitor_of(request).project, str(task_id(request.match_info["id"]))
        note = audit_note(request, id_)
        try:
            told = await command(project, id_)
        except (Problem, NotPublished, PostgresAway) as error:
            problem = problem_of(error)
            assert problem is not None
            if problem.status in {404, 422}:
                raise
            note.outcome = problem.code
            return await back(request, f"/tasks/{id_}", told=_in_words(problem), kind="failed")
        if told.task is not None:
            await self._shown(told.task)
        return await back(request, f"/tasks/{id_}", told=told.text)

    async def _shown(self, left: StoredTask) -> None:
        """Wait until the history says what the command did, or two seconds: the next page is to show it."""

        def is_there(task: StoredTask) -> bool:
            is_as_left = left.state == "scheduled" or task.state in FINAL
            return task.generation > left.generation or (task.generation == left.generation and is_as_left)

        try:
            await awaited(self._history, left.project, left.id, is_there)
        except PostgresAway:  # done is done
            return

    async def _task(self, request: web.Request) -> StoredTask:
        return await found(self._history, visitor_of(request).project, request.match_info["id"])

    async def _sheet(self, task: StoredTask, named: Named | None) -> Sheet:
        calls, has_more = await self._attempts.timeline(task.id, task.created_at, named)
        explanation = await self._inquiry.explanation(task, latest(calls, task.generation))
        told = timeline(calls, task.generation, named, has_more=has_more)
        return sheet(task, explanation, told, self._clock.now(), self._public_url)

    async def _when_page(
        self, request: web.Request, task: StoredTask, faults: Sequence[FieldError]
    ) -> web.StreamResponse:
        return await render(
            request,
            "task_reschedule.html",
            status=422 if faults else 200,
            task=task,
            call=_call(task),
            faults=[fault for fault in faults if fault.code != "unknown_zone"],
            zone_faults=[fault for fault in faults if fault.code == "unknown_zone"],
            when=field_of(request, "when") if faults else "",
            timezone=field_of(request, "timezone") if faults else "",
        )


def _named(request: web.Request) -> Named | None:
    """The call whose answer is wanted: `?attempt=2.7` is the seventh of the second generation."""
    match = _NAMED.fullmatch(request.query.get("attempt", ""))
    return None if match is None else (int(match[1]), int(match[2]))


def _call(task: StoredTask) -> Call | None:
    return decode_call(task.call) if task.has_payload else None


def _in_words(problem: Problem) -> str:
    """Of a button, which has no Idempotency-Key to repeat."""
    if problem.code == "not_confirmed":
        return "The message broker did not confirm in time. It may still be done: do it again, that does it once."
    return problem.detail
