"""When a run begins: at the scheduled times, and early when the fallback queue fills.

A full queue would turn away the dispatcher's verdicts and with them all calls; so it is looked at once a minute.
"""

import asyncio
from datetime import datetime
from typing import Protocol

import structlog

from libs.common.clock import Clock
from libs.common.lifecycle import Backoff, pause
from libs.common.topology import FALLBACK, FALLBACK_ENTRY, topology
from services.mailer.collect import Interrupted, Occupied
from services.mailer.schedule import Schedule

LOOK_EVERY_S = 60.0


def _half_full() -> int:
    """Messages that may be half the queue's bytes. The broker tells their number only, so each is taken for a
    full one (64 KiB): early by a run or two when they are smaller, never late."""
    [bound] = [queue.arguments["x-max-length-bytes"] for queue in topology().queues if queue.name == FALLBACK]
    return int(bound) // 2 // FALLBACK_ENTRY.bytes_max


HALF_FULL_MESSAGES = _half_full()

log = structlog.get_logger(__name__)


class Fallback(Protocol):
    """The queue, as `collect.py` has it."""

    async def waiting(self) -> int: ...

    async def collect(self, messages_max: int, stopping: asyncio.Event) -> int: ...


class Runs:
    """The worker that starts them, one after the other."""

    name = "digest runs"

    def __init__(self, fallback: Fallback, schedule: Schedule, clock: Clock) -> None:
        self._fallback = fallback
        self._schedule = schedule
        self._clock = clock
        self.next_at: datetime = schedule.after(clock.now())

    async def run(self, stopping: asyncio.Event) -> None:
        backoff = Backoff(first_s=1.0, cap_s=30.0)
        nap_s = self._nap_s()
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
        """Look, and collect if it is time or too much waits. Raises: Interrupted; the run is then still due."""
        waiting = await self._fallback.waiting()
        is_due = self._clock.now() >= self.next_at
        if waiting and (is_due or waiting > HALF_FULL_MESSAGES):
            await self._collect(waiting, is_due, stopping)
        if is_due:
            self.next_at = self._schedule.after(self._clock.now())

    async def _collect(self, waiting: int, is_due: bool, stopping: asyncio.Event) -> None:
        try:
            pages = await self._fallback.collect(waiting, stopping)
        except Occupied as error:
            log.info("run.left", reason=str(error))
        else:
            log.info("run.finished", messages=waiting, pages=pages, cause="schedule" if is_due else "half full")

    def _nap_s(self) -> float:
        # At most a minute, so that a stepped clock or a suspended machine is noticed.
        return min(LOOK_EVERY_S, max(0.0, (self.next_at - self._clock.now()).total_seconds()))
