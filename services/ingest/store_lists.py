"""Lists of tasks, newest first, of ten million.

Newest first is the order of one index, and a condition may belong to another; then there are two honest ways, and each
is quick where the other is not. Walk one index in order of time and ask each task for the rest: quick where what is
wanted is dense. Take all of a range by its own index and sort: quick where it is sparse. So a page

    1. looks at the newest 1,000 (or 5,000) of each source in order of time: task_label, task_schedule, task_state,
       task_newest;
    2. takes the range by url, host or due time whole, if it is at most 20,000 (task_url, task_due);
    3. walks on in steps of 5,000. A range that is larger is dense, unless it lies in a heap far back in time.

A status, a label or a schedule alone is always answered by the first step. Where all three fail, a page ends after
`SEARCH_S` and says where to go on: it may be short, even empty, with a cursor.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import asyncpg

from libs.common.postgres import Connection, Postgres
from services.ingest import store_filter
from services.ingest.cursor import Place
from services.ingest.store import TASK_COLUMNS, stored_task
from services.ingest.store_filter import Asked, Source, Sql
from services.ingest.stored import StoredTask

FIRST_WINDOW, SECOND_WINDOW, DENSE = 1_000, 4_000, 10
"""The second where the first has found most, if that was a tenth of the page: it is likely to fill it."""
WINDOW = 5_000
RANGE_MAX = 20_000
SEARCH_S = 0.25
"""When a page has searched for so long it takes no further step."""

# Each statement is written for one index. A plan for thousands of its entries is also dear enough to be compiled, and
# made for several processes, either of which takes longer than to run it.
BY_INDEX = """
    SELECT set_config(name, value, true) FROM (VALUES
        ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_sort', 'off'), ('jit', 'off'),
        ('max_parallel_workers_per_gather', '0'), ('plan_cache_mode', 'force_generic_plan')) AS setting (name, value)
"""
# Without the payload, which may be large and is shown nowhere in a list.
_ROWS = f"""
    SELECT {TASK_COLUMNS.replace(" call,", " ''::bytea AS call,")}, url, method, schedule
    FROM task WHERE id = ANY($1::uuid[]) ORDER BY task.created_at DESC, task.id DESC
"""  # noqa: S608  made of constants
_CALLS = "SELECT id, call FROM task WHERE id = ANY($1::uuid[]) AND octet_length(call) BETWEEN 1 AND $2"


class ListedTask(NamedTuple):
    """`task.call` is empty. `url` is "" of a task that was purged."""

    task: StoredTask
    url: str
    method: str
    schedule: str | None


class Page(NamedTuple):
    """`next` is the place to go on from; None when there is no more."""

    places: Sequence[Place]
    next: Place | None


@dataclass
class _Walk:
    """How far one source has been looked through, and what was found."""

    source: Source
    before: Place
    found: list[Place] = field(default_factory=list)
    is_over: bool = False


class Lists:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def page(self, asked: Asked, before: Place, limit: int) -> tuple[list[ListedTask], Place | None]:
        """At most `limit` tasks older than `before`, and where to go on."""
        async with self._snapshot() as connection:
            page = await search(connection, asked, before, limit)
            records = await connection.fetch(_ROWS, [place.id for place in page.places])
        return [_listed(record) for record in records], page.next

    async def places(self, asked: Asked, before: Place, limit: int) -> Page:
        """The same, ids only."""
        async with self._snapshot() as connection:
            return await search(connection, asked, before, limit)

    async def calls(self, ids: Sequence[UUID], bytes_max: int) -> dict[UUID, bytes]:
        """The payloads that are no larger, and were not purged."""
        async with self._postgres.acquire() as connection:
            return {record["id"]: record["call"] for record in await connection.fetch(_CALLS, ids, bytes_max)}

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        async with (
            self._postgres.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await connection.execute(BY_INDEX)
            yield connection


async def search(connection: Connection, asked: Asked, before: Place, limit: int) -> Page:
    """One page, by the three steps."""
    deadline = time.monotonic() + SEARCH_S
    if asked.filter.created_to is not None:
        before = min(before, Place(asked.filter.created_to, UUID(int=0)))
    if not asked.states:
        return Page((), None)
    if asked.filter.ids and (few := await _range(connection, asked, "id", before, limit)) is not None:
        return _page(few, limit)
    walks = [_Walk(source, before) for source in store_filter.sources(asked)]
    for walk in walks:
        await _step(connection, asked, walk, FIRST_WINDOW, limit)
        if _is_done(walk, limit):
            return _page(walk, limit)
    densest = max(walks, key=lambda each: len(each.found))
    if len(densest.found) * DENSE > limit:
        await _step(connection, asked, densest, SECOND_WINDOW, limit)
        if _is_done(densest, limit):
            return _page(densest, limit)
    for kind in store_filter.ranges(asked):
        found = await _range(connection, asked, kind, before, limit)
        if found is not None:
            return _page(found, limit)
    return await _walk_on(connection, asked, walks, limit, deadline)


async def _walk_on(connection: Connection, asked: Asked, walks: list[_Walk], limit: int, deadline: float) -> Page:
    """The sources by turns: of two that are large, one may have more of what is wanted near its head."""
    while True:
        for walk in walks:
            await _step(connection, asked, walk, WINDOW, limit)
            if _is_done(walk, limit):
                return _page(walk, limit)
            if time.monotonic() > deadline:
                return _page(min(walks, key=lambda each: each.before), limit)


async def _step(connection: Connection, asked: Asked, walk: _Walk, window: int, limit: int) -> None:
    wanted = limit + 1 - len(walk.found)
    found = await _fetch(connection, store_filter.page(asked, walk.source, walk.before, window, wanted))
    walk.found += (Place(record["created_at"], record["id"]) for record in found)
    if len(found) == wanted:
        return
    end = await _fetch(connection, store_filter.window_end(asked, walk.source, walk.before, window))
    walk.is_over = not end
    if end:
        walk.before = Place(*end[0])


async def _range(connection: Connection, asked: Asked, kind: str, before: Place, limit: int) -> _Walk | None:
    """Complete; None when the range is too large to be sorted."""
    sql = store_filter.in_range(asked, kind, before, RANGE_MAX + 1, limit + 1)
    [record] = await _fetch(connection, sql)
    if record["found"] > RANGE_MAX:
        return None
    found = [Place(*pair) for pair in zip(record["times"], record["ids"], strict=True)]
    return _Walk(Source("range"), before, found, is_over=True)


def _is_done(walk: _Walk, limit: int) -> bool:
    return walk.is_over or len(walk.found) > limit


def _page(walk: _Walk, limit: int) -> Page:
    if len(walk.found) > limit:
        return Page(walk.found[:limit], walk.found[limit - 1])
    return Page(walk.found, None if walk.is_over else walk.before)


async def _fetch(connection: Connection, sql: Sql) -> list[asyncpg.Record]:
    return await connection.fetch(sql.text, *sql.values)


def _listed(record: asyncpg.Record) -> ListedTask:
    return ListedTask(stored_task(record), record["url"] or "", record["method"] or "", record["schedule"])


def ids_of(page: Page) -> list[UUID]:
    return [place.id for place in page.places]
