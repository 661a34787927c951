"""Asks for tasks as fast as ingest answers: a fixed number of keep-alive connections, one request at a time on each.

Raw streams in place of an HTTP client: on a small machine the client's own CPU is part of what ingest is left with.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import msgspec

from libs.common.clock import format_utc

_STATUS_AND_LENGTH = re.compile(rb"HTTP/1\.1 (\d+) .*?\r\ncontent-length: *(\d+)", re.IGNORECASE | re.DOTALL)


class NotTaken(Exception):
    """An answer other than 201. A benchmark repeats nothing: what it measured would be something else."""


class _Created(msgspec.Struct):
    id: str


_created = msgspec.json.Decoder(_Created)


@dataclass(frozen=True)
class Submitted:
    ids: list[str]
    seconds: float

    @property
    def per_s(self) -> float:
        return len(self.ids) / self.seconds


@dataclass(frozen=True)
class Job:
    """What every task of a burst has in common."""

    api_url: str
    api_key: str
    call_url: str
    due_at: datetime
    connections: int


async def submit(job: Job, tasks: int) -> Submitted:
    """Returns when all are accepted. Raises: NotTaken."""
    numbers, ids = iter(range(tasks)), list[str]()
    began = time.monotonic()
    workers = [asyncio.create_task(_work(job, numbers, ids)) for _ in range(job.connections)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return Submitted(ids, time.monotonic() - began)


async def _work(job: Job, numbers: Iterator[int], ids: list[str]) -> None:
    address = urlsplit(job.api_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        for number in numbers:
            writer.write(_request(job, number))
            ids.append(await _answer(reader))
    finally:
        writer.close()


def _request(job: Job, number: int) -> bytes:
    due_at = format_utc(job.due_at)
    body = msgspec.json.encode({"url": job.call_url, "due_at": due_at, "body": {"number": number, "text": "x" * 64}})
    lines = (
        "POST /v1/tasks HTTP/1.1",
        f"Host: {urlsplit(job.api_url).netloc}",
        f"Authorization: Bearer {job.api_key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _answer(reader: asyncio.StreamReader) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    found = _STATUS_AND_LENGTH.match(head)
    if found is None:
        raise NotTaken(f"not an answer that this client reads: {head!r}")
    body = await reader.readexactly(int(found[2]))
    if found[1] != b"201":
        raise NotTaken(f"HTTP {found[1].decode()}: {body.decode(errors='replace')}")
    return _created.decode(body).id
