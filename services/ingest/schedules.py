"""A schedule as a client writes it, and the one that the scheduler holds. Pure: the same input gives the same schedule.

The template of its task is checked by the same rules as a task (`creation.py`), and so are its times as those that the
scheduler will compute: what it would refuse is a 422 that names the field.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from libs.common.contracts import Schedule, encode
from libs.common.cron import Cron, CronError, Every, EveryError
from libs.common.egress import EgressRules
from libs.common.wallclock import UnknownZone, zone
from services.ingest.creation import call_of, read_time
from services.ingest.problems import FieldError, invalid
from services.ingest.requests import Callbacks, Expect, Fields, Retry, TaskTemplate
from services.ingest.times import FURTHEST, parse_moment

EXPIRES_AFTER_S_MIN, EXPIRES_AFTER_S_MAX = 1.0, FURTHEST.total_seconds()
PREVIEW_DEFAULT, PREVIEW_MAX = 10, 100

CatchUp = Literal["latest", "all", "none"]

T = TypeVar("T")


class Times(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When: one of `cron` (5 fields, or 6 with the seconds first) and `every` (as a delay), in `timezone`."""

    cron: str | None = None
    every: str | int | float | None = None
    timezone: str = "UTC"
    start_at: str | int | float | None = None
    end_at: str | int | float | None = None


class NewSchedule(Times, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`catch_up` is for what was missed while no scheduler ran; `expires_after_s` counts from each occurrence."""

    task: TaskTemplate
    catch_up: CatchUp = "latest"
    expires_after_s: float | None = None


class NewPreview(Times, frozen=True, kw_only=True, forbid_unknown_fields=True):
    count: int = PREVIEW_DEFAULT


SCHEDULE_FIELDS: Fields = {
    "": NewSchedule.__struct_fields__,
    "/task": TaskTemplate.__struct_fields__,
    "/task/retry": Retry.__struct_fields__,
    "/task/expect": Expect.__struct_fields__,
    "/task/callbacks": Callbacks.__struct_fields__,
}


class Plan(msgspec.Struct, frozen=True):
    """When a schedule comes: `recurrence` from `start_at` to `end_at`, both included."""

    recurrence: Cron | Every
    zone: ZoneInfo
    start_at: datetime | None
    end_at: datetime | None


def schedule_of(new: NewSchedule, now: datetime, egress: EgressRules) -> Schedule:
    """Raises: Problem (422) with every error."""
    errors: list[FieldError] = []
    plan = _plan(new, now, errors)
    of_task: list[FieldError] = []
    call = call_of(new.task, egress, of_task)
    errors += [FieldError(f"/task{error.pointer}", error.code, error.detail) for error in of_task]
    errors += _expiry_errors(new.expires_after_s)
    if errors or plan is None:
        raise invalid(errors)
    return Schedule(
        cron=new.cron,
        every=None if new.every is None else _text(new.every),
        timezone=new.timezone,
        start_at=plan.start_at,
        end_at=plan.end_at,
        catch_up=new.catch_up,
        labels=new.task.labels,
        expires_after_s=new.expires_after_s,
        call=msgspec.Raw(encode(call)),
    )


def plan_of(new: NewPreview, now: datetime) -> Plan:
    """Raises: Problem (422) with every error."""
    errors: list[FieldError] = []
    plan = _plan(new, now, errors)
    if not 1 <= new.count <= PREVIEW_MAX:
        errors.append(FieldError("/count", "out_of_range", f"is out of range; give 1 to {PREVIEW_MAX}"))
    if errors or plan is None:
        raise invalid(errors)
    return plan


def recurrence_of(schedule: Schedule, created_at: datetime) -> Cron | Every | None:
    """None when it cannot be read any more: its zone may have gone from tzdata."""
    try:
        where = zone(schedule.timezone)
        if schedule.cron is not None:
            return Cron.parse(schedule.cron, where)
        return Every.parse(schedule.every or "", schedule.start_at or created_at, where)
    except (UnknownZone, CronError, EveryError):
        return None


def _plan(new: Times, now: datetime, errors: list[FieldError]) -> Plan | None:
    """None exactly when there are errors."""
    before = len(errors)
    start_at = None if new.start_at is None else read_time("start_at", parse_moment, new.start_at, now, errors)
    end_at = None if new.end_at is None else read_time("end_at", parse_moment, new.end_at, now, errors)
    if start_at is not None and end_at is not None and end_at < start_at:
        errors.append(FieldError("/end_at", "too_early", "is before start_at; give a later time"))
    where = _read("timezone", lambda: zone(new.timezone), errors)
    recurrence = _recurrence(new, where or zone("UTC"), start_at or now, errors)
    if recurrence is None or where is None or len(errors) > before:
        return None
    return Plan(recurrence, where, start_at, end_at)


def _recurrence(new: Times, where: ZoneInfo, start: datetime, errors: list[FieldError]) -> Cron | Every | None:
    cron, every = new.cron, new.every
    if cron is not None and every is not None:
        errors.append(FieldError("/every", "conflict", "stands beside cron; give one of them"))
    if cron is not None:
        return _read("cron", lambda: Cron.parse(cron, where), errors)
    if every is not None:
        return _read("every", lambda: Every.parse(every, start, where), errors)
    errors.append(FieldError("/cron", "required", "cron is missing; give it, or every for an interval"))
    return None


_CODES: Mapping[type[ValueError], str] = {
    UnknownZone: "unknown_zone",
    CronError: "bad_cron",
    EveryError: "bad_interval",
}


def _read(field: str, parse: Callable[[], T], errors: list[FieldError]) -> T | None:
    try:
        return parse()
    except (UnknownZone, CronError, EveryError) as error:
        errors.append(FieldError(f"/{field}", _CODES[type(error)], str(error)))
        return None


def _expiry_errors(expires_after_s: float | None) -> list[FieldError]:
    if expires_after_s is None or EXPIRES_AFTER_S_MIN <= expires_after_s <= EXPIRES_AFTER_S_MAX:
        return []
    detail = f"is out of range; give {EXPIRES_AFTER_S_MIN:g} to {EXPIRES_AFTER_S_MAX:.0f} seconds (ten years)"
    return [FieldError("/expires_after_s", "out_of_range", detail)]


def _text(every: str | float) -> str:
    """As the wire has it; a number is seconds."""
    return every if isinstance(every, str) else f"{every}s"
