"""/console/tasks: tasks found by words, newest first, page by page, and again while somebody looks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import web

from libs.common.clock import Clock
from services.ingest.console.page import ROOT, Page, visitor_of
from services.ingest.console.render import render
from services.ingest.console.search import IDS_MAX, Search, read_search, with_word
from services.ingest.console.task_rows import MEANING, Row, row
from services.ingest.cursor import NEWEST, read_cursor, write_cursor
from services.ingest.problems import Problem
from services.ingest.store_filter import Asked
from services.ingest.store_lists import ListedTask, Lists
from services.ingest.task_filter import TaskFilter

PAGE = 50
SHOWN_MAX = 70
"""Rows that a page grows to while somebody looks; those that are selected stay beyond. They fit into a query."""
CALL_BYTES_MAX = 4096
"""Of larger payloads the ladder is not looked up for a list."""


class Chip(NamedTuple):
    """A status to look at, with the rest of the words; or to stop looking at only."""

    name: str
    meaning: str
    to: str
    is_on: bool


class Listing(NamedTuple):
    """`older`: where there may be more. `shown`: the ids on the page, for the next look at it `here`."""

    rows: Sequence[Row]
    here: str
    older: str | None
    selected: frozenset[UUID]

    @property
    def shown(self) -> str:
        return ".".join(str(each.id) for each in self.rows)


class TaskListPages:
    def __init__(self, lists: Lists, clock: Clock) -> None:
        self._lists = lists
        self._clock = clock

    def pages(self) -> list[Page]:
        return [Page(method="GET", path="/tasks", handler=self.show, role="viewer")]

    async def show(self, request: web.Request) -> web.StreamResponse:
        visitor, now = visitor_of(request), self._clock.now()
        text, cursor = request.query.get("q", "").strip(), request.query.get("cursor")
        search = read_search(text, now)
        if search.task is not None:
            raise web.HTTPSeeOther(f"{ROOT}/tasks/{search.task}")
        values: dict[str, Any] = {"text": text, "search": search, "chips": _chips(text, search)}
        if search.faults:
            return await render(request, "tasks.html", status=422, listing=None, is_first=True, **values)
        # Of the words, not of what they mean now: `after:1h` means another hour on each page.
        scope = f"console\0{visitor.project}\0{text}".encode()
        before = NEWEST if cursor is None else read_cursor(cursor, scope)
        asked = Asked(visitor.project, search.filter, now)
        found, place = await self._lists.page(asked, before, PAGE)
        selected: list[UUID] = []
        if "shown" in request.query:
            selected = ids_of(request.query.getall("id", []))
            found = await self._again(asked, found, selected, request.query["shown"])
        listing = Listing(
            rows=await self._rows(found, now),
            here=list_path(text, cursor),
            older=None if place is None else list_path(text, write_cursor(place, scope)),
            selected=frozenset(selected),
        )
        template = "parts/task_rows.html" if "HX-Request" in request.headers else "tasks.html"
        return await render(request, template, listing=listing, is_first=cursor is None, **values)

    async def _again(
        self, asked: Asked, found: Sequence[ListedTask], selected: Sequence[UUID], shown: str
    ) -> list[ListedTask]:
        """What was shown stays, whatever became of it, and `found` comes to it; the rows do not become too many."""
        known = {each.task.id for each in found}
        there = [id_ for id_ in [*selected, *ids_of([text for text in shown.split(".") if text])] if id_ not in known]
        room = max(SHOWN_MAX - len(found), len(set(selected) - known))
        both = [*found, *await self._named(asked, list(dict.fromkeys(there))[:room])]
        return sorted(both, key=lambda each: (each.task.created_at, each.task.id), reverse=True)

    async def _named(self, asked: Asked, ids: Sequence[UUID]) -> list[ListedTask]:
        if not ids:
            return []
        named = Asked(asked.project, TaskFilter(ids=tuple(ids[:IDS_MAX])), asked.now)
        return (await self._lists.page(named, NEWEST, IDS_MAX))[0]

    async def _rows(self, found: Sequence[ListedTask], now: datetime) -> list[Row]:
        calls = await self._lists.calls([each.task.id for each in found], CALL_BYTES_MAX) if found else {}
        return [row(each, calls.get(each.task.id), now) for each in found]


def list_path(text: str, cursor: str | None = None) -> str:
    """Where the tasks are that these words find."""
    query = {name: value for name, value in (("q", text), ("cursor", cursor)) if value}
    return f"{ROOT}/tasks?{urlencode(query)}" if query else f"{ROOT}/tasks"


def ids_of(texts: Sequence[str]) -> list[UUID]:
    """Raises: Problem (400)."""
    try:
        ids = [UUID(text) for text in texts]
    except ValueError:
        raise Problem(400, "bad_id", "One of the tasks that are named has no id. Select them again.") from None
    if len(ids) > IDS_MAX:
        detail = f"{len(ids)} tasks are named; name at most {IDS_MAX}, or take all that match."
        raise Problem(400, "too_many", detail)
    return list(dict.fromkeys(ids))


def _chips(text: str, search: Search) -> list[Chip]:
    is_on = set(search.filter.status)
    return [
        Chip(name, meaning, list_path(with_word(text, "status", None if is_on == {name} else name)), name in is_on)
        for name, meaning in MEANING.items()
    ]
