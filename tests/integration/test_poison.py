"""A payload that kills every process which takes it ends up in parking, and its neighbours are handled."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aio_pika.abc import AbstractConnection

from libs.common.intake import FIRST_PREFETCH
from libs.common.topology import DELIVERY_LIMIT, DISPATCHER_DUE, PARKING
from tests.conftest import ROOT
from tests.integration.rig import put, ready, take, until

ITEMS, PER_MESSAGE, POISON = 100, 20, 13
# Two deliveries of the packed message, then its own until the limit; and one that the broker may not have counted.
DEATHS_MAX = 2 + DELIVERY_LIMIT + 2
WITHIN_S = 60.0


@asynccontextmanager
async def a_mortal(url: str, moment_s: float) -> AsyncIterator[list[str]]:
    """Gives the lines that it has printed so far."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.mortal", url, str(POISON), str(moment_s),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            lines.append(line.decode().strip())

    reading = asyncio.create_task(read())
    try:
        yield lines
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await reading


@pytest.mark.parametrize(("moment_s", "parked_max"), [(0.0, FIRST_PREFETCH), (0.02, 1)], ids=["at once", "in a moment"])
async def test_what_kills_every_process_that_takes_it_is_parked_and_the_other_99_are_handled(
    amqp_url: str, amqp: AbstractConnection, moment_s: float, parked_max: int
) -> None:
    """What kills at once lets nobody beside it be acked: they are handled each time, and share its end."""
    bodies = [json.dumps(list(range(begin, begin + PER_MESSAGE))).encode() for begin in range(0, ITEMS, PER_MESSAGE)]
    await put(amqp, DISPATCHER_DUE, *bodies)
    others = {str(item) for item in range(ITEMS) if item != POISON}

    async def is_parked() -> bool:
        return await ready(amqp, PARKING) >= 1

    async with a_mortal(amqp_url, moment_s) as lines:
        await until("it to be parked", is_parked, WITHIN_S)
        await until("the others", lambda: others <= set(lines))
    parked = [json.loads((await take(amqp, PARKING)).body) for _ in range(await ready(amqp, PARKING))]
    assert [POISON] in parked
    assert len(parked) <= parked_max
    assert all(len(items) == 1 for items in parked)
    assert lines.count("died") <= DEATHS_MAX
