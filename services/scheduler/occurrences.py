"""Which occurrences of a schedule become tasks now, and which one is next. Pure.

An occurrence becomes an ordinary task, by the front door, a few seconds before its time (`LEAD`). Its id derives from
the schedule, the revision and the time it stands for, so whoever makes it, and however often, it is one task.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from libs.common.contracts import HeldSchedule, Schedule, Task
from libs.common.cron import Cron, Every, Occurrence
from libs.common.ids import derived_id
from libs.common.wallclock import zone

LEAD = timedelta(seconds=5)
"""So that the wheel holds an occurrence when it is due; whoever pauses or replaces a schedule takes these back."""
MISSED = timedelta(seconds=60)
"""What is overdue by more was missed, and `catch_up` decides; what is overdue by less is late."""
CATCH_UP_MAX = 1_000
_INSTANT = timedelta(microseconds=1)
_FIRST_WINDOW = timedelta(minutes=1)


class Plan(NamedTuple):
    """`missed` of `occurrences` were due long ago; `next_at` is None when the schedule has ended."""

    occurrences: tuple[Occurrence, ...]
    next_at: datetime | None


def recurrence(schedule: Schedule, created_at: datetime) -> Cron | Every:
    """Raises: ValueError (CronError, EveryError, UnknownZone) with a text for the owner."""
    where = zone(schedule.timezone)
    if schedule.cron is not None:
        return Cron.parse(schedule.cron, where)
    if schedule.every is None:
        raise ValueError("has neither cron nor every; give one of them")
    return Every.parse(schedule.every, schedule.start_at or created_at, where)


def first_after(schedule: Schedule, created_at: datetime, moment: datetime) -> datetime | None:
    """The first occurrence after `moment` within start_at and end_at. Raises as `recurrence` does."""
    if schedule.start_at is not None:
        moment = max(moment, schedule.start_at - _INSTANT)
    return _within(schedule, recurrence(schedule, created_at).after(moment))


def plan(held: HeldSchedule, schedule: Schedule, now: datetime) -> Plan:
    """What is to be made of the occurrences from `next_at` until `LEAD` from `now`."""
    assert held.next_at is not None, "only an active schedule is planned"
    times = recurrence(schedule, held.created_at)
    missed_until = min(now - MISSED, schedule.end_at or now)
    missed: list[Occurrence] = []
    resume = held.next_at - _INSTANT
    if held.next_at <= missed_until:
        count = {"latest": 1, "all": CATCH_UP_MAX, "none": 0}[schedule.catch_up]
        missed = newest(times, held.next_at, missed_until, count)
        resume = missed_until
    coming = [
        occurrence
        for occurrence in _until(times, resume, now + LEAD)
        if schedule.end_at is None or occurrence.at <= schedule.end_at
    ]
    return Plan((*missed, *coming), _within(schedule, times.after(max(resume, now + LEAD))))


def newest(times: Cron | Every, first_at: datetime, until: datetime, count: int) -> list[Occurrence]:
    """The last `count` occurrences in [first_at, until]. Looks back in growing windows: a long gap costs little."""
    if count == 0:
        return []
    window = _FIRST_WINDOW
    while True:
        begin = max(first_at, until - window)
        found = list(_until(times, begin - _INSTANT, until))
        if len(found) >= count or begin == first_at:
            return found[-count:]
        window *= 4


def ahead(held: HeldSchedule, schedule: Schedule, now: datetime) -> Iterator[Occurrence]:
    """Those after `now` that may be tasks already: also by a publish whose confirm, or whose commit, was lost."""
    if held.status == "paused":
        return iter(())
    after = now if schedule.start_at is None else max(now, schedule.start_at - _INSTANT)
    until = now + LEAD if held.next_at is None else max(held.next_at - _INSTANT, now + LEAD)
    return _until(recurrence(schedule, held.created_at), after, until)


def task_of(held: HeldSchedule, schedule: Schedule, id_: UUID, due_at: datetime, now: datetime) -> Task:
    expires = None if schedule.expires_after_s is None else due_at + timedelta(seconds=schedule.expires_after_s)
    return Task(
        id=id_,
        project=held.project,
        created_at=now,
        due_at=due_at,
        expires_at=expires,
        fingerprint=f"{held.id}:{held.revision}",
        labels=schedule.labels,
        schedule=held.name,
        call=schedule.call,
    )


def schedule_id(project: str, name: str) -> UUID:
    return derived_id(project, "schedule", name)


def occurrence_id(held: HeldSchedule, schedule: Schedule, occurrence: Occurrence) -> UUID:
    """Of a cron, by the wall time it stands for, which outlives a change of the zone's rules; else by its instant."""
    if schedule.cron is None:
        return derived_id(held.project, str(held.id), str(held.revision), occurrence.at.isoformat(), "")
    return derived_id(
        held.project, str(held.id), str(held.revision), occurrence.local.isoformat(), str(occurrence.fold)
    )


def run_id(held: HeldSchedule, command_id: UUID) -> UUID:
    """Of the task that a "run" makes: the same for the same command."""
    return derived_id(held.project, str(held.id), "run", str(command_id))


def _until(times: Cron | Every, after: datetime, until: datetime) -> Iterator[Occurrence]:
    for occurrence in times.occurrences(after):
        if occurrence.at > until:
            return
        yield occurrence


def _within(schedule: Schedule, occurrence: Occurrence | None) -> datetime | None:
    if occurrence is None or (schedule.end_at is not None and occurrence.at > schedule.end_at):
        return None
    return occurrence.at
