"""What can be wrong with a broker that lives: out of memory, a queue that is full, a queue that is gone."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aio_pika

from deploy.local.layout import MARKER, PROJECT, Layout
from tests.brokerctl import in_stack

WATERMARK = "0.6"
"""As deploy/rabbitmq/rabbitmq.conf has it."""
POLICY = "chaos-full"
CONTROL_WITHIN_S = 120.0
"""It takes a second of CPU, and a loaded machine much longer."""
SET_UP_WITHIN_S = 90.0
AGAIN_S = 1.0


class NotHealed(Exception):
    """The broker does not become what it was."""


@asynccontextmanager
async def out_of_memory(layout: Layout) -> AsyncIterator[None]:
    """The memory alarm: publishers are blocked, consumers are not."""
    await _control(layout, "set_vm_memory_high_watermark", "0.00001")
    try:
        yield
    finally:
        await _control(layout, "set_vm_memory_high_watermark", WATERMARK)


@asynccontextmanager
async def full(layout: Layout, queue: str) -> AsyncIterator[None]:
    """A queue that has room for nothing: the lesser counts of its own bound and a policy's."""
    bound = json.dumps({"max-length": 0})
    await _control(layout, "set_policy", POLICY, f"^{re.escape(queue)}$", bound, "--apply-to", "queues")
    try:
        yield
    finally:
        await _control(layout, "clear_policy", POLICY)


@asynccontextmanager
async def missing(layout: Layout, settings: Mapping[str, str], queue: str) -> AsyncIterator[None]:
    """Deleted under its consumers, and made again as an operator would: by the set-up step. `settings`: the stack's."""
    async with await aio_pika.connect(settings["CARILLON_AMQP_URL"]) as connection:
        await (await connection.channel()).queue_delete(queue)
    try:
        yield
    finally:
        await _set_up(layout, settings)


async def _control(layout: Layout, *words: str) -> None:
    """Again until it works. Raises: NotHealed."""
    done = None
    try:
        async with asyncio.timeout(CONTROL_WITHIN_S):
            while True:
                done = await asyncio.to_thread(_run_control, layout, words)
                if done.returncode == 0:
                    return
                await asyncio.sleep(AGAIN_S)
    except TimeoutError:
        said = f"{done.stdout}{done.stderr}" if done else "no answer"
        raise NotHealed(f"rabbitmqctl {' '.join(words)}: {said}") from None


def _run_control(layout: Layout, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command, environ = in_stack(layout.root)
    return subprocess.run([*command, *words], env=environ, capture_output=True, text=True, check=False)


async def _set_up(layout: Layout, settings: Mapping[str, str]) -> None:
    """Again until it works: Postgres may be hurt at the same time. Raises: NotHealed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")}
    environ = inherited | dict(settings) | {MARKER: str(layout.root)}
    try:
        async with asyncio.timeout(SET_UP_WITHIN_S):
            while True:
                if await asyncio.to_thread(_run_set_up, layout, environ) == 0:
                    return
                await asyncio.sleep(AGAIN_S)
    except TimeoutError:
        raise NotHealed(f"the set-up step does not work: see {layout.log_file('setup-again')}") from None


def _run_set_up(layout: Layout, environ: Mapping[str, str]) -> int:
    with layout.log_file("setup-again").open("ab") as log:
        command = (sys.executable, "-m", "deploy.setup")
        return subprocess.run(command, cwd=PROJECT, env=environ, stdout=log, stderr=log, check=False).returncode
