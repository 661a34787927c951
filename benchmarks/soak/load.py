"""The steady load: so many tasks a second, asked for over HTTP, some of them changed, some failing; a few schedules.

An open loop: each request has its time, whatever became of those before. Nothing is repeated: an answer that is not
the expected one is counted, and fails the run.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import aiohttp

from benchmarks.soak.book import Book
from libs.common.clock import ceil_to_ms, format_utc, to_ms

Behaviour = Literal["called", "flaky", "gone"]
"""How the sink answers: 204; 503 to the first call; 410, which ends the task as failed."""
Change = Literal["", "cancel", "move"]

TICK_S = 0.5
FIRST_DIGEST_TICK = 240
"""Two minutes: a digest in the warm-up, so that what the mailer loads with its first one is loaded."""
BATCHED_SHARE = 1 / 3
"""In one batch per tick; the others are asked for one by one, evenly over it."""
NOW_SHARE = 0.05
BEHAVIOURS: dict[Behaviour, float] = {"called": 0.94, "flaky": 0.05, "gone": 0.01}
CHANGES: dict[Change, float] = {"": 0.95, "cancel": 0.02, "move": 0.03}
"""Of those that wait long enough for it."""
LEAD_MIN_S, LEAD_MAX_S = 1.0, 60.0
CHANGED_FROM_S = 10.0
"""The lead that a change needs; half of it has passed when it is asked for."""
MOVED_BY_S = (5.0, 20.0)
SCHEDULES: dict[str, dict[str, str]] = {
    "soak-every-5s": {"every": "5s"},
    "soak-every-20s": {"every": "20s"},
    "soak-cron-15s": {"cron": "*/15 * * * * *", "timezone": "Europe/Paris"},
}
PAGE = 250
CONNECTIONS = 64
ANSWER_WITHIN_S = 30.0


@dataclass(frozen=True)
class Order:
    lead_s: float
    """From the request to the due time; 0 means at once."""
    behaviour: Behaviour
    change: Change

    @property
    def calls(self) -> int:
        """How often the sink is called, when all goes well."""
        return 2 if self.behaviour == "flaky" else 1


def order(dice: random.Random) -> Order:
    lead_s = 0.0 if dice.random() < NOW_SHARE else dice.uniform(LEAD_MIN_S, LEAD_MAX_S)
    [behaviour] = dice.choices(tuple(BEHAVIOURS), tuple(BEHAVIOURS.values()))
    [change] = dice.choices(tuple(CHANGES), tuple(CHANGES.values()))
    if lead_s < CHANGED_FROM_S:
        change = ""
    return Order(lead_s, behaviour, change)


def ticks(rate: float, seconds: float, dice: random.Random) -> Iterator[list[Order]]:
    """What each tick asks for; the sum is `rate * seconds` however odd the rate."""
    asked = 0
    for number in range(1, round(seconds / TICK_S) + 1):
        until = round(rate * TICK_S * number)
        yield [order(dice) for _ in range(until - asked)]
        asked = until


def session(api_key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {api_key}"},
        timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S),
        connector=aiohttp.TCPConnector(limit=CONNECTIONS),
    )


@dataclass
class Load:
    """`refused` counts by what came in place of the expected answer."""

    session: aiohttp.ClientSession
    api_urls: Sequence[str]
    sink_url: str
    book: Book
    dice: random.Random
    refused: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    _asked: int = 0

    async def begin(self) -> None:
        for name, plan in SCHEDULES.items():
            task = {"url": f"{self.sink_url}/called", "body": {"schedule": name}}
            await self._ask("PUT", f"/v1/schedules/{name}", {**plan, "task": task}, 201)
        await self._open_all()

    async def _open_all(self) -> None:
        """Every connection that the client may need: opened later, at a moment of haste, they would pass for a leak."""
        show = f"/v1/schedules/{next(iter(SCHEDULES))}"
        await asyncio.gather(*(self._ask("GET", show, None, 200) for _ in range(CONNECTIONS)))

    async def run(self, rate: float, seconds: float) -> None:
        """Returns when the last request is answered."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, orders in enumerate(ticks(rate, seconds, self.dice)):
                await asyncio.sleep(began + number * TICK_S - time.monotonic())
                if number == FIRST_DIGEST_TICK:
                    group.create_task(self._ask("POST", "/v1/digest/send", {}, 200))
                batched = round(len(orders) * BATCHED_SHARE)
                group.create_task(self._batch(group, orders[:batched]))
                group.create_task(self._singles(group, orders[batched:]))

    async def end(self) -> None:
        """No occurrence is made any more; those that were are in the book."""
        for name in SCHEDULES:
            await self._ask("POST", f"/v1/schedules/{name}/pause", {}, 200)

    async def note_occurrences(self) -> None:
        """Puts the tasks of the schedules into the book; those that the pause cancelled are not called."""
        for name in SCHEDULES:
            cursor = ""
            while True:
                page = await self._ask("GET", f"/v1/tasks?schedule={name}&limit={PAGE}{cursor}", None, 200)
                if page is None:
                    break
                for task in page["data"]:
                    due_ms = to_ms(datetime.fromisoformat(task["due_at"]))
                    self.book.promise(task["id"], due_ms, 0 if task["status"] == "cancelled" else 1)
                if not page.get("next_cursor"):
                    break
                cursor = f"&cursor={page['next_cursor']}"

    async def _singles(self, group: asyncio.TaskGroup, orders: Sequence[Order]) -> None:
        for each in orders:
            group.create_task(self._single(group, each))
            await asyncio.sleep(TICK_S / len(orders))

    async def _single(self, group: asyncio.TaskGroup, each: Order) -> None:
        body, due_ms = self._task(each)
        created = await self._ask("POST", "/v1/tasks", body, 201)
        if created is not None:
            self._accepted(group, created["id"], each, due_ms)

    async def _batch(self, group: asyncio.TaskGroup, orders: Sequence[Order]) -> None:
        if not orders:
            return
        tasks = [self._task(each) for each in orders]
        answer = await self._ask("POST", "/v1/tasks/batch", {"tasks": [body for body, _ in tasks]}, 200)
        for each, (_, due_ms), result in zip(orders, tasks, answer["results"] if answer else [], strict=False):
            if result["status"] == 201:
                self._accepted(group, result["id"], each, due_ms)
            else:
                self.refused[f"{result['status']} in a batch"] += 1

    def _task(self, each: Order) -> tuple[dict[str, Any], int]:
        due_at = _from_now(each.lead_s)
        body = {"url": f"{self.sink_url}/{each.behaviour}", "body": {"text": "x" * 64}}
        # Without a time it is due when it comes in, by ingest's clock: the millisecond of the request is before that.
        if each.lead_s:
            body["due_at"] = format_utc(due_at)
        return body, to_ms(due_at)

    def _accepted(self, group: asyncio.TaskGroup, id_: str, each: Order, due_ms: int) -> None:
        self.book.promise(id_, due_ms, each.calls, is_ahead=each.lead_s > 0)
        if each.change:
            group.create_task(self._change(id_, each))

    async def _change(self, id_: str, each: Order) -> None:
        await asyncio.sleep(each.lead_s / 2)
        self.book.doubt(id_)  # until the answer says what holds
        if each.change == "cancel":
            if await self._ask("DELETE", f"/v1/tasks/{id_}", None, 200) is not None:
                self.changed["cancelled"] += 1
                self.book.cancel(id_)
            return
        due_at = _from_now(self.dice.uniform(*MOVED_BY_S))
        if await self._ask("PATCH", f"/v1/tasks/{id_}", {"due_at": format_utc(due_at)}, 200) is not None:
            self.changed["moved"] += 1
            self.book.promise(id_, to_ms(due_at), each.calls)

    async def _ask(self, method: str, path: str, body: object, wanted: int) -> dict[str, Any] | None:
        """None for another answer than `wanted`, or none at all."""
        self._asked += 1
        url = self.api_urls[self._asked % len(self.api_urls)] + path
        try:
            async with self.session.request(method, url, json=body) as response:
                if response.status == wanted:
                    answer: dict[str, Any] = await response.json()
                    return answer
                why = str(response.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = type(error).__name__
        self.refused[f"{why} to {method}"] += 1
        return None


def _from_now(seconds: float) -> datetime:
    return ceil_to_ms(datetime.now(UTC) + timedelta(seconds=seconds))
