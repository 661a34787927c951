"""Tables that forget by the day: one partition per day, made ahead and removed whole.

For a parent `PARTITION BY RANGE` of one `date` column. CREATE then ATTACH, because CREATE ... PARTITION OF
locks the parent against reading; DETACH CONCURRENTLY then DROP for the same reason. The parent must have no
DEFAULT partition: Postgres refuses the concurrent detach of a table that has one.
Source: PostgreSQL manual, section 5.12.2.2 and ALTER TABLE.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import NamedTuple

from libs.common.postgres import Connection

_ONE_DAY = timedelta(days=1)

_LIST = """
SELECT c.relname AS name,
       i.inhrelid IS NOT NULL AS is_attached,
       coalesce(i.inhdetachpending, false) AS is_leaving
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE n.nspname = $1 AND c.relkind = 'r' AND starts_with(c.relname, $2)
ORDER BY c.relname
"""


class _Partition(NamedTuple):
    name: str
    day: date
    is_attached: bool
    is_leaving: bool
    """A detach was begun and not finished."""


async def ensure_days(connection: Connection, schema: str, table: str, *, first: date, days: int) -> list[str]:
    """Make the partitions of `days` days from `first` on; gives the names of those that were missing.

    Safe to repeat and to run in two replicas at once. Call it outside a transaction: each partition is made
    in one of its own, which waits at most 1 s for a lock.
    """
    wanted = [first + _ONE_DAY * n for n in range(days)]
    present = {p.day for p in await _partitions(connection, schema, table) if p.is_attached}
    return [
        partition_name(table, day)
        for day in wanted
        if day not in present and await _attach(connection, schema, table, day)
    ]


async def drop_days(connection: Connection, schema: str, table: str, *, keep_from: date) -> list[str]:
    """Remove the partitions of the days before `keep_from`; gives the names of those that are gone.

    Call it outside a transaction. A run that was cut off half-way is finished by the next; while another
    replica is at it, this one does nothing.
    """
    async with _alone(connection, schema, table) as is_alone:
        if not is_alone:
            return []
        old = [p for p in await _partitions(connection, schema, table) if p.day < keep_from]
        for partition in old:
            await _detach(connection, schema, table, partition)
            await connection.execute(f"DROP TABLE {_quoted(schema, partition.name)}")
        return [partition.name for partition in old]


def partition_name(table: str, day: date) -> str:
    """`task_done`, 21 November 2026: `task_done_p20261121`."""
    return f"{table}_p{day:%Y%m%d}"


async def _attach(connection: Connection, schema: str, table: str, day: date) -> bool:
    parent, name = _quoted(schema, table), partition_name(table, day)
    child = _quoted(schema, name)
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '1s'")
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"ensure {parent}")
        if any(p.name == name and p.is_attached for p in await _partitions(connection, schema, table)):
            return False  # another replica made it while we waited for the lock
        await connection.execute(f"CREATE TABLE IF NOT EXISTS {child} (LIKE {parent} INCLUDING ALL)")
        await connection.execute(
            f"ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM ('{day}') TO ('{day + _ONE_DAY}')"
        )
    return True


async def _detach(connection: Connection, schema: str, table: str, partition: _Partition) -> None:
    # Each in a statement of its own: CONCURRENTLY is two transactions inside and refuses to stand in one.
    if partition.is_attached:
        how = "FINALIZE" if partition.is_leaving else "CONCURRENTLY"
        await connection.execute(
            f"ALTER TABLE {_quoted(schema, table)} DETACH PARTITION {_quoted(schema, partition.name)} {how}"
        )


async def _partitions(connection: Connection, schema: str, table: str) -> list[_Partition]:
    # By name and not by parent: a partition that was detached and not dropped has no parent any more.
    shape = re.compile(re.escape(table) + r"_p(\d{4})(\d{2})(\d{2})")
    rows = await connection.fetch(_LIST, schema, f"{table}_p")
    return [
        _Partition(row["name"], date(*map(int, match.groups())), row["is_attached"], row["is_leaving"])
        for row in rows
        if (match := shape.fullmatch(row["name"]))
    ]


@asynccontextmanager
async def _alone(connection: Connection, schema: str, table: str) -> AsyncIterator[bool]:
    # A lock of the session, not of a transaction; the server frees it when the connection dies.
    key = f"drop {_quoted(schema, table)}"
    is_alone = await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", key)
    try:
        yield is_alone
    finally:
        if is_alone and not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", key)


def _quoted(schema: str, table: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in (schema, table))
