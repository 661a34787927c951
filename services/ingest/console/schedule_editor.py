"""/console/schedules/-/new and .../edit: a schedule typed in, with the times that it would come at beside it.

Nobody's change is lost: what is saved names the revision that it was made from, and the scheduler puts it over no
other one.
"-" is in these paths because it begins no schedule's name.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import structlog
from aiohttp import web

from libs.common.clock import Clock, format_utc
from libs.common.contracts import Schedule, decode_call
from libs.common.egress import EgressRules
from libs.common.publisher import NotPublished
from libs.common.wallclock import zone_names
from services.ingest.console.forms import back, field_of, posted
from services.ingest.console.guard import audit_note
from services.ingest.console.page import ROOT, Page, visitor_of
from services.ingest.console.render import render
from services.ingest.console.schedule_form import (
    CATCH_UPS,
    DEFAULTS,
    FIELDS,
    TIMES,
    Difference,
    differences,
    is_same,
    preview,
    schedule_fields,
    typed,
    typed_schedule,
)
from services.ingest.console.schedule_sheet import path_of
from services.ingest.console.schedules import in_words
from services.ingest.console.template_form import KINDS, faults_of
from services.ingest.creation import this_millisecond
from services.ingest.problems import Problem, problem_of
from services.ingest.schedule_commands import NAME, ScheduleCommands, Standing, bad_name

NEW = "/schedules/-/new"
PREVIEW = "/schedules/-/preview"

log = structlog.get_logger(__name__)


class Editing(NamedTuple):
    """What is in the form. `revision` is the one that it was made from, 0 of a new schedule.

    `since`: from when an interval is counted. `others`: what has changed meanwhile, beside what was typed.
    """

    name: str
    values: Mapping[str, str]
    revision: int = 0
    since: str = ""
    faults: Mapping[str, Sequence[str]] = {}
    others: Sequence[Difference] = ()

    @property
    def is_new(self) -> bool:
        return self.revision == 0


class ScheduleEditor:
    def __init__(self, schedules: ScheduleCommands, clock: Clock, egress: EgressRules) -> None:
        self._schedules = schedules
        self._clock = clock
        self._egress = egress

    def pages(self) -> list[Page]:
        edit = "/schedules/{name}/edit"
        return [
            Page(method="GET", path=NEW, handler=self.new, role="operator"),
            Page(method="POST", path=NEW, handler=self.create, role="operator", action="schedule.create"),
            Page(method="GET", path=PREVIEW, handler=self.part, role="viewer"),
            Page(method="POST", path=PREVIEW, handler=self.previewed, role="operator", action="schedule.preview"),
            Page(method="GET", path=edit, handler=self.edit, role="operator"),
            Page(method="POST", path=edit, handler=self.replace, role="operator", action="schedule.replace"),
        ]

    async def new(self, request: web.Request) -> web.StreamResponse:
        return await self._form(request, Editing("", DEFAULTS))

    async def edit(self, request: web.Request) -> web.StreamResponse:
        standing = await self._standing(request, request.match_info["name"])
        return await self._form(request, _opened(standing))

    async def part(self, request: web.Request) -> web.StreamResponse:
        """What is asked for while somebody types: the times only."""
        shown = preview(request.query, self._now(), since=request.query.get("since", ""))
        return await render(request, "schedule_preview.html", preview=shown, times=TIMES)

    async def previewed(self, request: web.Request) -> web.StreamResponse:
        """The same without JavaScript: the form comes back with its times, and nothing is saved."""
        editing = _typed(request)
        audit_note(request, editing.name[:128])
        return await self._form(request, editing)

    async def create(self, request: web.Request) -> web.StreamResponse:
        editing = _typed(request)._replace(name=field_of(request, "name"), revision=0, since="")
        try:
            schedule = self._schedule(editing, ())
            if not NAME.fullmatch(editing.name):
                raise bad_name()
            standing = await self._put(request, editing, schedule)
        except (Problem, NotPublished) as error:
            return await self._refused(request, editing, error)
        if standing.schedule != schedule:
            fault = f"There is a schedule {editing.name} already: choose another name, or edit that one."
            return await self._form(request, editing._replace(faults={"name": [fault]}), "name_taken", 409)
        return await back(request, path_of(editing.name), told=f"Created: {editing.name}.")

    async def replace(self, request: web.Request) -> web.StreamResponse:
        editing = _typed(request)._replace(name=request.match_info["name"])
        try:
            before = await self._schedules.show(visitor_of(request).project, editing.name)
            schedule = self._schedule(editing, decode_call(before.schedule.call).headers)
            if is_same(before.schedule, schedule):
                return await back(request, path_of(editing.name), told="It stands like that already.")
            if before.held.revision != editing.revision:
                return await self._conflict(request, editing, before)
            after = await self._put(request, editing, schedule)
        except (Problem, NotPublished) as error:
            return await self._refused(request, editing, error)
        if after.schedule != schedule:  # between our two questions
            return await self._conflict(request, editing, after)
        return await back(request, path_of(editing.name), told=f"Saved: {editing.name}.")

    async def _put(self, request: web.Request, editing: Editing, schedule: Schedule) -> Standing:
        project = visitor_of(request).project
        audit_note(request, editing.name, revision=editing.revision, cron=schedule.cron, every=schedule.every)
        standing = await self._schedules.put(project, editing.name, schedule, revision=editing.revision)
        log.info("schedule.put", schedule=editing.name)
        return standing

    async def _conflict(self, request: web.Request, editing: Editing, stands: Standing) -> web.StreamResponse:
        """The form with what was typed, made from what stands now: saved again, it is put over that knowingly."""
        others = differences(schedule_fields(stands.schedule), editing.values)
        opened = _opened(stands)
        return await self._form(
            request, opened._replace(values=editing.values, others=others), "changed_meanwhile", 409
        )

    async def _refused(
        self, request: web.Request, editing: Editing, error: Problem | NotPublished
    ) -> web.StreamResponse:
        """The form with what was typed, and what is wrong with it beside it."""
        problem = problem_of(error)
        assert problem is not None
        if problem.status == 404:
            fault = "It has been deleted since you opened it. Saved now, it is created anew."
            return await self._form(
                request, editing._replace(revision=0, since="", faults={"": [fault]}), "deleted_meanwhile", 409
            )
        faults = faults_of(problem.errors)
        if editing.is_new and not NAME.fullmatch(editing.name):
            faults["name"] = [bad_name().detail]
        faults = faults or {"": [in_words(problem)]}
        return await self._form(request, editing._replace(faults=faults), problem.code, problem.status)

    async def _form(
        self, request: web.Request, editing: Editing, outcome: str = "", status: int = 200
    ) -> web.StreamResponse:
        if outcome:
            audit_note(request, editing.name[:128]).outcome = outcome
        shown = preview(editing.values, self._now(), since=editing.since)
        faults = {**shown.faults, **editing.faults}
        return await render(
            request,
            "schedule_form.html",
            status=status,
            form=editing._replace(faults={name: faults[name] for name in sorted(faults, key=_place)}),
            preview=shown,
            action=ROOT + (NEW if editing.is_new else f"{path_of(editing.name)}/edit"),
            preview_path=ROOT + PREVIEW,
            zones=sorted(zone_names()),
            catch_ups=CATCH_UPS,
            kinds=KINDS,
        )

    def _schedule(self, editing: Editing, stored: Sequence[tuple[str, str]]) -> Schedule:
        return typed_schedule(editing.values, stored, self._now(), self._egress)

    async def _standing(self, request: web.Request, name: str) -> Standing:
        project = visitor_of(request).project
        try:
            return await self._schedules.show(project, name)
        except Problem as problem:
            if problem.status != 404:
                raise
            detail = f"There is no schedule {name[:128]!r} in the project {project}."
            raise Problem(404, "not_found", detail) from problem

    def _now(self) -> datetime:
        return this_millisecond(self._clock.now())


def _place(field: str) -> int:
    """Where it stands in the form."""
    return FIELDS.index(field) if field in FIELDS else -1


def _opened(standing: Standing) -> Editing:
    held, schedule = standing
    return Editing(held.name, schedule_fields(schedule), held.revision, format_utc(held.created_at))


def _typed(request: web.Request) -> Editing:
    revision = field_of(request, "revision")
    return Editing(
        field_of(request, "name"),
        typed(posted(request)),
        int(revision) if revision.isdecimal() and len(revision) < 10 else 0,
        field_of(request, "since"),
    )
