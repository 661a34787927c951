"""What a client may cost that disconnects early, sends slowly, or sends a hundred megabytes: raw sockets."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web

from libs.common.admin import serve
from services.ingest import bodies
from services.ingest.batch_door import NDJSON
from tests.http.conftest import BODY_BYTES_MAX, KEY, Client, FakeBroker

MIB = 1024 * 1024
HUGE = 100 * MIB
GROWTH_MAX = 24 * MIB
"""Of this process, in which the client runs too: the batch's own 8 MiB three times."""
LINE = b'{"url": "https://example.com/hook"}\n'
DOORS = [("/v1/tasks", "application/json"), ("/v1/tasks/batch", "application/json"), ("/v1/tasks/batch", NDJSON)]

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
async def _deadline() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


@asynccontextmanager
async def connected(client: Client, port: int = 0) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port or client.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def head(path: str, kind: str, *lines: str) -> bytes:
    common = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}", f"Content-Type: {kind}")
    return "\r\n".join((*common, *lines, "", "")).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    told = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", told, re.IGNORECASE)
    assert length is not None, told
    return int(told.split()[1]), json.loads(await reader.readexactly(int(length[1])))


async def until(look: Callable[[], object]) -> None:
    while not look():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.01)


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


async def pour(writer: asyncio.StreamWriter, piece: bytes, size: int) -> int:
    """Send `size` bytes, or as many as are taken; gives by how much memory has grown at most."""
    before, most = resident(), 0
    try:
        for _ in range(size // len(piece)):
            writer.write(piece)
            await writer.drain()
            most = max(most, resident() - before)
    except ConnectionError:
        pass  # enough of it
    return most


@pytest.mark.parametrize(("path", "kind"), DOORS)
async def test_a_hundred_megabytes_that_are_announced_are_refused_unread(
    client: Client, broker: FakeBroker, path: str, kind: str
) -> None:
    async with connected(client) as (reader, writer):
        writer.write(head(path, kind, f"Content-Length: {HUGE}"))
        status, problem = await answer(reader)
        assert (status, problem["code"]) == (413, "body_too_large")
        assert await pour(writer, b"[" * 65_536, HUGE) < GROWTH_MAX
    assert broker.published == []


@pytest.mark.parametrize(("path", "kind"), DOORS)
async def test_a_hundred_megabytes_in_chunks_cost_no_more_than_the_limit(
    client: Client, broker: FakeBroker, path: str, kind: str
) -> None:
    async with connected(client) as (reader, writer):
        writer.write(head(path, kind, "Transfer-Encoding: chunked"))
        assert await pour(writer, b"10000\r\n" + b" " * 65_536 + b"\r\n", HUGE) < GROWTH_MAX
        status, problem = await answer(reader)
        assert (status, problem["code"]) == (413, "body_too_large")
    assert broker.published == []


async def test_a_chunked_body_that_has_come_and_is_a_byte_too_large_is_refused(client: Client) -> None:
    for size, wanted in ((BODY_BYTES_MAX, 201), (BODY_BYTES_MAX + 1, 413)):
        raw = b"%x\r\n%s\r\n0\r\n\r\n" % (size, LINE.ljust(size))
        async with connected(client) as (reader, writer):
            writer.write(head("/v1/tasks", "application/json", "Transfer-Encoding: chunked") + raw)
            assert (await answer(reader))[0] == wanted


@pytest.mark.parametrize(("path", "kind"), DOORS)
async def test_a_hundred_megabytes_that_come_as_one_hundred_kilobytes_of_gzip_cost_no_more(
    client: Client, broker: FakeBroker, path: str, kind: str
) -> None:
    bomb = gzip.compress(b" " * HUGE)
    async with connected(client) as (reader, writer):
        before = resident()
        writer.write(head(path, kind, f"Content-Length: {len(bomb)}", "Content-Encoding: gzip") + bomb)
        status, problem = await answer(reader)
        assert (status, problem["code"]) == (413, "body_too_large")
        assert resident() - before < GROWTH_MAX
    assert broker.published == []


async def trickle(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def trickling(writer: asyncio.StreamWriter, piece: bytes) -> AsyncIterator[None]:
    sending = asyncio.create_task(trickle(writer, piece))
    try:
        yield
    finally:
        sending.cancel()


@pytest.mark.parametrize(("path", "kind"), DOORS)
async def test_a_body_that_trickles_in_is_given_up(
    client: Client, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    monkeypatch.setattr(bodies, "READ_S", 0.2)
    async with connected(client) as (reader, writer):
        writer.write(head(path, kind, "Content-Length: 4000"))
        async with trickling(writer, b" "):
            status, problem = await answer(reader)
    assert (status, problem["code"]) == (408, "body_too_slow")
    assert broker.published == []


async def test_the_lines_before_a_stream_stalls_stand(
    client: Client, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "READ_S", 0.2)
    async with connected(client) as (reader, writer):
        writer.write(head("/v1/tasks/batch", NDJSON, "Content-Length: 4000") + LINE + LINE + LINE[:9])
        status, body = await answer(reader)
    assert (status, [each["status"] for each in body["results"]]) == (200, [201, 201, 408])
    assert len(broker.published) == 2


@pytest.mark.parametrize("begun", [b"", b"POST /v1/tasks HTTP/1.1\r\n", head("/v1/tasks", "text/plain")[:-2]])
async def test_a_head_that_trickles_in_is_given_up(client: Client, begun: bytes) -> None:
    async with (
        serve(web.Application(), "127.0.0.1", 0, setting="X", idle_s=0.3) as port,
        connected(client, port) as (reader, writer),
    ):
        writer.write(begun)
        async with trickling(writer, b"X-A: b\r\n" if begun else b""):
            with suppress(ConnectionError):
                assert await reader.read() == b""


@pytest.mark.parametrize(("path", "kind"), DOORS)
async def test_a_client_that_leaves_while_it_sends_has_asked_for_nothing_and_is_no_fault_of_ours(
    client: Client, broker: FakeBroker, path: str, kind: str
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with connected(client) as (_reader, writer):
            writer.write(head(path, kind, f"Content-Length: {len(LINE) + 9}") + LINE[:-1])
            await until(lambda: _requests_in_hand(client) == 1)
        await until(lambda: _requests_in_hand(client) == 0)
    assert broker.published == []
    assert [each for each in logs if each["log_level"] == "error"] == []


async def test_a_client_that_leaves_before_the_answer_has_its_task(client: Client, broker: FakeBroker) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    async with connected(client) as (_reader, writer):
        writer.write(head("/v1/tasks", "application/json", f"Content-Length: {len(LINE)}") + LINE)
        await broker.asked.wait()
    with structlog.testing.capture_logs() as logs:
        broker.confirm.set_result(None)
        await until(lambda: _requests_in_hand(client) == 0)
    assert [each["event"] for each in logs] == ["task.created"]


@pytest.mark.parametrize("encoded", [("Content-Encoding: gzip", b"no gzip"), ("Transfer-Encoding: chunked", b"zz\r\n")])
async def test_a_body_that_is_not_encoded_as_announced_is_a_400(client: Client, encoded: tuple[str, bytes]) -> None:
    line, raw = encoded
    lines = [line] if "Transfer" in line else [line, f"Content-Length: {len(raw)}"]
    async with connected(client) as (reader, writer):
        writer.write(head("/v1/tasks", "application/json", *lines) + raw)
        told = await reader.readuntil(b"\r\n\r\n")
    assert told.split()[1] == b"400"


def _requests_in_hand(client: Client) -> int:
    runner = client.server.runner
    assert runner is not None
    assert runner.server is not None
    return sum(connection._current_request is not None for connection in runner.server.connections)
