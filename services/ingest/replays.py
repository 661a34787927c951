"""Looks up what an Idempotency-Key has made before: a courtesy, for at most a second.

Without it the scheduler still keeps one task per id; only the replayed answer and the 422 for another body are lost.
So a Postgres that fell silent must not slow the creates down: while a look-up is late, nobody waits for another.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

import structlog

from libs.common.postgres import PostgresAway
from services.ingest.stored import StoredTask

LOOKUP_S = 1.0

T = TypeVar("T")

log = structlog.get_logger(__name__)


class FindsTasks(Protocol):
    """The part of `Store` that this needs."""

    async def task(self, project: str, id_: UUID) -> StoredTask | None: ...


class FindsFingerprints(Protocol):
    async def fingerprints(self, project: str, ids: Sequence[UUID]) -> Mapping[UUID, str]: ...


class Courtesy:
    """Look-ups that nobody has to wait long for."""

    def __init__(self, lookup_s: float = LOOKUP_S) -> None:
        self._lookup_s = lookup_s
        self._late: set[asyncio.Task[Any]] = set()

    async def of(self, looking_up: Callable[[], Awaitable[T]]) -> T | None:
        """None when it cannot be known in time."""
        if self._late:
            return None
        looking = asyncio.create_task(_look(looking_up))
        done, _ = await asyncio.wait({looking}, timeout=self._lookup_s)
        if done:
            return looking.result()
        # Not cancelled: asyncpg would wait for the server to acknowledge that, which is what is not answering.
        log.warning("replay.late", lookup_s=self._lookup_s)
        self._late.add(looking)
        looking.add_done_callback(self._late.discard)
        return None


class Replays:
    def __init__(self, history: FindsTasks, *, lookup_s: float = LOOKUP_S) -> None:
        self._history = history
        self._courtesy = Courtesy(lookup_s)

    async def earlier(self, project: str, id_: UUID) -> StoredTask | None:
        """The task that the key has made; None when there is none, or when it cannot be known in time."""
        return await self._courtesy.of(lambda: self._history.task(project, id_))


async def _look(looking_up: Callable[[], Awaitable[T]]) -> T | None:
    try:
        return await looking_up()
    except PostgresAway as error:
        log.warning("replay.not-looked-up", reason=str(error))
        return None
