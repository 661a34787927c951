"""The client that never gives up: it repeats a request with the same Idempotency-Key until it has its answer.

After a 503, a timeout or a broken connection it asks the next replica of ingest.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import aiohttp

from libs.common.clock import format_utc, to_ms
from tests.chaos.checker import Accepted
from tests.chaos.load import Order

# Above ingest's own limit for a confirm (5 s), so that its 503 has a chance.
ANSWER_WITHIN_S = 8.0
REPEAT_AFTER_S = 0.25


class Unexpected(Exception):
    """An answer that no repetition will mend: a bug of the stack, or of this client."""


@dataclass
class Client:
    """`accepted` grows with each 201, `answers` counts everything that came instead of a success."""

    session: aiohttp.ClientSession
    api_urls: Sequence[str]
    run: str
    """Distinguishes this run's keys from another's."""
    repeat_after_s: float = REPEAT_AFTER_S
    accepted: list[Accepted] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _begun: float = field(default_factory=time.monotonic)

    async def schedule(self, order: Order, sink_url: str) -> None:
        """Ask for one task at its time, until it is accepted."""
        await self._until(order.post_at_s)
        due_at = format_utc(self.started + timedelta(seconds=order.due_at_s))
        body = {"url": f"{sink_url}/{order.behaviour}/{order.number}", "due_at": due_at, "body": {"n": order.number}}
        task, tries = await self._insist("/v1/tasks", f"{self.run}-task-{order.number}", body, 201)
        # A repeated request may be answered with a later time than the first one, unanswered, has made: "now" was
        # another moment then. What was asked for holds in any case.
        due_ms = to_ms(datetime.fromisoformat(task["due_at"] if tries == 1 else due_at))
        self.accepted.append(Accepted(task["id"], due_ms, "failed" if order.behaviour == "broken" else "succeeded"))

    async def notify(self, at_s: float, number: int) -> None:
        """Ask for one notice in the next digest, until it is accepted."""
        await self._until(at_s)
        word = f"{self.run}-notice-{number}."
        await self._insist("/fallback", word, {"subject": "chaos", "message": word}, 202)
        self.notices.append(word)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(self._begun + at_s - time.monotonic())

    async def _insist(self, path: str, key: str, body: Mapping[str, Any], wanted: int) -> tuple[dict[str, Any], int]:
        """The answer, and how many requests it took. Raises: Unexpected."""
        replicas = itertools.islice(itertools.cycle(self.api_urls), crc32(key.encode()) % len(self.api_urls), None)
        for tries, url in enumerate(replicas, start=1):
            answer = await self._ask(url + path, key, body, wanted)
            if answer is not None:
                return answer, tries
            await asyncio.sleep(self.repeat_after_s)
        raise AssertionError("a cycle has no end")

    async def _ask(self, url: str, key: str, body: Mapping[str, Any], wanted: int) -> dict[str, Any] | None:
        """None when it is worth asking again."""
        try:
            async with self.session.post(url, json=body, headers={"Idempotency-Key": key}) as response:
                text = await response.text()
                if response.status == wanted:
                    answer: dict[str, Any] = await response.json()
                    return answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.answers[type(error).__name__] += 1
            return None
        self.answers[f"HTTP {response.status}"] += 1
        if response.status in (409, 429) or response.status >= 500:
            return None
        raise Unexpected(f"POST {url}: HTTP {response.status} {text}")


def session(api_key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {api_key}"},
        timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S),
        connector=aiohttp.TCPConnector(limit=0),
    )
