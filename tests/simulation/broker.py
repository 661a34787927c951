"""A broker of items: queues that redeliver, rungs that hold exactly, confirms that get lost.

What is confirmed is there. An item may also be there without a confirm, come twice, and come again after its consumer
died. Routing is by the product's own table.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from libs.common import topology
from libs.common.publisher import NotPublished, PublishUnknown, Refused
from libs.common.topology import Route
from tests.simulation.world import Life, Luck

BACKOFF_S = (0.05, 1.0)
FULL = 40
"""Items that dispatcher.due takes."""


class Delivered(NamedTuple):
    queue: str
    number: int
    item: bytes


@dataclass
class _Queue:
    ready: deque[tuple[int, bytes]] = field(default_factory=deque)
    unacked: dict[int, tuple[bytes, Life]] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Broker:
    def __init__(self, luck: Luck, retry_schedule_s: Sequence[float]) -> None:
        self._luck = luck
        table = topology.topology(retry_schedule_s)
        self._bindings = {(each.exchange, each.key): each.queue for each in table.bindings}
        self._ttl_s = {
            queue.name: int(queue.arguments["x-message-ttl"]) / 1000
            for queue in table.queues
            if "x-message-ttl" in queue.arguments
        }
        self._queues: dict[str, _Queue] = {queue.name: _Queue() for queue in table.queues}
        self._numbers = 0
        self.up = asyncio.Event()
        self.up.set()
        self.events: list[bytes] = []
        self.fallback: list[bytes] = []

    @property
    def is_up(self) -> bool:
        return self.up.is_set()

    def put(self, route: Route, item: bytes) -> None:
        """Raises: Refused."""
        if route.exchange == topology.TASK_EVENT.exchange:
            self.events.append(item)
            return
        name = self._bindings[route.exchange, route.key]
        if name == topology.FALLBACK:
            self.fallback.append(item)
            return
        if name == topology.DISPATCHER_DUE and len(self._queues[name].ready) >= FULL:
            raise Refused("dispatcher.due is full")
        if name in self._ttl_s:
            asyncio.get_running_loop().call_later(self._ttl_s[name], self._dead_letter, item)
        else:
            self._push(name, item)

    async def take(self, name: str, life: Life, most: int = 1) -> list[Delivered]:
        """Up to `most` items, at least one."""
        queue = self._queues[name]
        while not (self.is_up and queue.ready):
            queue.arrived.clear()
            await queue.arrived.wait()
        taken: list[Delivered] = []
        while queue.ready and len(taken) < most:
            number, item = queue.ready.popleft()
            queue.unacked[number] = (item, life)
            taken.append(Delivered(name, number, item))
        return taken

    def ack(self, delivered: Delivered, life: Life) -> None:
        """Of a link that is gone it means nothing: the item has been given back."""
        life.check()
        if self.is_up:
            self._queues[delivered.queue].unacked.pop(delivered.number, None)

    def lose(self, life: Life) -> None:
        """Its link is gone: what it holds comes again."""
        for queue in self._queues.values():
            for number in [number for number, (_item, holder) in queue.unacked.items() if holder is life]:
                item, _holder = queue.unacked.pop(number)
                self._again(queue, item)

    async def go_away(self, seconds: float) -> None:
        """All links are gone; what is in the queues stays, and what was under way comes again."""
        self.up.clear()
        for queue in self._queues.values():
            for item, _holder in queue.unacked.values():
                self._again(queue, item)
            queue.unacked.clear()
        await asyncio.sleep(seconds)
        self.up.set()
        for queue in self._queues.values():
            queue.arrived.set()

    def is_idle(self) -> bool:
        return not any(queue.ready or queue.unacked for queue in self._queues.values())

    def _again(self, queue: _Queue, item: bytes) -> None:
        self._numbers += 1
        queue.ready.appendleft((self._numbers, item))
        queue.arrived.set()

    def _push(self, name: str, item: bytes) -> None:
        self._numbers += 1
        self._queues[name].ready.append((self._numbers, item))
        self._queues[name].arrived.set()

    def _dead_letter(self, item: bytes) -> None:
        """At least once: the same again when the broker died over it."""
        if not self.is_up:
            asyncio.get_running_loop().call_later(0.5, self._dead_letter, item)
            return
        self._push(topology.DISPATCHER_RETRY_DUE, item)
        if self._luck.strikes(0.02):
            self._push(topology.DISPATCHER_RETRY_DUE, item)


class SimPublisher:
    """The part of `Publisher` that the services use, on the link of one process."""

    def __init__(self, broker: Broker, luck: Luck, life: Life) -> None:
        self._broker = broker
        self._luck = luck
        self._life = life

    async def flowing(self) -> None:
        await self._broker.up.wait()

    async def publish(self, route: Route, item: bytes) -> None:
        await self._luck.delay()
        self._life.check()
        if not self._broker.is_up or self._luck.strikes(0.02):
            raise PublishUnknown("it never arrived")
        self._broker.put(route, item)
        await self._luck.delay()
        if not self._broker.is_up or self._luck.strikes(0.02):
            raise PublishUnknown("its confirm never arrived")

    async def publish_many(
        self, route: Route, items: Sequence[bytes], *, within_s: float = 5.0
    ) -> list[NotPublished | None]:
        return [await self._outcome(route, item) for item in items]

    async def insist(self, route: Route, item: bytes) -> None:
        while True:
            if await self._outcome(route, item) is None:
                return
            await asyncio.sleep(self._luck.dice.uniform(*BACKOFF_S))

    async def insist_many(self, route: Route, items: Sequence[bytes]) -> None:
        for item in items:
            await self.insist(route, item)

    async def _outcome(self, route: Route, item: bytes) -> NotPublished | None:
        try:
            await self.publish(route, item)
        except NotPublished as error:
            return error
        return None
