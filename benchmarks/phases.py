"""Between two moments: how long, whose CPU, what was published."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from benchmarks.called import SinkProcess
from benchmarks.cpu import Usage, pids_of, usage
from benchmarks.scrape import Counts, Packed, scrape
from deploy.local.private import PrivateStack

STUCK_S = 60.0
LOOK_AGAIN_S = 0.1

EVENTS = "carillon_ingest_events_total"

T = TypeVar("T")


class Stuck(Exception):
    """What was waited for does not come any nearer."""


@dataclass(frozen=True)
class Moment:
    at: float
    usage: Usage
    counts: Counts


@dataclass(frozen=True)
class Phase:
    seconds: float
    cpu_s: Mapping[str, float]
    """By process; `machine` is everything that ran, ours or not."""
    packing: Mapping[str, Packed]


class Meter:
    """Reads the whole pipeline at a moment: the stack's processes, the sink, and this one (the client)."""

    def __init__(self, stack: PrivateStack, sink: SinkProcess, session: aiohttp.ClientSession) -> None:
        self._pids = {**pids_of(stack.layout), "sink": sink.pid, "client": os.getpid()}
        self._admin_urls = stack.admin_urls()
        self._session = session

    async def now(self) -> Moment:
        counts = await scrape(self._session, self._admin_urls.values())
        return Moment(time.monotonic(), usage(self._pids), counts)

    async def history(self, kind: str) -> int:
        """How many events of one kind the history has taken in so far."""
        ingest = [url for name, url in self._admin_urls.items() if name.startswith("ingest-")]
        return (await scrape(self._session, ingest)).total(EVENTS, type=kind)


def between(start: Moment, end: Moment) -> Phase:
    used = end.usage.since(start.usage)
    cpu_s = {**used.processes, "machine": used.machine}
    return Phase(end.at - start.at, cpu_s, end.counts.since(start.counts).packing())


async def reach(what: str, wanted: int, look: Callable[[], Awaitable[int]]) -> None:
    """Until `look` gives `wanted`. Raises: Stuck when it has not grown for `STUCK_S`."""
    seen, moved_at = -1, time.monotonic()
    while (count := await look()) < wanted:
        if count != seen:
            seen, moved_at = count, time.monotonic()
        elif time.monotonic() - moved_at > STUCK_S:
            raise Stuck(f"{what}: {count} of {wanted}, and no more for {STUCK_S:.0f} s")
        await asyncio.sleep(LOOK_AGAIN_S)
