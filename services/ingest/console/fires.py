"""When a schedule comes, as a person reads it: wall times with their UTC, and what becomes of a time that clocks skip
or show twice. Pure.

What does not come is told too: the times in a gap of a schedule that comes whenever clocks show them.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal, NamedTuple

from libs.common.cron import Cron, Every, Occurrence
from libs.common.wallclock import resolve, zone
from services.ingest.schedule_view import coming
from services.ingest.schedules import Plan

SKIPPED_MAX = 200
"""Of the times in one gap so many are counted."""
_NAMED = 4

Mark = Literal["moved", "once", "first of two", "second of two", "skipped", "clocks change"]


class Fire(NamedTuple):
    """`at` is None of a time that does not come. `local` is what clocks in the zone show then."""

    at: datetime | None
    local: str
    mark: Mark | None = None
    note: str = ""


def fires(plan: Plan, now: datetime, count: int) -> list[Fire]:
    """The next `count` times after `now`, and what is skipped between them."""
    rows: list[Fire] = []
    before = now if plan.start_at is None else max(now, plan.start_at)
    for occurrence in islice(coming(plan, now), count):
        swallowed = _swallowed(plan, before, occurrence)
        if swallowed and _is_recurrent(plan.recurrence):
            rows.append(_skipped(swallowed, plan))
            swallowed = []
        rows.append(_fire(occurrence, before, swallowed, plan))
        before = occurrence.at
    return rows


def local_text(at: datetime, plan: Plan) -> str:
    return _shown(at.astimezone(plan.zone))


def _fire(occurrence: Occurrence, before: datetime, swallowed: Sequence[datetime], plan: Plan) -> Fire:
    local = local_text(occurrence.at, plan)
    asked = _clock(occurrence.local)
    if occurrence.dst == "gap":
        times = " and ".join(_clock(wall) for wall in swallowed[:_NAMED]) or asked
        return Fire(
            occurrence.at, local, "moved", f"Clocks skip {times} that day: it comes at the first instant after."
        )
    if occurrence.dst == "repeated":
        return Fire(occurrence.at, local, *_repeated(occurrence, asked, plan.recurrence))
    turned = _offset(occurrence.at, plan) - _offset(before, plan)
    if turned:
        way = "forward" if turned > timedelta(0) else "back"
        note = f"Clocks are set {way} by {_span(abs(turned))} before this one."
        return Fire(occurrence.at, local, "clocks change", note)
    return Fire(occurrence.at, local)


def _repeated(occurrence: Occurrence, asked: str, recurrence: Cron | Every) -> tuple[Mark, str]:
    twice = f"Clocks show {asked} twice that day"
    if isinstance(recurrence, Cron) and not recurrence.is_recurrent:
        return "once", f"{twice}: it comes the first time only."
    if occurrence.fold:
        return "second of two", f"{twice}: this is the second time."
    return "first of two", f"{twice}: this is the first time."


def _is_recurrent(recurrence: Cron | Every) -> bool:
    return isinstance(recurrence, Every) or recurrence.is_recurrent


def _swallowed(plan: Plan, after: datetime, occurrence: Occurrence) -> list[datetime]:
    """The wall times of a cron between `after` and its next occurrence that clocks skip."""
    if not isinstance(plan.recurrence, Cron):
        return []
    # What clocks in UTC would show are the wall times of the calendar, one after the other.
    calendar = Cron.parse(plan.recurrence.expression, zone("UTC"))
    first = after.astimezone(plan.zone).replace(tzinfo=UTC, fold=0)
    last = occurrence.at.astimezone(plan.zone).replace(tzinfo=UTC, fold=0)
    walls = (one.at.replace(tzinfo=None) for one in _until(calendar, first, last))
    return list(islice((wall for wall in walls if resolve(wall, plan.zone).dst == "gap"), SKIPPED_MAX + 1))


def _until(calendar: Cron, after: datetime, until: datetime) -> Iterator[Occurrence]:
    for one in calendar.occurrences(after):
        if one.at >= until:
            return
        yield one


def _skipped(walls: Sequence[datetime], plan: Plan) -> Fire:
    """Of a schedule that comes whenever clocks show its times: in a gap they show none."""
    resumes = resolve(walls[0], plan.zone).at.astimezone(plan.zone)
    if len(walls) <= _NAMED:
        times = ", ".join(_clock(wall) for wall in walls)
    else:
        count = str(len(walls)) if len(walls) <= SKIPPED_MAX else f"more than {SKIPPED_MAX}"
        times = f"{count} times from {_clock(walls[0])} on"
    note = f"Clocks skip these, and show {_clock(resumes.replace(tzinfo=None))} at once: it does not come then."
    return Fire(None, f"{walls[0]:%a %d %b %Y}, {times}", "skipped", note)


def _shown(local: datetime) -> str:
    """Sun 28 Mar 2027 03:00:00 +02:00"""
    offset = local.strftime("%z")
    return f"{local:%a %d %b %Y} {_whole(local)} {offset[:3]}:{offset[3:5]}"


def _whole(local: datetime) -> str:
    return f"{local:%H:%M:%S}" + (f".{local.microsecond // 1000:03d}" if local.microsecond else "")


def _clock(wall: datetime) -> str:
    return f"{wall:%H:%M}" if wall.second == 0 and wall.microsecond == 0 else _whole(wall)


def _offset(at: datetime, plan: Plan) -> timedelta:
    return at.astimezone(plan.zone).utcoffset() or timedelta(0)


def _span(turned: timedelta) -> str:
    minutes = turned // timedelta(minutes=1)
    hours, rest = divmod(minutes, 60)
    parts = ([f"{hours} h"] if hours else []) + ([f"{rest} min"] if rest else [])
    return " ".join(parts) or f"{turned.total_seconds():g} s"
