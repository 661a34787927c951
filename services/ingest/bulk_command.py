"""How a command for many tasks begins: which statuses it is for, how many match, and the row that is the work.

For whoever starts one: `bulk_door.py` and the console.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec
import structlog

from libs.common.clock import Clock
from libs.common.ids import new_id
from services.ingest.bulk import BY_DEFAULT, OF_ACTION, start
from services.ingest.creation import this_millisecond
from services.ingest.cursor import Place
from services.ingest.store_bulk import Action, Bulk
from services.ingest.store_filter import Asked
from services.ingest.store_lists import Page
from services.ingest.task_filter import Status, TaskFilter

COUNT_MAX = 100_000
COUNT_S = 2.0
_COUNT_AT_A_TIME = 5_000

log = structlog.get_logger(__name__)


class Count(NamedTuple):
    """`matched` is a lower bound where `is_exact` is false."""

    matched: int
    is_exact: bool


class KeepsBulks(Protocol):
    """The part of `BulkStore` that this needs."""

    async def add(self, bulk: Bulk) -> None: ...


class FindsPlaces(Protocol):
    """The part of `Lists` that this needs."""

    async def places(self, asked: Asked, before: Place, limit: int) -> Page: ...


class BulkCommands:
    """All raise PostgresAway."""

    def __init__(self, bulks: KeepsBulks, lists: FindsPlaces, clock: Clock) -> None:
        self._bulks = bulks
        self._lists = lists
        self._clock = clock

    async def prepared(
        self, project: str, by: str, action: Action, wanted: TaskFilter, id_: UUID | None = None
    ) -> Bulk:
        """Counted, and not kept yet. `wanted` names statuses that `action` is for."""
        now = this_millisecond(self._clock.now())
        bulk = Bulk(id_ or new_id(), project, action, wanted, 0, False, now, by)
        count = await self.count(Asked(project, wanted, self._clock.now()), start(bulk))
        return bulk._replace(matched=count.matched, is_exact=count.is_exact)

    async def submit(self, bulk: Bulk) -> None:
        """Workers go on with it. Twice under one id is once."""
        await self._bulks.add(bulk)
        fields = {"bulk_id": str(bulk.id), "action": bulk.action, "key_id": bulk.submitted_by, "matched": bulk.matched}
        log.info("bulk.submitted", **fields)

    async def count(self, asked: Asked, before: Place, most: int = COUNT_MAX, within_s: float = COUNT_S) -> Count:
        """How many match, and whether that is all: counting ends at `most`, or after `within_s`."""
        deadline = time.monotonic() + within_s
        matched, place = 0, before
        while matched < most and time.monotonic() < deadline:
            page = await self._lists.places(asked, place, min(_COUNT_AT_A_TIME, most))
            matched += len(page.places)
            if page.next is None:
                return Count(matched, is_exact=True)
            place = page.next
        return Count(matched, is_exact=False)


def statuses(action: Action, named: Sequence[Status]) -> tuple[Status, ...]:
    """Of those that are named, the ones that `action` is for; where none is named, what it does by itself."""
    return tuple(each for each in named if each in OF_ACTION[action]) if named else tuple(BY_DEFAULT[action])


def for_action(wanted: TaskFilter, action: Action) -> TaskFilter:
    """The same, with no status but those that `action` is for. Raises: ValueError when none is left."""
    left = statuses(action, wanted.status)
    if not left:  # it would mean all of them
        raise ValueError(f"there is nothing to {action} of {wanted.status}")
    return msgspec.structs.replace(wanted, status=left)
