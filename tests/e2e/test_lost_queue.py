"""Somebody deletes the queue that due tasks leave by: what waits stays, and is called when the set-up step has run."""

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import aio_pika
import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from libs.common.topology import DISPATCHER_DUE
from tests.conftest import ROOT
from tests.e2e.conftest import SETTINGS, STACK, Receiver, create, eventually, task_in
from tests.e2e.test_operation import PROCESSES, admin, is_ready

TASKS = 20
REPLICAS = (1, 2)


async def test_what_waits_outlives_the_deletion_of_the_queue_that_it_leaves_by(
    stack: dict[str, str], api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    due_at = (datetime.now(UTC) + timedelta(seconds=6)).isoformat()
    tasks = [await create(api, url=f"{receiver.url}/lost-queue-{n}", due_at=due_at) for n in range(TASKS)]
    refused = await refusals(api)
    async with await aio_pika.connect(stack["CARILLON_AMQP_URL"]) as connection:
        await (await connection.channel()).queue_delete(DISPATCHER_DUE)

    async def all_are_refused() -> bool | None:
        return await refusals(api) >= refused + TASKS

    try:
        was_refused: bool = await eventually("all of them refused", all_are_refused)
        assert was_refused
        await eventually("the dispatchers' word", lambda: all(names_the_queue(replica) for replica in REPLICAS))
        assert not any(receiver.calls.get(f"lost-queue-{n}") for n in range(TASKS))
    finally:
        await asyncio.to_thread(set_up, stack)
    await asyncio.gather(*(task_in(api, task["id"], "succeeded", within_s=30) for task in tasks))
    assert [len(receiver.calls[f"lost-queue-{n}"]) for n in range(TASKS)] == [1] * TASKS

    # Every service that connects meanwhile misses the queue and ends: the tests that follow need them all.
    async def all_are_ready() -> bool | None:
        return all([await is_ready(api, service, replica) for service, replica in PROCESSES])

    are_ready: bool = await eventually("everybody to be ready", all_are_ready, within_s=30)
    assert are_ready


async def refusals(api: aiohttp.ClientSession) -> float:
    """What the schedulers wanted to send and the broker did not take."""
    total = 0.0
    for replica in REPLICAS:
        async with api.get(admin("scheduler", replica) + "/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        [fired] = [family for family in families if family.name == "carillon_scheduler_fired"]
        total += sum(sample.value for sample in fired.samples if sample.labels.get("result") == "refused")
    return total


def names_the_queue(replica: int) -> bool:
    lines = (STACK / "logs" / f"dispatcher-{replica}.log").read_text().splitlines()
    return any(DISPATCHER_DUE in line and "set-up" in line for line in lines)


def set_up(stack: dict[str, str]) -> None:
    command = [sys.executable, "-m", "deploy.setup"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")}
    told = {name: stack[name] for name in ("CARILLON_AMQP_URL", "CARILLON_POSTGRES_URL")}
    subprocess.run(command, cwd=ROOT, env=inherited | told | SETTINGS, check=True, capture_output=True)
