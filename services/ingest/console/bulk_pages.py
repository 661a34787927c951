"""/console/bulk: a command for many tasks, from the count that is shown first to what came of it.

The form of the first page holds the id of the command that it begins and the words of what was counted, so that sent
twice it is one, and `after:1h` does not move on while somebody reads.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
from aiohttp import web
from multidict import MultiMapping

from libs.common.clock import Clock
from libs.common.ids import new_id
from services.ingest.bulk import OF_ACTION
from services.ingest.bulk_command import BulkCommands, Count, statuses
from services.ingest.console.forms import field_of
from services.ingest.console.guard import audit_note
from services.ingest.console.page import ROOT, Page, Visitor, visitor_of
from services.ingest.console.render import render
from services.ingest.console.search import read_search, write_search
from services.ingest.console.tasks import ids_of, list_path
from services.ingest.cursor import NEWEST
from services.ingest.problems import Problem
from services.ingest.store_bulk import Action, Bulk, BulkStore
from services.ingest.store_filter import Asked
from services.ingest.task_filter import Status, TaskFilter

WORDS_CHARS_MAX = 20_000
"""Of what was counted: with 250 ids."""
LEFT_MAX, LEFT_S = 10_000, 0.2
"""So far is counted what is left alone, of each status."""
BY_USER = "user:"

WHY_NOT: dict[Action, dict[Status, str]] = {
    "cancel": {
        "succeeded": "has been called", "failed": "has ended", "cancelled": "is cancelled already",
        "expired": "has ended", "parked": "only when asked for: add status:parked",
    },
    "redrive": {
        "scheduled": "is still to be called", "due": "is about to be called", "retrying": "will be called again",
        "succeeded": "has succeeded", "cancelled": "was cancelled: clone it instead",
        "expired": "only when asked for: add status:expired", "parked": "only when asked for: add status:parked",
    },
    "purge": {
        "scheduled": "has not ended: cancel it first", "due": "has not ended: cancel it first",
        "retrying": "has not ended: cancel it first", "parked": "has not ended: cancel it first",
    },
}  # fmt: skip


class Left(NamedTuple):
    """What matches and is left alone."""

    status: Status
    tasks: Count
    why: str


class Preview(NamedTuple):
    """`bulk` is None where nothing is left of what was asked for."""

    action: Action
    bulk: Bulk | None
    left: Sequence[Left]
    words: str
    back: str
    is_everything: bool
    named: int


class Progress(NamedTuple):
    """`percent` and `left_s` are None where they cannot be known."""

    bulk: Bulk
    by: str
    looked_at: int
    percent: int | None
    per_s: float | None
    left_s: float | None
    words: str
    to_list: str
    named: int


class BulkPages:
    def __init__(self, bulks: BulkStore, commands: BulkCommands, clock: Clock) -> None:
        self._bulks = bulks
        self._commands = commands
        self._clock = clock

    def pages(self) -> list[Page]:
        return [
            Page(method="GET", path="/bulk", handler=self.recent, role="viewer"),
            Page(method="GET", path="/bulk/{id}", handler=self.show, role="viewer"),
            Page(method="GET", path="/bulk/cancel", handler=self._asks("cancel"), role="operator"),
            Page(method="GET", path="/bulk/redrive", handler=self._asks("redrive"), role="operator"),
            Page(method="GET", path="/bulk/purge", handler=self._asks("purge"), role="admin"),
            Page(
                method="POST",
                path="/bulk/cancel",
                handler=self._starts("cancel"),
                role="operator",
                action="tasks.cancel",
            ),
            Page(
                method="POST",
                path="/bulk/redrive",
                handler=self._starts("redrive"),
                role="operator",
                action="tasks.redrive",
            ),
            Page(method="POST", path="/bulk/purge", handler=self._starts("purge"), role="admin", action="tasks.purge"),
        ]

    async def recent(self, request: web.Request) -> web.StreamResponse:
        now = self._clock.now()
        found = [progress(each, now) for each in await self._bulks.recent(visitor_of(request).project)]
        return await render(request, "bulks.html", found=found)

    async def show(self, request: web.Request) -> web.StreamResponse:
        bulk = await self._bulks.show(visitor_of(request).project, _id(request.match_info["id"]))
        if bulk is None:
            raise _no_such_command()
        return await render(request, "bulk.html", progress=progress(bulk, self._clock.now()))

    def _asks(self, action: Action) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """How many there are, and whether it is meant."""

        async def ask(request: web.Request) -> web.StreamResponse:
            wanted, text = _wanted(request.query, self._clock.now())
            preview = await self._preview(visitor_of(request), action, wanted, list_path(text))
            return await render(request, "bulk_confirm.html", preview=preview, once=new_id())

        return ask

    def _starts(self, action: Action) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def start_it(request: web.Request) -> web.StreamResponse:
            visitor, id_ = visitor_of(request), _fresh_id(field_of(request, "once"))
            wanted = _confirmed(field_of(request, "words"), action, self._clock.now())
            audit_note(request, str(id_), words=write_search(wanted)[:500])
            if await self._bulks.show(visitor.project, id_) is None:
                bulk = await self._commands.prepared(visitor.project, BY_USER + visitor.name, action, wanted, id_)
                audit_note(request, matched=bulk.matched)
                await self._commands.submit(bulk)
            return web.Response(status=303, headers={"Location": f"{ROOT}/bulk/{id_}"})

        return start_it

    async def _preview(self, visitor: Visitor, action: Action, wanted: TaskFilter, back: str) -> Preview:
        # Who names tasks one by one means them, in whatever status they can be.
        named = wanted.status or (OF_ACTION[action] if wanted.ids else ())
        target = statuses(action, named)
        bulk = None
        if target:
            by, meant = BY_USER + visitor.name, _with(wanted, target)
            bulk = await self._commands.prepared(visitor.project, by, action, meant)
        left = [
            await self._left(visitor.project, _with(wanted, (status,)), why)
            for status, why in WHY_NOT[action].items()
            if status not in target and (not wanted.status or status in wanted.status)
        ]
        return Preview(
            action=action,
            bulk=bulk if bulk is not None and (bulk.matched or not bulk.is_exact) else None,
            left=[each for each in left if each.tasks.matched],
            words=write_search(bulk.filter if bulk else wanted),
            back=back,
            is_everything=wanted.is_empty,
            named=len(wanted.ids),
        )

    async def _left(self, project: str, wanted: TaskFilter, why: str) -> Left:
        asked = Asked(project, wanted, self._clock.now())
        return Left(wanted.status[0], await self._commands.count(asked, NEWEST, LEFT_MAX, LEFT_S), why)


def progress(bulk: Bulk, now: datetime) -> Progress:
    looked_at = bulk.done + bulk.left_alone + bulk.unknown
    elapsed_s = max(((bulk.finished_at or now) - bulk.submitted_at).total_seconds(), 0.001)
    per_s = looked_at / elapsed_s if looked_at else None
    left_s = None
    if per_s and bulk.is_exact and bulk.finished_at is None:
        left_s = max(bulk.matched - looked_at, 0) / per_s
    words, by = write_search(bulk.filter), bulk.submitted_by
    return Progress(
        bulk=bulk,
        by=by.removeprefix(BY_USER) if by.startswith(BY_USER) else f"API key {by}",
        looked_at=looked_at,
        percent=_percent(bulk, looked_at),
        per_s=per_s,
        left_s=left_s,
        words=words,
        to_list=list_path(words),
        named=len(bulk.filter.ids),
    )


def _percent(bulk: Bulk, looked_at: int) -> int | None:
    """100 when it has ended, and not before: what was counted may have grown or shrunk."""
    if bulk.finished_at is not None:
        return 100
    if not bulk.is_exact:
        return None
    return min(99, 100 * looked_at // bulk.matched) if bulk.matched else 0


def _wanted(query: MultiMapping[str], now: datetime) -> tuple[TaskFilter, str]:
    """The selected tasks, or all that the words find; and the words. Raises: Problem (400)."""
    text = query.get("q", "").strip()
    if query.get("all") != "1":
        ids = ids_of(query.getall("id", []))
        if not ids:
            detail = 'No task is selected. Go back and select some, or "all that match".'
            raise Problem(400, "nothing_selected", detail)
        return TaskFilter(ids=tuple(sorted(ids))), text
    search = read_search(text, now)
    if search.faults:
        raise Problem(400, "bad_search", f"{search.faults[0].word}: {search.faults[0].detail}")
    return search.filter, text


def _confirmed(words: str, action: Action, now: datetime) -> TaskFilter:
    """What was counted. Raises: Problem (422)."""
    search = read_search(words, now, WORDS_CHARS_MAX)
    wanted = search.filter
    if search.faults or not wanted.status or not set(wanted.status) <= set(OF_ACTION[action]):
        raise Problem(
            422, "bad_form", "This form does not say which tasks are meant. Go back to the list and begin again."
        )
    return wanted


def _with(wanted: TaskFilter, named: Sequence[Status]) -> TaskFilter:
    return msgspec.structs.replace(wanted, status=tuple(named))


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _no_such_command() from None


def _fresh_id(text: str) -> UUID:
    """Of a form of ours: newest last is the order of these. Raises: Problem (422)."""
    try:
        id_ = UUID(text)
    except ValueError:
        id_ = UUID(int=0)
    if id_.version != 7:
        raise Problem(422, "bad_form", "This form is not whole. Go back to the list and begin again.")
    return id_


def _no_such_command() -> Problem:
    return Problem(
        404, "not_found", "There is no such command in this project. The list of commands shows the recent ones."
    )
