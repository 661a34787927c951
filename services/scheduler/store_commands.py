"""What a command does to the row of its task, decided under the row's lock. One repeatable transaction each.

A cancel first puts a stub under the id, so that it waits for a create or a fire in progress; then it deletes what
stands there and leaves a tombstone above every attempt of the generation. A create that comes later meets it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from libs.common.clock import ceil_to_ms
from libs.common.contracts import CancelTask, Task, decode_task, encode
from libs.common.postgres import Connection, Postgres
from services.scheduler.store import shard_of

_MAX = 2**31 - 1
_FIRST_ATTEMPT, _FIRST_HOP = 1, 0

Order = tuple[int, int, int]

# A stub has generation 0, below every task's. The DO UPDATE changes nothing: it waits for the row, and locks it.
_STUB = """
    INSERT INTO task (id, generation, attempt, hop, due_at, shard, size, project, fingerprint, message)
    VALUES ($1, 0, 0, 0, 'infinity', $3, 0, $2, '', '')
    ON CONFLICT (id) DO UPDATE SET shard = task.shard
    RETURNING generation, attempt, hop, project, fingerprint, command_id, due_at <= clock_timestamp() AS is_due
"""
# The clock is read outside: a SELECT that locks computes its columns before it waits.
_LOCKED = """
    WITH locked AS MATERIALIZED (SELECT * FROM task WHERE id = $1 FOR UPDATE)
    SELECT attempt, hop, project, command_id, message, due_at <= clock_timestamp() AS is_due, clock_timestamp() AS now
    FROM locked
"""
_DELETE = "DELETE FROM task WHERE id = $1"
_MOVE = """
    UPDATE task SET generation = $2, attempt = $3, hop = $4, due_at = $5, size = $6, message = $7, command_id = $8
    WHERE id = $1
"""
_TOMBSTONES = """
    SELECT generation, cause, fingerprint, command_id FROM task_done
    WHERE id = $1 AND (project IS NULL OR project = $2)
"""
_BURY = """
    INSERT INTO task_done (id, generation, attempt, hop, cause, fingerprint, project, command_id)
    VALUES ($1, $2, $3, $3, $4, $5, $6, $7)
"""


class Cancelled(NamedTuple):
    """`is_ended`: the history should hear that the task is cancelled; `order` is what it had come to.

    `rescheduled`: by a newer command, `overtaken_by`, so that the row stands.
    """

    result: Literal["cancelled", "rescheduled", "left", "unknown"]
    order: Order
    is_ended: bool = False
    fingerprint: str = ""
    overtaken_by: UUID | None = None


class Moved(NamedTuple):
    """`task` is what stands in the row now, by a newer command if `overtaken_by`; None when it has left."""

    result: Literal["rescheduled", "left", "unknown"]
    task: Task | None = None
    overtaken_by: UUID | None = None


class CommandStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def cancel(self, command: CancelTask) -> Cancelled:
        """What is or comes under the id, up to the generation it has or the command names, fires no more."""
        async with self._postgres.acquire() as connection, connection.transaction():
            return await cancel(connection, command)

    async def reschedule(self, id_: UUID, project: str, command_id: UUID, due_at: datetime | None) -> Moved:
        """Another due time, now if None, in the next generation; by the newest command only."""
        async with self._postgres.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(_LOCKED, id_)
            tombstones = await connection.fetch(_TOMBSTONES, id_, project)
            if row is None or row["project"] != project:
                return Moved("left" if tombstones else "unknown")
            if any(done["command_id"] == command_id for done in tombstones):
                return Moved("left")  # what it moved has fired; the row is a redrive, made after it
            task = decode_task(row["message"])
            if row["command_id"] is not None and row["command_id"] >= command_id:
                return Moved("rescheduled", task, None if row["command_id"] == command_id else row["command_id"])
            if row["is_due"] or (row["attempt"], row["hop"]) != (_FIRST_ATTEMPT, _FIRST_HOP):
                return Moved("left")
            now = ceil_to_ms(row["now"])
            moved = msgspec.structs.replace(
                task, generation=task.generation + 1, due_at=now if due_at is None else max(due_at, now)
            )
            message = encode(moved)
            await connection.execute(_MOVE, id_, *moved.order, moved.due_at, len(message), message, command_id)
            return Moved("rescheduled", moved)


async def cancel(connection: Connection, command: CancelTask) -> Cancelled:
    """The same, in the transaction of the caller."""
    id_, project, known = command.id, command.project, (command.generation, _FIRST_ATTEMPT, _FIRST_HOP)
    row = await connection.fetchrow(_STUB, id_, project, shard_of(id_))
    assert row is not None
    if row["project"] != project:
        return Cancelled("unknown", known)
    if row["command_id"] is not None and row["command_id"] > command.command_id:
        return Cancelled("rescheduled", _order(row), overtaken_by=row["command_id"])
    is_stub = row["generation"] == 0
    tombstones = await connection.fetch(_TOMBSTONES, id_, project)
    applied = [done["generation"] for done in tombstones if done["command_id"] == command.command_id]
    if is_stub or not applied:  # else the row is a redrive, made after this cancel
        await connection.execute(_DELETE, id_)
    if applied:
        return _cancelled_nothing(tombstones, applied[0])
    if is_stub:
        generation = max([command.generation, *(done["generation"] for done in tombstones)])
        cancelled = _cancelled_nothing(tombstones, generation)
    else:
        cancelled = _cancelled_row(row, known)
    cause = "cancelled" if cancelled.result == "cancelled" else "noted"
    bury = (id_, cancelled.order[0], _MAX, cause, cancelled.fingerprint, project, command.command_id)
    await connection.execute(_BURY, *bury)
    return cancelled


def _order(row: asyncpg.Record) -> Order:
    return (row["generation"], row["attempt"], row["hop"])


def _cancelled_row(row: asyncpg.Record, known: Order) -> Cancelled:
    """Past its time, or on its way back from the dispatcher, another copy of it may be out there."""
    has_left = row["is_due"] or (row["attempt"], row["hop"]) != (_FIRST_ATTEMPT, _FIRST_HOP)
    order = max(_order(row), known)
    return Cancelled("left" if has_left else "cancelled", order, is_ended=True, fingerprint=row["fingerprint"])


def _cancelled_nothing(tombstones: Sequence[asyncpg.Record], generation: int) -> Cancelled:
    """There is no row: it has left, or was cancelled before, or its create is still on the way.

    Told again as the first time, should the first telling have died with its process. Only what met no row has no
    fingerprint.
    """
    met = [done for done in tombstones if done["fingerprint"] and done["generation"] <= generation]
    cancels = [done for done in met if done["generation"] == generation and done["cause"] in ("cancelled", "noted")]
    order = (generation, _FIRST_ATTEMPT, _FIRST_HOP)
    if not cancels:
        return Cancelled("left" if met else "unknown", order)
    is_certain = any(cancel["cause"] == "cancelled" for cancel in cancels)
    fingerprint = cancels[0]["fingerprint"]
    return Cancelled("cancelled" if is_certain else "left", order, is_ended=True, fingerprint=fingerprint)
