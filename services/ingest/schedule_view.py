"""How a schedule looks to a client, and when it comes. Pure."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from libs.common.clock import format_utc
from libs.common.contracts import HeldSchedule, Schedule, ScheduleStatus, decode_call
from libs.common.cron import Occurrence
from libs.common.wallclock import UnknownZone, zone
from services.ingest.requests import Callbacks, Expect, Retry
from services.ingest.schedules import CatchUp, Plan, recurrence_of
from services.ingest.view import sent

_INSTANT = timedelta(microseconds=1)

Dst = Literal["gap", "first", "second"]


class TemplateView(msgspec.Struct, frozen=True, kw_only=True):
    """The task that is made each time. At most one of the three bodies is there."""

    url: str
    method: str
    headers: Mapping[str, str]
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body_text: str | msgspec.UnsetType = msgspec.UNSET
    body_base64: str | msgspec.UnsetType = msgspec.UNSET
    content_type: str | None
    timeout_s: float
    retry: Retry
    expect: Expect
    labels: Mapping[str, str]
    callbacks: Callbacks


class ScheduleLine(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule in a list. `next_at` is null while it is paused, and when it has ended."""

    name: str
    id: UUID
    project: str
    revision: int
    status: ScheduleStatus
    created_at: str
    changed_at: str
    next_at: str | None


class ScheduleView(ScheduleLine, frozen=True, kw_only=True):
    """`next_local` is `next_at` as clocks in `timezone` show it; `words` says in English when it comes."""

    next_local: str | None
    words: str | None
    cron: str | None
    every: str | None
    timezone: str
    start_at: str | None
    end_at: str | None
    catch_up: CatchUp
    expires_after_s: float | None
    task: TemplateView


class ScheduleList(msgspec.Struct, frozen=True, kw_only=True):
    """By name."""

    data: list[ScheduleLine]
    next_cursor: str | None = None


class Fire(msgspec.Struct, frozen=True, kw_only=True):
    """`dst` "gap": clocks skip `meant`, so it comes at the first instant after; "first" and "second": of two passes."""

    at: str
    local: str
    dst: Dst | None = None
    meant: str | None = None


class PreviewView(msgspec.Struct, frozen=True, kw_only=True):
    words: str
    timezone: str
    data: list[Fire]


def schedule_line(held: HeldSchedule) -> ScheduleLine:
    return ScheduleLine(**_line(held))


def schedule_view(held: HeldSchedule, schedule: Schedule) -> ScheduleView:
    recurrence = recurrence_of(schedule, held.created_at)
    return ScheduleView(
        **_line(held),
        next_local=_next_local(held.next_at, schedule.timezone),
        words=None if recurrence is None else recurrence.words,
        cron=schedule.cron,
        every=schedule.every,
        timezone=schedule.timezone,
        start_at=_time(schedule.start_at),
        end_at=_time(schedule.end_at),
        catch_up=schedule.catch_up,
        expires_after_s=schedule.expires_after_s,
        task=TemplateView(**sent(decode_call(schedule.call), schedule.labels)),
    )


def preview(plan: Plan, now: datetime, count: int) -> PreviewView:
    """The next `count` times after `now`; fewer when it ends before."""
    return PreviewView(
        words=plan.recurrence.words,
        timezone=plan.zone.key,
        data=[_fire(occurrence, plan.zone) for occurrence in islice(coming(plan, now), count)],
    )


def coming(plan: Plan, now: datetime) -> Iterator[Occurrence]:
    """Its occurrences after `now`."""
    after = now if plan.start_at is None else max(now, plan.start_at - _INSTANT)
    occurrences = plan.recurrence.occurrences(after)
    end_at = plan.end_at
    return occurrences if end_at is None else takewhile(lambda one: one.at <= end_at, occurrences)


def _fire(occurrence: Occurrence, where: ZoneInfo) -> Fire:
    return Fire(
        at=format_utc(occurrence.at),
        local=_local(occurrence.at, where),
        dst=_dst(occurrence),
        meant=occurrence.local.isoformat(timespec="seconds") if occurrence.dst == "gap" else None,
    )


def _dst(occurrence: Occurrence) -> Dst | None:
    match occurrence.dst:
        case "gap":
            return "gap"
        case "repeated":
            return "second" if occurrence.fold else "first"
        case _:
            return None


def _line(held: HeldSchedule) -> dict[str, Any]:
    return {
        "name": held.name,
        "id": held.id,
        "project": held.project,
        "revision": held.revision,
        "status": held.status,
        "created_at": format_utc(held.created_at),
        "changed_at": format_utc(held.changed_at),
        "next_at": _time(held.next_at),
    }


def _next_local(at: datetime | None, timezone: str) -> str | None:
    try:
        return None if at is None else _local(at, zone(timezone))
    except UnknownZone:  # gone from tzdata since
        return None


def _local(at: datetime, where: ZoneInfo) -> str:
    return at.astimezone(where).isoformat(timespec="milliseconds")


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_utc(moment)
