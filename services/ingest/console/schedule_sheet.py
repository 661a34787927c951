"""What the pages of schedules say, as values for their templates. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote, urlencode
from uuid import UUID

from libs.common.clock import format_utc
from libs.common.contracts import HeldSchedule, Schedule, decode_call
from libs.common.cron import Cron, Every
from libs.common.wallclock import zone
from services.ingest.console.fires import Fire, fires, local_text
from services.ingest.console.page import ROOT
from services.ingest.console.request_sheet import Request, request_of
from services.ingest.console.schedule_form import CATCH_UPS
from services.ingest.console.search import write_search
from services.ingest.schedules import Plan, recurrence_of
from services.ingest.store_occurrences import Occurred
from services.ingest.task_filter import TaskFilter

FIRES = 10
_SIGNS: Mapping[str, str] = {
    "succeeded": "\u2713",
    "failed": "\u2717",
    "expired": "\u2717",
    "parked": "\u2717",
    "cancelled": "\u2013",
    "retrying": "\u21bb",
}
_COMING = "\u2026"


class Mark(NamedTuple):
    """What became of one occurrence: `sign` for those who see, `text` for all."""

    to: str
    status: str
    sign: str
    text: str


class Line(NamedTuple):
    """A schedule in the list. `words` is None when nobody says them, `held` when the scheduler does not answer."""

    name: str
    to: str
    held: HeldSchedule | None
    words: str | None
    next_local: str | None
    wait_ms: float | None
    missed: str
    marks: Sequence[Mark]


class Sheet(NamedTuple):
    """One schedule. `words` is None and there are no `fires` when it cannot be read any more."""

    line: Line
    held: HeldSchedule
    schedule: Schedule
    to: str
    words: str | None
    fires: Sequence[Fire]
    occurred: Sequence[Occurred]
    request: Request
    labels: Sequence[tuple[str, str]]
    history: str


def path_of(name: str) -> str:
    """Below /console."""
    return f"/schedules/{quote(name, safe='')}"


def history_of(name: str) -> str:
    """The search for all of its tasks."""
    return f"{ROOT}/tasks?{urlencode({'q': write_search(TaskFilter(schedule=name))})}"


def line(held: HeldSchedule, occurred: Sequence[Occurred], now: datetime) -> Line:
    plan = plan_of_held(held)
    return Line(
        name=held.name,
        to=ROOT + path_of(held.name),
        held=held,
        words=None if plan is None else f"{plan.recurrence.words}, {plan.zone.key}",
        next_local=_next_local(held, plan),
        wait_ms=None if held.next_at is None else max(0.0, (held.next_at - now).total_seconds() * 1000),
        missed="" if held.schedule is None else CATCH_UPS[held.schedule.catch_up],
        marks=marks(occurred),
    )


def known_line(name: str, occurred: Sequence[Occurred]) -> Line:
    """Of a schedule that only the history tells of."""
    return Line(name, ROOT + path_of(name), None, None, None, None, "", marks(occurred))


def sheet(held: HeldSchedule, schedule: Schedule, occurred: Sequence[Occurred], now: datetime) -> Sheet:
    plan = plan_of_held(held)
    shown = line(held, occurred, now)
    return Sheet(
        line=shown,
        held=held,
        schedule=schedule,
        to=shown.to,
        words=None if plan is None else plan.recurrence.words,
        fires=[] if plan is None or held.status == "ended" else fires(plan, now, FIRES),
        occurred=list(reversed(occurred)),
        request=request_of(decode_call(schedule.call)),
        labels=sorted(schedule.labels.items()),
        history=history_of(held.name),
    )


def plan_of_held(held: HeldSchedule) -> Plan | None:
    """When it comes; None when that cannot be read, or was not told."""
    schedule = held.schedule
    recurrence: Cron | Every | None = None if schedule is None else recurrence_of(schedule, held.created_at)
    if schedule is None or recurrence is None:
        return None
    return Plan(recurrence, zone(schedule.timezone), schedule.start_at, schedule.end_at)


def marks(occurred: Sequence[Occurred]) -> list[Mark]:
    return [
        Mark(task_path(one.id), one.status, _SIGNS.get(one.status, _COMING), f"{one.status}, due {_due(one)}")
        for one in occurred
    ]


def _next_local(held: HeldSchedule, plan: Plan | None) -> str | None:
    """None where clocks show UTC, which is told anyway."""
    if plan is None or held.next_at is None or plan.zone.key == "UTC":
        return None
    return local_text(held.next_at, plan)


def task_path(id_: UUID) -> str:
    return f"{ROOT}/tasks/{id_}"


def _due(one: Occurred) -> str:
    return format_utc(one.due_at).replace("T", " ").replace(".000Z", " UTC")
