"""The client that never gives up: it repeats a request with the same Idempotency-Key until it has its answer.

After a 503, a timeout or a broken connection it asks the next replica of ingest.
"""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
# Hundreds that wait for both replicas would be a load of their own.
REPEAT_AFTER_S_MAX = 4.0
JSON = "application/json"


class Unexpected(Exception):
    """An answer that no repetition will mend: a bug of the stack, or of this client."""


@dataclass(frozen=True)
class Request:
    """`key`: the Idempotency-Key; one without is sent with none, and may happen once more than it is answered."""

    method: str
    path: str
    data: bytes | None = None
    key: str | None = None
    content_type: str = JSON


@dataclass(frozen=True)
class Answer:
    """`tries`: how many requests it took. Times since 1970: when the first was sent, when the answer was there."""

    status: int
    text: str
    tries: int
    asked_ms: int
    answered_ms: int

    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """Of a problem."""
        return str(self.json().get("code", ""))


def repeats_too(_answer: Answer) -> bool:
    """Nothing that it is worth asking again for, beyond what every client asks again for."""
    return False


@dataclass
class Client:
    """`accepted` grows with each 201, `answers` counts everything that came instead of a success."""

    session: aiohttp.ClientSession
    api_urls: Sequence[str]
    run: str
    """Distinguishes this run's keys from another's."""
    repeat_after_s: float = REPEAT_AFTER_S
    """At first; then twice as long each time."""
    accepted: list[Accepted] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _begun: float = field(default_factory=time.monotonic)

    async def schedule(self, order: Order, sink_url: str) -> None:
        """Ask for one task at its time, until it is accepted."""
        await self.until(order.post_at_s)
        due_at = self.moment(order.due_at_s)
        body = {"url": f"{sink_url}/{order.behaviour}/{order.number}", "due_at": due_at, "body": {"n": order.number}}
        answer = await self.insist(posted("/v1/tasks", body, f"{self.run}-task-{order.number}"), {201})
        task = answer.json()
        # A repeated request may be answered with a later time than the first one, unanswered, has made: "now" was
        # another moment then. What was asked for holds in any case.
        due_ms = to_ms(datetime.fromisoformat(task["due_at"] if answer.tries == 1 else due_at))
        self.accepted.append(Accepted(task["id"], due_ms, "failed" if order.behaviour == "broken" else "succeeded"))

    async def notify(self, at_s: float, number: int) -> None:
        """Ask for one notice in the next digest, until it is accepted."""
        await self.until(at_s)
        word = f"{self.run}-notice-{number}."
        await self.insist(posted("/fallback", {"subject": "chaos", "message": word}, word), {202})
        self.notices.append(word)

    async def until(self, at_s: float) -> None:
        """Seconds since the run began; at once when that has passed."""
        await asyncio.sleep(max(0.0, self._begun + at_s - time.monotonic()))

    def moment(self, at_s: float) -> str:
        return format_utc(self.started + timedelta(seconds=at_s))

    def pause_s(self, tries: int) -> float:
        """After so many in vain. A hundred doublings are no float any more."""
        return max(self.repeat_after_s, min(REPEAT_AFTER_S_MAX, self.repeat_after_s * 2.0 ** min(tries - 1, 10)))

    async def insist(
        self,
        request: Request,
        wanted: set[int],
        is_unsettled: Callable[[Answer], bool] = repeats_too,
        start: int | None = None,
    ) -> Answer:
        """The first answer with a `wanted` status that is not `is_unsettled`. `start`: the replica that is asked first.

        Raises: Unexpected.
        """
        first = crc32((request.key or request.path).encode()) if start is None else start
        replicas = itertools.islice(itertools.cycle(self.api_urls), first % len(self.api_urls), None)
        asked_ms = now_ms()
        for tries, url in enumerate(replicas, start=1):
            answer = await self._ask(url, request, wanted, tries, asked_ms)
            if answer is not None and not is_unsettled(answer):
                return answer
            if answer is not None and request.method != "GET":
                self.answers[f"{request.method} {answer.status}"] += 1
            await asyncio.sleep(self.pause_s(tries))
        raise AssertionError("a cycle has no end")

    async def _ask(self, url: str, request: Request, wanted: set[int], tries: int, asked_ms: int) -> Answer | None:
        """None when it is worth asking again."""
        headers = {"Idempotency-Key": request.key} if request.key else {}
        if request.data is not None:
            headers["Content-Type"] = request.content_type
        try:
            async with self.session.request(
                request.method, url + request.path, data=request.data, headers=headers
            ) as response:
                text = await response.text()
                if response.status in wanted:
                    return Answer(response.status, text, tries, asked_ms, now_ms())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.answers[type(error).__name__] += 1
            return None
        self.answers[f"HTTP {response.status}"] += 1
        if response.status in (409, 429) or response.status >= 500:
            return None
        raise Unexpected(f"{request.method} {url}{request.path}: HTTP {response.status} {text}")


def posted(path: str, body: Mapping[str, Any], key: str | None) -> Request:
    return Request("POST", path, json.dumps(body).encode(), key)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def session(api_key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {api_key}"},
        timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S),
        connector=aiohttp.TCPConnector(limit=0),
    )
