"""Redrives or drops all parked messages of one cause, in the background, and loses none when it dies.

A cause may have thousands of messages, which is too long for a request. What is meant are those that were there at
submission: one that is parked again by its redrive is not taken again. A redriven message goes only after the broker's
confirm, so a crash in between sends it twice; the steps after a crash repeat a page at most.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import structlog

from libs.common.lifecycle import pause
from libs.common.postgres import PostgresAway
from libs.common.publisher import NotPublished
from services.ingest.problems import Problem
from services.ingest.redelivery import Republishes, send_back
from services.ingest.store_dead_letters import Clearing
from services.ingest.store_parked import DeadLetter, ParkedPlace

PAGE = 100
STEP_S = 20.0
"""A page ends after it: well within the lease, however slow the broker is."""
BREATH_S = 0.05
LOOK_EVERY_S = 1.0

log = structlog.get_logger(__name__)


class KeepsClearings(Protocol):
    """The part of `ClearingStore` that is work. All raise PostgresAway."""

    async def claim(self) -> Clearing | None: ...

    async def letters(self, clearing: Clearing, limit: int) -> list[DeadLetter]: ...

    async def forget(self, message_ids: Sequence[str]) -> int: ...

    async def step(self, clearing: Clearing, *, done: int, left_alone: int, is_over: bool) -> None: ...


class _Step(NamedTuple):
    """How many of a page were looked at, and what came of them."""

    looked_at: int
    done: int
    left_alone: int


class ClearingWorker:
    """A worker."""

    name = "clearing"

    def __init__(self, store: KeepsClearings, publisher: Republishes) -> None:
        self._store = store
        self._publisher = publisher

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                has_worked = await self.one_step()
            except PostgresAway as error:
                log.warning("clearing.held", reason=str(error))
                has_worked = False
            await pause(stopping, BREATH_S if has_worked else LOOK_EVERY_S)

    async def one_step(self) -> bool:
        """One page of one clearing; False when there is nothing to do, or it cannot be done just now."""
        clearing = await self._store.claim()
        if clearing is None:
            return False
        letters = await self._store.letters(clearing, PAGE)
        step = await (self._drop(letters) if clearing.action == "drop" else self._redrive(letters))
        is_over = step.looked_at == len(letters) < PAGE
        if step.looked_at:
            last = letters[step.looked_at - 1]
            clearing = clearing._replace(after=ParkedPlace(last.parked_at, last.message_id))
        await self._store.step(clearing, done=step.done, left_alone=step.left_alone, is_over=is_over)
        if is_over:
            log.info("clearing.finished", clearing_id=str(clearing.id), action=clearing.action)
        return bool(step.looked_at) or is_over

    async def _drop(self, letters: Sequence[DeadLetter]) -> _Step:
        done = await self._store.forget([letter.message_id for letter in letters])
        return _Step(len(letters), done, len(letters) - done)

    async def _redrive(self, letters: Sequence[DeadLetter]) -> _Step:
        """Up to the first that the broker does not take: it is the next step's first."""
        deadline, done = time.monotonic() + STEP_S, 0
        for looked_at, letter in enumerate(letters):
            if time.monotonic() > deadline:
                return _Step(looked_at, done, looked_at - done)
            try:
                await send_back(self._publisher, letter)
            except Problem:
                continue  # nobody takes it back: it stays, and is counted
            except NotPublished as error:
                log.warning("clearing.held", reason=str(error))
                return _Step(looked_at, done, looked_at - done)
            await self._store.forget([letter.message_id])
            done += 1
        return _Step(len(letters), done, len(letters) - done)
