"""Messages that expire out of a rung while the broker is killed: how many arrived, how often, how late.

5,000 wait on a rung, begin to expire after its TTL, the broker dies a moment later and comes back; then the queue that
they expire into is emptied and every one of them is looked for.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aiormq.exceptions import AMQPError

from libs.common.topology import DISPATCHER_RETRY_DUE
from tests.integration.rig import ready

MESSAGES = 5_000
AT_ONCE = 500
LATEST_S = 15.0
"""A message may wait this long after the broker is back. advanced.config lets the broker try again every 5 s."""
GIVEN_UP_S = 20.0
"""Nothing new for this long: what is missing is lost, or stalled for the 180 s of the broker's own default."""
BACK_WITHIN_S = 60.0
ASK_AGAIN_S = 0.05


class Fate(NamedTuple):
    lost: int
    duplicates: int
    latest_s: float
    """When the last one arrived for the first time, after the broker was back."""
    away_s: float
    expired_before: int
    """Those that had left the rung at the kill."""

    def __str__(self) -> str:
        return (
            f"lost {self.lost}, duplicates {self.duplicates}, the last {self.latest_s:.1f} s after the broker was back"
            f" (away {self.away_s:.1f} s, {self.expired_before} expired before)"
        )


async def fate_under_kill(url: str, rung: str, ttl_s: float, kill_broker: Callable[[], None], after_s: float) -> Fate:
    """Kill the broker `after_s` after the first of them has expired. The queues are empty before."""
    async with await aio_pika.connect(url) as connection:
        first_at = time.monotonic()
        await _fill(connection, rung)
        await asyncio.sleep(max(0.0, first_at + ttl_s + after_s - time.monotonic()))  # the moment is the experiment
        expired = await ready(connection, DISPATCHER_RETRY_DUE)
        killed_at = time.monotonic()
        await asyncio.to_thread(kill_broker)
    async with await _back(url) as connection:
        back_at = time.monotonic()
        arrived = await _collect(connection)
    return Fate(
        lost=MESSAGES - len(arrived.times),
        duplicates=arrived.times.total() - len(arrived.times),
        latest_s=arrived.last_new_at - back_at,
        away_s=back_at - killed_at,
        expired_before=expired,
    )


async def _fill(connection: AbstractConnection, rung: str) -> None:
    async with connection.channel() as channel:
        for begin in range(0, MESSAGES, AT_ONCE):
            await asyncio.gather(
                *(
                    channel.default_exchange.publish(
                        aio_pika.Message(b"%d" % number, delivery_mode=aio_pika.DeliveryMode.PERSISTENT), rung
                    )
                    for number in range(begin, begin + AT_ONCE)
                )
            )


async def _back(url: str) -> AbstractConnection:
    async with asyncio.timeout(BACK_WITHIN_S):
        while True:
            try:
                return await aio_pika.connect(url, timeout=5)
            except (AMQPError, OSError, TimeoutError):
                await asyncio.sleep(ASK_AGAIN_S)


class _Arrived:
    def __init__(self) -> None:
        self.times: Counter[bytes] = Counter()
        self.last_new_at = time.monotonic()

    async def note(self, message: AbstractIncomingMessage) -> None:
        if message.body not in self.times:
            self.last_new_at = time.monotonic()
        self.times[message.body] += 1


async def _collect(connection: AbstractConnection) -> _Arrived:
    """All that arrives until nothing is left to come, or nothing new comes any more."""
    arrived = _Arrived()
    async with connection.channel() as channel:
        queue = await channel.get_queue(DISPATCHER_RETRY_DUE)
        await queue.consume(arrived.note, no_ack=True)
        while True:
            if len(arrived.times) == MESSAGES or time.monotonic() > arrived.last_new_at + GIVEN_UP_S:
                return arrived
            await asyncio.sleep(ASK_AGAIN_S)
