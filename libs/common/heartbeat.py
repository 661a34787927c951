"""Says every 10 seconds that this process works, for the console: who, which version, since when, and a few metrics.

A heartbeat delays nothing and nobody waits for it; one that cannot be published is not repeated.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry

from libs.common.clock import Clock, ceil_to_ms
from libs.common.contracts import ServiceSeen, encode
from libs.common.lifecycle import pause
from libs.common.metrics import REGISTRY
from libs.common.publisher import NotPublished, Publisher
from libs.common.topology import REPLICA_SEEN
from libs.common.version import VERSION

EVERY_S = 10.0
LAST_S = 1.0
"""The link is closed after the drain, and the last word must not prolong it."""


class Heartbeat:
    """The worker. `vitals` are metrics to tell of, by short names; those without a value are left out."""

    name = "heartbeat"

    def __init__(
        self,
        service: str,
        replica: str,
        publisher: Publisher,
        clock: Clock,
        vitals: Mapping[str, str],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._service = service
        self._replica = replica
        self._publisher = publisher
        self._clock = clock
        self._vitals = vitals
        self._registry = registry
        self._started_at = ceil_to_ms(clock.now())

    async def run(self, stopping: asyncio.Event) -> None:
        beating: asyncio.Task[None] | None = None
        try:
            while True:
                # Beside the loop: a broker that is away holds up one beat, and those that follow are left out.
                if beating is None or beating.done():
                    beating = asyncio.create_task(self.beat())
                if await pause(stopping, EVERY_S):
                    break
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self.beat(is_last=True)
        finally:
            if beating is not None:
                beating.cancel()

    async def beat(self, *, is_last: bool = False) -> None:
        seen = ServiceSeen(
            service=self._service,
            replica=self._replica,
            version=VERSION,
            started_at=self._started_at,
            at=ceil_to_ms(self._clock.now()),
            vitals=self._values(),
            is_last=is_last,
        )
        with suppress(NotPublished):
            await self._publisher.publish(REPLICA_SEEN, encode(seen))

    def _values(self) -> dict[str, float]:
        samples = {
            sample.name: sample.value
            for metric in self._registry.restricted_registry(list(self._vitals.values())).collect()
            for sample in metric.samples
        }
        return {name: samples[metric] for name, metric in self._vitals.items() if metric in samples}
