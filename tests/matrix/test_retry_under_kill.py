"""A retry that waits on a rung survives the broker: none is lost, few are doubled, none is stuck."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from libs.common.topology import Topology
from tests.matrix.expiring import LATEST_S, MESSAGES, fate_under_kill

RUNG, TTL_S = "dispatcher.retry.5000", 5.0
DUPLICATES_MAX = 32
"""What a rung's dead-letter worker has in flight: its prefetch."""
CONTROL_TRIES = 3


@pytest.mark.parametrize("after_s", [0.1, 0.25, 0.4, 0.55, 0.7])
async def test_what_expires_while_the_broker_is_killed_arrives(
    amqp_url: str, kill_broker: Callable[[], None], after_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    fate = await fate_under_kill(amqp_url, RUNG, TTL_S, kill_broker, after_s)
    with capsys.disabled():
        print(f"\nkilled at +{after_s} s: {fate}")
    assert fate.expired_before < MESSAGES, "the kill came too late to matter"
    assert fate.lost == 0
    assert fate.duplicates <= DUPLICATES_MAX
    assert fate.latest_s <= LATEST_S


@pytest.mark.timeout(300)
async def test_the_same_experiment_tells_an_at_most_once_rung_apart(
    amqp_url: str,
    amqp: AbstractConnection,
    test_topology: Topology,
    kill_broker: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The negative control: it loses messages (tried on 3.10) or doubles more than a prefetch (3.10, 4.0)."""
    [rung] = [queue for queue in test_topology.queues if queue.name == RUNG]
    name = f"test.at-most-once.{uuid4().hex[:8]}"
    arguments: dict[str, Any] = dict(rung.arguments) | {"x-dead-letter-strategy": "at-most-once"}
    async with amqp.channel() as channel:
        await channel.declare_queue(name, durable=True, arguments=arguments)
    fates = []
    for attempt in range(CONTROL_TRIES):
        fates.append(await fate_under_kill(amqp_url, name, TTL_S, kill_broker, 0.2 + 0.1 * attempt))
        with capsys.disabled():
            print(f"\nat most once: {fates[-1]}")
        if fates[-1].lost:
            break
    async with await aio_pika.connect(amqp_url) as again, again.channel() as channel:
        await channel.queue_delete(name)
    seen = any(fate.lost or fate.duplicates > DUPLICATES_MAX for fate in fates)
    assert seen, f"{CONTROL_TRIES} kills of an at-most-once rung went well: would this harness see a loss?"
