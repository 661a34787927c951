"""Carillon as a contestant: its whole pipeline with default settings, asked over HTTP by prepared bytes."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import msgspec

from benchmarks.cpu import pids_of
from benchmarks.peers.contestant import Batch, Failed, Submitted
from benchmarks.phases import EVENTS, reach
from benchmarks.posts import request
from benchmarks.scrape import scrape
from deploy.local.layout import SERVICES, replica_name
from deploy.local.private import PrivateStack
from libs.common.clock import format_utc, from_ms

CONNECTIONS, BULK_CONNECTIONS, BULK = 64, 8, 1000
KILLED = ("scheduler", "dispatcher")
"""What works on tasks that wait, as a peer's worker does; their supervisor starts them again."""
_HEAD_END, _LENGTH = b"\r\n\r\n", b"\r\ncontent-length: "

Request = tuple[bytes, list[int]]
"""Its bytes, and when each of its tasks is due."""


class _Created(msgspec.Struct):
    id: str


class _Results(msgspec.Struct):
    results: list[_Created]


_created, _results = msgspec.json.Decoder(_Created).decode, msgspec.json.Decoder(_Results).decode


@dataclass
class Carillon:
    stack: PrivateStack
    call_url: str
    session: aiohttp.ClientSession
    name: str = "Carillon"
    bulk: bool = True
    servers: tuple[str, ...] = ("rabbitmq", "postgres", "redis")
    lead_s: float = 0.0
    recovery_s: float = 40.0
    """What a dead dispatcher was calling is called again when its claim ends: at most 8 s, then the shortest rung."""
    recovers: bool = False
    _accepted: int = 0
    _finished: int = 0

    async def set_up(self) -> None:
        """Its stack did."""

    async def start(self) -> None:
        """It came up with the stack."""

    async def stop(self) -> None:
        """It goes down with the stack."""

    async def recover(self) -> None:
        raise AssertionError("nobody has to act")

    async def submit(self, batch: Batch) -> Submitted:
        requests = list(self._bulk(batch) if batch.bulk else self._single(batch))
        waiting, due_ms = iter(requests), dict[str, int]()
        began = time.monotonic()
        connections = BULK_CONNECTIONS if batch.bulk else CONNECTIONS
        await asyncio.gather(*(self._ask(waiting, due_ms) for _ in range(connections)))
        seconds = time.monotonic() - began
        self._accepted += batch.tasks  # what it still does for them belongs to the submission
        await reach("tasks in the history", self._accepted, lambda: self._history("TaskAccepted"))
        return Submitted(due_ms, seconds)

    async def settled(self, called: int) -> None:
        """Its history knows every call."""
        self._finished += called
        await reach("calls in the history", self._finished, lambda: self._history("AttemptFinished"))

    def pids(self) -> dict[str, int]:
        return {name: pid for name, pid in pids_of(self.stack.layout).items() if name.rpartition("-")[0] in SERVICES}

    async def kill(self) -> None:
        pids = self.pids()
        for service in KILLED:
            os.kill(pids[replica_name(service, 1)], signal.SIGKILL)

    async def _history(self, kind: str) -> int:
        ingest = [url for name, url in self.stack.admin_urls().items() if name.startswith("ingest-")]
        return (await scrape(self.session, ingest)).total(EVENTS, type=kind)

    def _single(self, batch: Batch) -> Iterator[Request]:
        for number in range(batch.tasks):
            yield self._request("/v1/tasks", self._task(batch, number)), [batch.due_ms(number)]

    def _bulk(self, batch: Batch) -> Iterator[Request]:
        for first in range(0, batch.tasks, BULK):
            numbers = range(first, min(first + BULK, batch.tasks))
            tasks = b",".join(self._task(batch, number) for number in numbers)
            yield self._request("/v1/tasks/batch", b'{"tasks":[' + tasks + b"]}"), [batch.due_ms(n) for n in numbers]

    def _task(self, batch: Batch, number: int) -> bytes:
        body = {"number": number, "text": "x" * 64}
        due_at = format_utc(from_ms(batch.due_ms(number)))
        return msgspec.json.encode({"url": self.call_url, "due_at": due_at, "body": body})

    def _request(self, path: str, body: bytes) -> bytes:
        return request(self.stack.api_urls()[0], self.stack.api_key, path, "application/json", body)

    async def _ask(self, waiting: Iterator[Request], due_ms: dict[str, int]) -> None:
        address = urlsplit(self.stack.api_urls()[0])
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            for raw, dues in waiting:
                writer.write(raw)
                created = await _answer(reader)
                due_ms.update(zip((each.id for each in created), dues, strict=True))
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> list[_Created]:
    """Raises: Failed for anything but all of them."""
    head = (await reader.readuntil(_HEAD_END)).lower()
    at = head.index(_LENGTH) + len(_LENGTH)
    body = await reader.readexactly(int(head[at : head.index(b"\r", at)]))
    try:
        if head.startswith(b"http/1.1 201"):
            return [_created(body)]
        if head.startswith(b"http/1.1 200"):
            return _results(body).results
    except msgspec.MsgspecError as error:  # a result without an id is a task that was refused
        raise Failed(f"not every task is taken: {error}: {body[:600]!r}") from error
    raise Failed(f"{head[:30]!r}: {body[:600]!r}")
