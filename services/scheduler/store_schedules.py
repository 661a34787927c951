"""The table of schedules. A row changes under its lock.

Occurrences are published before the commit that advances the row: a crash in between publishes them again. What a
change takes back is told after its commit: until then it stands in the row as owed.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from libs.common.clock import from_ms, to_ms
from libs.common.contracts import CancelTask, HeldSchedule, Schedule, encode
from libs.common.postgres import Postgres
from services.scheduler.occurrences import LEAD
from services.scheduler.store_commands import Cancelled, cancel

DUE_MAX = 100

_FIELDS = "id, project, name, revision, status, created_at, changed_at, next_at"
_LOCKED = f"SELECT {_FIELDS}, schedule, command_id, owed FROM schedule WHERE id = $1 FOR UPDATE"  # noqa: S608  our own words
# Holds the place of a schedule that is being created; never seen, because it is updated in the same transaction.
_RESERVE = """
    INSERT INTO schedule (id, project, name, revision, status, command_id, created_at, changed_at, schedule)
    VALUES ($1, $2, $3, 0, 'deleted', '00000000-0000-0000-0000-000000000000', now(), now(), '')
    ON CONFLICT DO NOTHING
"""
_SAVE = """
    UPDATE schedule SET revision = $2, status = $3, created_at = $4, changed_at = $5, next_at = $6, schedule = $7,
                        command_id = $8, owed = $9
    WHERE id = $1
"""
_FREE = "DELETE FROM schedule WHERE id = $1"
_NOTE = "UPDATE schedule SET command_id = $2 WHERE id = $1"
_TOLD = "UPDATE schedule SET owed = '{}' WHERE id = $1 AND owed = $2"
_DUE = f"""
    SELECT {_FIELDS}, schedule, clock_timestamp() AS now FROM schedule
    WHERE status = 'active' AND next_at <= (SELECT clock_timestamp() + $1::interval)
      AND (id, revision) NOT IN (SELECT * FROM unnest($3::uuid[], $4::int[]))
    ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""  # noqa: S608  our own words
_ADVANCE = """
    UPDATE schedule SET next_at = $2, status = CASE WHEN $2::timestamptz IS NULL THEN 'ended' ELSE 'active' END
    WHERE id = $1
"""
_LIST = f"""
    SELECT {_FIELDS} FROM schedule WHERE project = $1 AND name > $2 AND status <> 'deleted' ORDER BY name LIMIT $3
"""  # noqa: S608  our own words
_LIST_TIMES = _LIST.replace(_FIELDS, f"{_FIELDS}, schedule")
_FORGET = "DELETE FROM schedule WHERE status = 'deleted' AND changed_at < clock_timestamp() - $1 * interval '1 day'"
_COUNT = "SELECT status, count(*) FROM schedule WHERE status <> 'deleted' GROUP BY status"

_NO_CALL = msgspec.Raw(b"null")

decode_schedule = msgspec.json.Decoder(Schedule).decode


class Change(NamedTuple):
    """What a command makes of a schedule, and the tasks made ahead that it takes back, each with its time."""

    held: HeldSchedule
    withdrawn: Mapping[UUID, datetime] = {}


class Changed(NamedTuple):
    """`held` is None for a schedule that there is not; `owed` are the events that the history must still hear.

    `overtaken_by`: a newer command had been here, so that nothing was changed.
    """

    held: HeldSchedule | None
    owed: Sequence[bytes]
    overtaken_by: UUID | None = None


class DueSchedule(NamedTuple):
    """A locked row whose next occurrence is near. `message` is the JSON of its `Schedule`, `now` Postgres' clock."""

    held: HeldSchedule
    message: bytes
    now: datetime


Decide = Callable[[HeldSchedule | None, datetime], Change | None]
EventOf = Callable[[UUID, Cancelled], bytes]
Version = tuple[UUID, int]
"""Id and revision."""
Emit = Callable[[Sequence[DueSchedule]], Awaitable[dict[UUID, datetime | None]]]


class ScheduleStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def change(
        self, id_: UUID, project: str, name: str, command_id: UUID, decide: Decide, event_of: EventOf
    ) -> Changed:
        """The schedule after `decide(held, now)`, which is asked unless a newer command has been here.

        The caller tells what is owed, also by changes before this one, and then says so to `told`. `event_of` makes
        what is to be told of a task that was taken back.
        """
        async with self._postgres.acquire() as connection, connection.transaction():
            await connection.execute(_RESERVE, id_, project, name)
            row = await connection.fetchrow(_LOCKED, id_)
            assert row is not None
            held = None if row["status"] == "deleted" else _held(row)
            if row["command_id"] > command_id:
                return Changed(held, row["owed"], overtaken_by=row["command_id"])
            if row["command_id"] == command_id:
                return Changed(_held(row), row["owed"])  # also of a deletion once more: it gets the answer it got
            now = from_ms(to_ms(await connection.fetchval("SELECT clock_timestamp()")))
            change = decide(held, now)
            if change is None:
                if row["revision"] == 0:
                    await connection.execute(_FREE, id_)
                elif held is not None:  # a tombstone goes on naming its deletion
                    await connection.execute(_NOTE, id_, command_id)
                return Changed(held, row["owed"])
            cancels = [CancelTask(id=task_id, project=project, command_id=command_id) for task_id in change.withdrawn]
            taken = [(each.id, await cancel(connection, each)) for each in cancels]
            fired = [change.withdrawn[id_] for id_, met in taken if met.result == "left" and not met.is_ended]
            if fired:  # it came while we were asking: what follows begins after it
                change = decide(held, max(fired)) or change
            # A revision is never used twice, not even by a schedule that was deleted and made again.
            saved = msgspec.structs.replace(change.held, revision=row["revision"] + 1, changed_at=now)
            owed = [*row["owed"], *(event_of(id_, met) for id_, met in taken if met.is_ended)]
            await connection.execute(_SAVE, *_values(saved), command_id, owed)
            return Changed(saved, owed)

    async def told(self, id_: UUID, owed: Sequence[bytes]) -> None:
        """The history has heard these. Where a newer change owes more, it is the one that tells them all."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_TOLD, id_, owed)

    async def shown(self, id_: UUID) -> HeldSchedule | None:
        async with self._postgres.acquire() as connection:
            row = await connection.fetchrow(_LOCKED.removesuffix(" FOR UPDATE"), id_)
            return None if row is None or row["status"] == "deleted" else _held(row)

    async def listed(self, project: str, after: str, limit: int, *, with_times: bool = False) -> list[HeldSchedule]:
        """By name, without their `schedule`, or with what of it says when it comes."""
        async with self._postgres.acquire() as connection:
            rows = await connection.fetch(_LIST_TIMES if with_times else _LIST, project, after, limit)
        return [_timed(row) if with_times else _bare(row) for row in rows]

    async def emit_due(self, emit: Emit, left_alone: Sequence[Version] = ()) -> bool:
        """Hand the schedules that come within `LEAD` to `emit`, which says when those next come that it could emit.

        True when there may be more.
        """
        ids, revisions = [id_ for id_, _ in left_alone], [revision for _, revision in left_alone]
        async with self._postgres.acquire() as connection, connection.transaction():
            rows = await connection.fetch(_DUE, LEAD, DUE_MAX, ids, revisions)
            due = [DueSchedule(_bare(row), row["schedule"], row["now"]) for row in rows]
            next_at = await emit(due) if due else {}
            await connection.executemany(_ADVANCE, list(next_at.items()))
            return len(due) == DUE_MAX and bool(next_at)

    async def counts(self) -> dict[str, int]:
        """How many there are, by status."""
        async with self._postgres.acquire() as connection:
            return {record["status"]: record["count"] for record in await connection.fetch(_COUNT)}

    async def forget(self, keep_days: int) -> None:
        """Tombstones of schedules deleted longer ago."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_FORGET, keep_days)


def _held(row: asyncpg.Record) -> HeldSchedule:
    schedule = decode_schedule(row["schedule"]) if row["schedule"] else None
    return msgspec.structs.replace(_bare(row), schedule=schedule)


def _timed(row: asyncpg.Record) -> HeldSchedule:
    held = _held(row)
    if held.schedule is None:
        return held
    times = msgspec.structs.replace(held.schedule, labels={}, call=_NO_CALL)
    return msgspec.structs.replace(held, schedule=times)


def _bare(row: asyncpg.Record) -> HeldSchedule:
    return HeldSchedule(**{name: row[name] for name in _FIELDS.split(", ")})


def _values(held: HeldSchedule) -> tuple[object, ...]:
    schedule = b"" if held.schedule is None else encode(held.schedule)
    return (held.id, held.revision, held.status, held.created_at, held.changed_at, held.next_at, schedule)
