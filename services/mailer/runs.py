"""When a run begins: at the scheduled times, and early when the fallback queue fills.

A full queue would turn away the dispatcher's verdicts and with them all calls; so it is looked at once a minute.
"""

import asyncio
import gc
from contextlib import suppress
from datetime import datetime
from typing import Protocol

import structlog
from prometheus_client import Gauge

from libs.common.clock import Clock
from libs.common.contracts import LastDigest
from libs.common.lifecycle import Backoff, pause
from libs.common.metrics import REGISTRY
from libs.common.topology import FALLBACK, FALLBACK_ENTRY, topology
from services.mailer.collect import Collected, Interrupted, Occupied
from services.mailer.schedule import Schedule

LOOK_EVERY_S = 60.0


def _half_full() -> int:
    """Messages that may be half the queue's bytes. The broker tells their number only, so each is taken for a
    full one (64 KiB): early by a run or two when they are smaller, never late."""
    [bound] = [queue.arguments["x-max-length-bytes"] for queue in topology().queues if queue.name == FALLBACK]
    return int(bound) // 2 // FALLBACK_ENTRY.bytes_max


HALF_FULL_MESSAGES = _half_full()

WAITING_SINCE = Gauge(
    "carillon_mailer_waiting_since_timestamp_seconds",
    "When the fallback queue was first seen not to be empty, or the last digest if that is not known; 0: it is empty",
    registry=REGISTRY,
)

log = structlog.get_logger(__name__)


class Fallback(Protocol):
    """The queue, as `collect.py` has it."""

    async def waiting(self) -> int: ...

    async def last(self) -> LastDigest | None: ...

    async def note_empty(self) -> None: ...

    async def collect(self, messages_max: int, stopping: asyncio.Event) -> Collected: ...


class Runs:
    """The worker that starts them, one after the other."""

    name = "digest runs"

    def __init__(self, fallback: Fallback, schedule: Schedule, clock: Clock) -> None:
        self.next_at: datetime = schedule.after(clock.now())
        self._fallback = fallback
        self._schedule = schedule
        self._clock = clock
        self._is_resumed = False
        self._is_left = False
        self._waiting_since = 0.0
        self._turn = asyncio.Lock()

    async def run(self, stopping: asyncio.Event) -> None:
        backoff = Backoff(first_s=1.0, cap_s=30.0)
        nap_s = 0.0
        while not await pause(stopping, nap_s):
            try:
                await self.one_pass(stopping)
            except Interrupted as error:
                log.warning("run.interrupted", reason=str(error))
                nap_s = backoff.next()
            else:
                backoff.reset()
                nap_s = self._nap_s()

    async def one_pass(self, stopping: asyncio.Event) -> None:
        """Look, and collect if it is time or too much waits. Raises: Interrupted; the run is then still due.

        So is one that is left to another replica, until that one has told of it: it may die half-way.
        """
        async with self._turn:
            await self._resume()
            if self._is_left:
                await self._pass_over_what_was_told()
            waiting = await self._look()
            is_due = self._clock.now() >= self.next_at
            try:
                if waiting and (is_due or waiting > HALF_FULL_MESSAGES):
                    await self._collect(waiting, "schedule" if is_due else "half full", stopping)
                elif is_due:
                    await self._fallback.note_empty()
            except Occupied as error:
                log.info("run.left", reason=str(error))
                self._is_left = is_due
            else:
                self._is_left = False
            if is_due and not self._is_left:
                self.next_at = self._schedule.after(self._clock.now())

    async def now(self, stopping: asyncio.Event) -> Collected:
        """A digest of what waits, at once; the schedule stays. Raises: Occupied, Interrupted."""
        async with self._turn:
            return await self._collect(await self._look(), "command", stopping)

    async def _resume(self) -> None:
        """However many runs were missed while nobody was there, they are one, and it is due now."""
        if self._is_resumed:
            return
        last = await self._fallback.last()
        if last is None:
            with suppress(Occupied):
                await self._fallback.note_empty()
        else:
            self.next_at = min(self.next_at, self._schedule.after(last.collected_at))
            self._wait_from(last.collected_at.timestamp())
        self._is_resumed = True

    async def _pass_over_what_was_told(self) -> None:
        last = await self._fallback.last()
        if last is not None and last.collected_at >= self.next_at:
            self.next_at = self._schedule.after(last.collected_at)

    async def _look(self) -> int:
        waiting = await self._fallback.waiting()
        if not waiting:
            self._wait_from(0.0)
        elif not self._waiting_since:
            self._wait_from(self._clock.now().timestamp())
        return waiting

    async def _collect(self, waiting: int, cause: str, stopping: asyncio.Event) -> Collected:
        """As many digests as it takes; one, as a rule."""
        messages = pages = 0
        while messages < waiting and not stopping.is_set():
            collected = await self._fallback.collect(waiting - messages, stopping)
            if not collected.messages:
                if not messages:
                    raise Occupied("what waited has been taken by another, or the broker gives nothing")
                break
            messages, pages = messages + collected.messages, pages + collected.pages
        log.info("run.finished", messages=messages, pages=pages, cause=cause)
        gc.collect()  # mails leave cycles behind, 0.2 MiB a digest, and nothing else here would call the collector
        self._wait_from(0.0)
        return Collected(messages, pages)

    def _wait_from(self, timestamp: float) -> None:
        self._waiting_since = timestamp
        WAITING_SINCE.set(timestamp)

    def _nap_s(self) -> float:
        if self._is_left:
            return LOOK_EVERY_S
        # At most a minute, so that a stepped clock or a suspended machine is noticed.
        return min(LOOK_EVERY_S, max(0.0, (self.next_at - self._clock.now()).total_seconds()))
