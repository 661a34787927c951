"""A steady, light load for as long as something is broken on purpose, and the verdict when it is whole again.

The client, the sink's calls and the checker are those of `make chaos`.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.chaos.aftermath import Mails, histories
from tests.chaos.checker import Accepted, Verdict, check, unfinished
from tests.chaos.client import Client
from tests.chaos.load import Behaviour, Order
from tests.compose.outside import URL, Mailpit, Sink

TASKS_PER_S = 20
AHEAD_S_MAX = 5.0
NOTICE_EVERY_S = 2.0
SHARES: dict[Behaviour, float] = {"ok": 0.88, "flaky": 0.10, "broken": 0.02}
ACCEPT_WITHIN_S = 60.0
# A call that a death cuts off is repeated when its claim ends: 8 s at most, then the rung.
CALL_WITHIN_S = 90.0
MAIL_WITHIN_S = 45.0
LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class Aftermath:
    """What was promised, and what came of it."""

    accepted: tuple[Accepted, ...]
    verdict: Verdict
    unfinished: Mapping[str, str]
    mails: Mails
    failed: int
    answers: Mapping[str, int]

    @property
    def faults(self) -> list[str]:
        found = {
            f"{len(self.verdict.lost)} tasks were lost: {self.verdict.lost[:5]}": bool(self.verdict.lost),
            f"{len(self.verdict.early)} calls came early: {self.verdict.early[:5]}": bool(self.verdict.early),
            f"histories do not end as they should: {dict(self.unfinished)}": bool(self.unfinished),
            f"{self.failed} tasks failed, the mails tell of {self.mails.failed_told}": (
                self.mails.failed_told < self.failed
            ),
            f"notices stand in no mail: {self.mails.notices_missing}": bool(self.mails.notices_missing),
        }
        return [text for text, is_so in found.items() if is_so]

    def text(self) -> str:
        verdict, late = self.verdict, self.verdict.lateness_ms
        answers = ", ".join(f"{name} {count}" for name, count in sorted(self.answers.items())) or "none"
        return (
            f"{verdict.accepted} tasks accepted, {len(verdict.lost)} lost, {len(verdict.early)} early, "
            f"{verdict.repeated_successes} repeated successes, {verdict.repeated_attempts} repeated attempts, "
            f"{self.failed} failed of which {self.mails.failed_told} in mails; "
            f"lateness p50 {late.p50 if late else 0:.0f} ms, max {late.max if late else 0:.0f} ms; "
            f"refused and repeated requests: {answers}"
        )


@asynccontextmanager
async def steady_load(client: Client, seed: int, tasks_per_s: float = TASKS_PER_S) -> AsyncIterator[None]:
    """Asks for tasks and notices while the body runs; on leaving, waits until all are accepted."""
    stopped = asyncio.Event()
    asking = asyncio.create_task(_ask(client, random.Random(seed), stopped, tasks_per_s))
    try:
        yield
        stopped.set()
        async with asyncio.timeout(ACCEPT_WITHIN_S):
            await asking
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def aftermath(client: Client, http: aiohttp.ClientSession, sink: Sink, mailpit: Mailpit) -> Aftermath:
    """The verdict, as soon as every promise is kept, or when time is up."""
    await _called(client, sink)
    ids = {task.id for task in client.accepted}
    states = await histories(http, client.api_urls, client.accepted)
    failed = sum(task.should_end == "failed" for task in client.accepted)
    return Aftermath(
        accepted=tuple(client.accepted),
        # The sink tells the calls of earlier tests too.
        verdict=check(client.accepted, [call for call in await sink.look() if call.id in ids]),
        unfinished=unfinished(client.accepted, states),
        mails=await _mails(client, mailpit, failed),
        failed=failed,
        answers=dict(client.answers),
    )


def orders(dice: random.Random, tasks_per_s: float) -> Iterator[Order]:
    """`tasks_per_s` of them a second, for ever, each due within `AHEAD_S_MAX` of its request."""
    for number in itertools.count():
        [behaviour] = dice.choices(list(SHARES), list(SHARES.values()))
        at_s = number / tasks_per_s
        yield Order(number, behaviour, at_s, at_s + dice.uniform(0, AHEAD_S_MAX))


async def _ask(client: Client, dice: random.Random, stopped: asyncio.Event, tasks_per_s: float) -> None:
    began, every = time.monotonic(), int(tasks_per_s * NOTICE_EVERY_S)
    async with asyncio.TaskGroup() as asking:
        for order in orders(dice, tasks_per_s):
            if await _is_set_within(stopped, began + order.post_at_s - time.monotonic()):
                return
            asking.create_task(client.schedule(order, URL))
            if order.number % every == 0:
                asking.create_task(client.notify(order.post_at_s, order.number))


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            return await event.wait()
    except TimeoutError:
        return event.is_set()


async def _called(client: Client, sink: Sink) -> None:
    deadline = time.monotonic() + CALL_WITHIN_S
    while time.monotonic() < deadline:
        if not check(client.accepted, await sink.look()).lost:
            return
        await asyncio.sleep(LOOK_AGAIN_S)


async def _mails(client: Client, mailpit: Mailpit, failed: int) -> Mails:
    deadline = time.monotonic() + MAIL_WITHIN_S
    while True:
        told = await mailpit.mails(client.notices)
        if (told.failed_told >= failed and not told.notices_missing) or time.monotonic() > deadline:
            return told
        await asyncio.sleep(LOOK_AGAIN_S)
