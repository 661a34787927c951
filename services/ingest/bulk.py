"""Cancels, redrives or purges all tasks that a filter lets through, in the background, and loses none when it dies.

What is meant are the tasks that were there at submission and still match when their turn comes. Each step takes the
next `PAGE` of them, newest first, carries the command out, and only then writes down how far it came: whoever goes on
after a crash repeats a page at most, and each command may be repeated.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol
from uuid import UUID

import structlog

from libs.common.clock import Clock
from libs.common.lifecycle import Backoff, pause
from libs.common.postgres import PostgresAway
from libs.common.publisher import NotPublished
from services.ingest.cursor import Place
from services.ingest.store_bulk import Action, Bulk, Tally
from services.ingest.store_filter import Asked
from services.ingest.store_lists import Page, ids_of
from services.ingest.store_purge import PurgeStore
from services.ingest.task_commands import TaskCommands
from services.ingest.task_filter import Status

PAGE = 64
AT_A_TIME = 8
BREATH_S = 0.05
"""Between two pages, so that HTTP and the projection are not crowded out."""
LOOK_EVERY_S = 1.0
TRIES = 3
"""For a task of which nobody says in time what became of it."""

OF_ACTION: Mapping[Action, Sequence[Status]] = {
    "cancel": ("scheduled", "due", "delivering", "retrying", "parked"),
    "redrive": ("failed", "expired", "parked"),
    "purge": ("succeeded", "failed", "cancelled", "expired"),
}
"""What each can be done to."""
BY_DEFAULT: Mapping[Action, Sequence[Status]] = {
    **OF_ACTION,
    "cancel": ("scheduled", "due", "delivering", "retrying"),
    "redrive": ("failed",),
}
"""What it is done to when the filter names no status."""

Outcome = Literal["done", "left_alone", "unknown", "again"]
Command = Callable[[str, UUID], Awaitable[Outcome]]
"""`again`: it could not even be tried, and will be until it can."""

log = structlog.get_logger(__name__)


class KeepsBulks(Protocol):
    """The part of `BulkStore` that is work."""

    async def claim(self) -> Bulk | None: ...

    async def renew(self, bulk: Bulk) -> Bulk | None: ...

    async def step(self, bulk: Bulk, after: Place | None, tally: Tally, *, is_over: bool) -> None: ...


class FindsPlaces(Protocol):
    """The part of `Lists` that this needs."""

    async def places(self, asked: Asked, before: Place, limit: int) -> Page: ...


class BulkWorker:
    """A worker."""

    name = "bulk"

    def __init__(self, store: KeepsBulks, lists: FindsPlaces, commands: Mapping[Action, Command], clock: Clock) -> None:
        self._store = store
        self._lists = lists
        self._commands = commands
        self._clock = clock
        self._slots = asyncio.Semaphore(AT_A_TIME)

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                has_worked = await self.one_step(stopping)
            except PostgresAway as error:
                log.warning("bulk.held", reason=str(error))
                has_worked = False
            await pause(stopping, BREATH_S if has_worked else LOOK_EVERY_S)

    async def one_step(self, stopping: asyncio.Event) -> bool:
        """One page of one command; False when there is none to work on."""
        bulk = await self._store.claim()
        if bulk is None:
            return False
        asked = Asked(bulk.project, bulk.filter, self._clock.now())
        page = await self._lists.places(asked, bulk.after or start(bulk), PAGE)
        left, tally = await self._carry_out(bulk, ids_of(page), stopping)
        if left is None:
            return True  # another replica has taken it over
        bulk, is_whole = left
        is_over = is_whole and page.next is None
        await self._store.step(bulk, page.next if is_whole else bulk.after, tally, is_over=is_over)
        if is_over:
            log.info("bulk.finished", bulk_id=str(bulk.id), action=bulk.action)
        return True

    async def _carry_out(
        self, bulk: Bulk, ids: Sequence[UUID], stopping: asyncio.Event
    ) -> tuple[tuple[Bulk, bool] | None, Tally]:
        """Whether all were settled, and how; None when the lease was lost on the way."""
        counts: Counter[Outcome] = Counter()
        tries: Counter[UUID] = Counter()
        backoff = Backoff(first_s=0.2, cap_s=10.0)
        while ids:
            outcomes = await asyncio.gather(*(self._one(bulk, id_) for id_ in ids))
            tries.update(id_ for id_, outcome in zip(ids, outcomes, strict=True) if outcome == "unknown")
            is_open = [
                outcome == "again" or (outcome == "unknown" and tries[id_] < TRIES)
                for id_, outcome in zip(ids, outcomes, strict=True)
            ]
            counts.update(outcome for outcome, open_ in zip(outcomes, is_open, strict=True) if not open_)
            ids = [id_ for id_, open_ in zip(ids, is_open, strict=True) if open_]
            if ids and await pause(stopping, backoff.next()):
                break
            renewed = await self._store.renew(bulk) if ids else bulk
            if renewed is None:
                return None, Tally()
            bulk = renewed
        return (bulk, not ids), Tally(counts["done"], counts["left_alone"], counts["unknown"])

    async def _one(self, bulk: Bulk, id_: UUID) -> Outcome:
        async with self._slots:
            try:
                return await self._commands[bulk.action](bulk.project, id_)
            except (NotPublished, PostgresAway):
                return "again"


def start(bulk: Bulk) -> Place:
    """Just before the first task that was made after the submission."""
    return Place(bulk.submitted_at, UUID(int=(1 << 128) - 1))


def actions(tasks: TaskCommands, purges: PurgeStore) -> Mapping[Action, Command]:
    """What the actions are, for one task."""

    async def cancel(project: str, id_: UUID) -> Outcome:
        result = (await tasks.cancel(project, id_)).result
        if result == "not_known":
            return "unknown"
        return "done" if result in {"cancelled", "in_flight"} else "left_alone"

    async def redrive(project: str, id_: UUID) -> Outcome:
        return "done" if (await tasks.redrive(project, id_)).result == "redriven" else "left_alone"

    async def purge(project: str, id_: UUID) -> Outcome:
        return "done" if (await purges.purge(project, [id_]))[id_] == "purged" else "left_alone"

    return {"cancel": cancel, "redrive": redrive, "purge": purge}
