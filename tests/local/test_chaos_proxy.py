"""The proxy of the chaos run, on real sockets: each way of spoiling a link does what its name says, and heals."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from socket import SO_LINGER, SOL_SOCKET

import pytest

from deploy.local.layout import LOOPBACK
from tests.chaos.proxy import Proxy

WITHIN_S = 5.0
SILENT_S = 0.3
"""So long nothing comes where nothing may come."""
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Ends]]


class Echo:
    """A server that sends back what it gets, and counts its connections and their ends."""

    def __init__(self) -> None:
        self.opened = 0
        self.ended = 0
        self.got = b""
        self.sizes: list[int] = []
        self._news = asyncio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while data := await reader.read(65_536):
                self.got += data
                self.sizes.append(len(data))
                self._news.set()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.ended += 1
            self._news.set()
            writer.close()


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, LOOPBACK, 0)
    made = Proxy(0, server.sockets[0].getsockname()[:2])
    await made.open()
    yield made
    await made.close()
    server.close()


@pytest.fixture
async def dial(proxy: Proxy) -> AsyncIterator[Dial]:
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Ends:
        ends = await asyncio.open_connection(LOOPBACK, proxy.port)
        writers.append(ends[1])
        return ends

    yield connect
    for writer in writers:
        writer.close()


async def said(ends: Ends, text: bytes) -> bytes:
    """What comes back for it, as much as was said."""
    ends[1].write(text)
    async with asyncio.timeout(WITHIN_S):
        return await ends[0].readexactly(len(text))


async def is_reset(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(WITHIN_S):
            return bool(await reader.read(1)) and False
    except ConnectionResetError:
        return True


@asynccontextmanager
async def nothing_comes(reader: asyncio.StreamReader) -> AsyncIterator[asyncio.Task[bytes]]:
    """A read that is still waiting after `SILENT_S`; what it gets later is for the block."""
    reading = asyncio.create_task(reader.read(1000))
    done, _ = await asyncio.wait([reading], timeout=SILENT_S)
    assert not done, f"something came: {reading.result()!r}"
    yield reading
    reading.cancel()


async def test_a_healthy_link_carries_everything_both_ways(dial: Dial) -> None:
    text = bytes(range(256)) * 4096
    assert await said(await dial(), text) == text


async def test_latency_holds_each_chunk_for_mean_and_jitter(proxy: Proxy, dial: Dial) -> None:
    ends = await dial()

    async def took_s() -> float:
        began = time.monotonic()
        await said(ends, b"x")
        return time.monotonic() - began

    await took_s()
    await proxy.poison("latency", {"mean_ms": 150, "jitter_ms": 50})
    assert 0.2 <= min([await took_s() for _ in range(3)]) <= 1.0  # 100 to 200 ms there, and as much back
    await proxy.heal()
    assert min([await took_s() for _ in range(3)]) < 0.1


async def test_what_waits_for_its_latency_leaves_when_the_link_is_healed(proxy: Proxy, dial: Dial) -> None:
    ends = await dial()
    await proxy.poison("latency", {"mean_ms": 60_000, "jitter_ms": 0})
    async with nothing_comes(ends[0]) as reading:
        ends[1].write(b"late")
        await asyncio.sleep(SILENT_S)
        await proxy.heal()
        assert await asyncio.wait_for(reading, WITHIN_S) == b"late"


async def test_slices_arrive_in_pieces_and_in_order(proxy: Proxy, dial: Dial, echo: Echo) -> None:
    ends = await dial()
    await proxy.poison("slice", {"bytes": 3, "pause_ms": 20})
    assert await said(ends, b"one two three") == b"one two three"
    assert max(echo.sizes) <= 3
    assert len(echo.sizes) == 5


async def test_slicing_ends_in_the_middle_of_a_chunk_when_it_is_healed(proxy: Proxy, dial: Dial, echo: Echo) -> None:
    text = bytes(range(250)) * 40
    ends = await dial()
    await proxy.poison("slice", {"bytes": 1, "pause_ms": 20})
    reading = asyncio.create_task(said(ends, text))
    await echo.until(lambda: len(echo.sizes) >= 3)
    await proxy.heal()
    assert await reading == text


async def test_a_reset_meets_open_connections_and_new_ones(proxy: Proxy, dial: Dial) -> None:
    before = await dial()
    await said(before, b"hello")
    await proxy.poison("reset", {"after_ms": 50})
    assert await is_reset(before[0])
    assert await is_reset((await dial())[0])
    await proxy.heal()
    assert await said(await dial(), b"again") == b"again"


async def test_a_reset_reaches_the_server_too(proxy: Proxy, dial: Dial, echo: Echo) -> None:
    await said(await dial(), b"hello")
    await proxy.poison("reset", {"after_ms": 0})
    await echo.until(lambda: echo.ended == 1)


async def test_limited_data_ends_in_the_middle(proxy: Proxy, dial: Dial, echo: Echo) -> None:
    ends = await dial()
    await said(ends, b"before it counts")
    await proxy.poison("limit_data", {"bytes": 10})
    ends[1].write(b"0123456789abcdef")
    async with asyncio.timeout(WITHIN_S):
        assert await ends[0].read() == b""
    assert echo.got.endswith(b"0123456789")
    await proxy.heal()
    assert await said(await dial(), b"0123456789abcdef") == b"0123456789abcdef"


async def test_a_half_open_link_accepts_and_nothing_comes_back(proxy: Proxy, dial: Dial, echo: Echo) -> None:
    before = await dial()
    await said(before, b"hello")
    await proxy.poison("half_open", {"then": "resume"})
    new = await dial()
    for ends in (before, new):
        ends[1].write(b" out there")
        async with nothing_comes(ends[0]):
            pass
    assert (echo.got, echo.opened) == (b"hello", 1)


async def test_a_half_open_link_that_resumes_delivers_what_it_held(proxy: Proxy, dial: Dial) -> None:
    before = await dial()
    await said(before, b"hello")
    await proxy.poison("half_open", {"then": "resume"})
    new = await dial()
    for ends in (before, new):
        ends[1].write(b"late")
        async with nothing_comes(ends[0]):
            pass
    await proxy.heal()
    for ends in (before, new):
        async with asyncio.timeout(WITHIN_S):
            assert await ends[0].readexactly(4) == b"late"


async def test_a_half_open_link_that_resets_does_so_when_it_is_healed(proxy: Proxy, dial: Dial, echo: Echo) -> None:
    before = await dial()
    await said(before, b"hello")
    await proxy.poison("half_open", {"then": "reset"})
    new = await dial()
    for ends in (before, new):
        ends[1].write(b"lost")
        async with nothing_comes(ends[0]):
            pass
    await proxy.heal()
    assert await is_reset(before[0])
    assert await is_reset(new[0])
    assert echo.got == b"hello"
    assert await said(await dial(), b"again") == b"again"


async def test_a_half_open_link_does_not_tell_of_an_end(proxy: Proxy, dial: Dial, echo: Echo) -> None:
    before = await dial()
    await said(before, b"hello")
    await proxy.poison("half_open", {"then": "resume"})
    before[1].close()
    await asyncio.sleep(SILENT_S)
    assert echo.ended == 0
    await proxy.heal()
    await echo.until(lambda: echo.ended == 1)


async def test_a_refusing_link_resets_what_is_open_and_refuses_what_is_new(proxy: Proxy, dial: Dial) -> None:
    before = await dial()
    await said(before, b"hello")
    port = proxy.port
    await proxy.poison("refuse", {})
    assert await is_reset(before[0])
    with pytest.raises(ConnectionRefusedError):
        await dial()
    await proxy.heal()
    assert proxy.port == port
    assert await said(await dial(), b"again") == b"again"


async def test_a_server_that_is_away_ends_the_connection(proxy: Proxy, dial: Dial) -> None:
    proxy._upstream = (LOOPBACK, 1)  # nobody listens on it
    ends = await dial()
    async with asyncio.timeout(WITHIN_S):
        assert await ends[0].read() == b""


async def test_a_server_that_resets_or_ends_is_heard_of(proxy: Proxy, dial: Dial) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"no")
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(rude, LOOPBACK, 0)
    proxy._upstream = server.sockets[0].getsockname()[:2]
    ends = await dial()
    ends[1].write(b"?")
    async with asyncio.timeout(WITHIN_S):
        assert (await ends[0].read()).startswith(b"no")
    server.close()
