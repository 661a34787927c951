"""Redrive failed since: the tasks of one host that failed since a moment, counted first, then started again by a bulk.

Also what the pages of a host share: its name in paths, who changes something, and links to its tasks.
"""

from datetime import datetime
from uuid import UUID

from aiohttp import web
from yarl import URL

from libs.common.clock import Clock, format_utc
from libs.common.ids import new_id
from services.ingest.bulk_command import BulkCommands
from services.ingest.console.forms import back, field_of
from services.ingest.console.guard import audit_note
from services.ingest.console.page import ROOT, Page, visitor_of
from services.ingest.console.render import render
from services.ingest.console.search import read_search, write_search
from services.ingest.console.visible import one_line
from services.ingest.problems import Problem, not_found
from services.ingest.target_rules import checked_host
from services.ingest.task_filter import TaskFilter
from services.ingest.times import BadTime, parse_moment

SINCE = "1h"
BY_USER = "user:"


class TargetRedrivePages:
    def __init__(self, bulks: BulkCommands, clock: Clock) -> None:
        self._bulks = bulks
        self._clock = clock

    def pages(self) -> list[Page]:
        path = "/targets/{host}/redrive"
        return [
            Page(method="GET", path=path, handler=self.count, role="operator"),
            Page(method="POST", path=path, handler=self.redrive, role="operator", action="target.redrive"),
        ]

    async def count(self, request: web.Request) -> web.StreamResponse:
        """How many a redrive would start again, before anything is done."""
        host, now = host_in(request), self._clock.now()
        typed = one_line(request.query.get("since", SINCE).strip())
        since, fault = read_since(typed, now)
        bulk = None
        if since is not None:
            bulk = await self._bulks.prepared(
                visitor_of(request).project, changer(request), "redrive", failed_tasks(host, since), new_id()
            )
        return await render(
            request,
            "target_redrive.html",
            status=200 if fault is None else 422,
            host=host,
            host_path=target_path(host),
            typed=typed,
            fault=fault,
            since=since,
            since_text=None if since is None else format_utc(since),
            bulk=bulk,
            search=None if since is None else search_link(failed_tasks(host, since)),
        )

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        host, now = host_in(request), self._clock.now()
        try:
            id_ = UUID(field_of(request, "id"))
            since = parse_moment(field_of(request, "since"), now)
        except (ValueError, BadTime):
            told = "Nothing was started: count them first, and start it from there."
            return await back(request, f"{target_path(host)}/redrive", told=told, kind="failed")
        bulk = await self._bulks.prepared(
            visitor_of(request).project, changer(request), "redrive", failed_tasks(host, since), id_
        )
        audit_note(request, host, bulk=str(id_), since=format_utc(since), matched=bulk.matched)
        await self._bulks.submit(bulk)
        return await back(request, f"/bulk/{id_}", told=f"Started: failed calls to {host} are started again.")


def read_since(text: str, now: datetime) -> tuple[datetime | None, str | None]:
    """`1h`, a day or a moment, as in a search's `ended-after:`; or what is wrong with it."""
    search = read_search(f"ended-after:{text}", now)
    since = search.filter.ended_from
    if search.faults:
        return None, search.faults[0].detail
    if since is None or search.filter != TaskFilter(ended_from=since):
        return None, "Write 1h, 24h, 2026-11-21, or 2026-11-21T10:00Z."
    return since, None


def host_in(request: web.Request) -> str:
    """Raises: Problem (404)."""
    try:
        return checked_host(request.match_info["host"])
    except Problem as problem:
        raise not_found("There is no such host") from problem


def target_path(host: str) -> str:
    return URL.build(path="/targets/").joinpath(host, encoded=False).raw_path


def changer(request: web.Request) -> str:
    return BY_USER + visitor_of(request).name


def failed_tasks(host: str, since: datetime | None) -> TaskFilter:
    return TaskFilter(status=("failed",), host=host, ended_from=since)


def search_link(wanted: TaskFilter) -> str:
    return str(URL(f"{ROOT}/tasks").with_query(q=write_search(wanted)))
