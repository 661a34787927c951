"""A TCP proxy in one link, and the ways in which it can spoil it: on connections that are open, and on new ones.

    latency     each chunk waits, mean ± jitter, in order
    slice       chunks go on in small pieces with pauses between
    reset       RST, to what is open at once and to what is opened after a moment
    limit_data  so many bytes, then the end, in the middle of whatever it was
    half_open   accepts, swallows, and nothing comes back; in the end the bytes arrive after all, as after a cut
                cable, or RST follows, as after a firewall that forgot
    refuse      RST to what is open, nobody listens for what is new

Each of them is a toxic in the sense of Shopify's Toxiproxy.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping

from deploy.local.layout import LOOPBACK
from tests.chaos.fault import Kind

CHUNK_BYTES = 64 * 1024
Parameters = Mapping[str, float | str]
_RST_AT_CLOSE = struct.pack("ii", 1, 0)


class Cut(Exception):
    """This connection ends here."""


class Wire:
    """One connection through the proxy: both its ends, and what it has carried since the toxic began."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.ends = [client]
        self.carried = 0
        self.is_spoilt = False
        """It lost bytes: what came after them would be nonsense."""

    def reset(self) -> None:
        for writer in self.ends:
            made: socket.socket | None = writer.get_extra_info("socket")
            if made is not None and not writer.transport.is_closing():
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_AT_CLOSE)
            writer.transport.abort()

    def close(self) -> None:
        for writer in self.ends:
            writer.close()


Carry = Callable[[bytes, asyncio.StreamWriter, Wire], Awaitable[None]]


class Proxy:
    """Use: `open`, then any number of `poison` and `heal`, then `close`; all on one event loop."""

    def __init__(self, port: int, upstream: tuple[str, int], dice: random.Random | None = None) -> None:
        self.port = port
        """0: the first free one, once it is open."""
        self._upstream = upstream
        self._dice = dice or random.Random()
        self._kind: Kind | None = None
        self._parameters: Parameters = {}
        self._healed = asyncio.Event()
        self._healed.set()
        self._wires: dict[Wire, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._stop_listening()
        for task in list(self._wires.values()):
            task.cancel()
        await asyncio.gather(*self._wires.values(), return_exceptions=True)

    async def poison(self, kind: Kind, parameters: Parameters) -> None:
        """From now on, until `heal`."""
        self._kind, self._parameters = kind, parameters
        self._healed.clear()
        for wire in list(self._wires):
            wire.carried = 0
            if kind in ("reset", "refuse"):
                wire.reset()
        if kind == "refuse":
            self._stop_listening()

    async def heal(self) -> None:
        for wire in list(self._wires):
            if wire.is_spoilt:
                wire.reset()
        was, self._kind = self._kind, None
        self._healed.set()
        if was == "refuse":
            await self.open()

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire, task = Wire(writer), asyncio.current_task()
        assert task is not None, "a callback of a stream server is a task"
        self._wires[wire] = task
        try:
            with contextlib.suppress(OSError, Cut):
                await self._serve(reader, writer, wire)
        finally:
            del self._wires[wire]
            wire.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Wire) -> None:
        if self._kind == "half_open":
            await self._hold(wire)
        if self._kind == "reset":
            await asyncio.sleep(float(self._parameters["after_ms"]) / 1000)
            wire.reset()
            return
        there, back = await asyncio.open_connection(*self._upstream)
        wire.ends.append(back)
        pumps = [
            asyncio.create_task(self._pump(reader, back, wire)),
            asyncio.create_task(self._pump(there, writer, wire)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Wire) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._carry(chunk, writer, wire)
        await self._end(wire)

    async def _end(self, wire: Wire) -> None:
        """An end is news too: a link that carries nothing does not tell the other side of it."""
        if self._kind == "half_open":
            await self._hold(wire)

    async def _carry(self, chunk: bytes, writer: asyncio.StreamWriter, wire: Wire) -> None:
        match self._kind:
            case "latency":
                await self._wait_a_while()
            case "half_open":
                await self._hold(wire)
            case "limit_data":
                chunk = chunk[: max(0, int(self._parameters["bytes"]) - wire.carried)]
            case "slice":
                await self._in_slices(chunk, writer)
                return
        writer.write(chunk)
        await writer.drain()
        wire.carried += len(chunk)
        if self._kind == "limit_data" and wire.carried >= int(self._parameters["bytes"]):
            raise Cut

    async def _wait_a_while(self) -> None:
        mean_ms, jitter_ms = float(self._parameters["mean_ms"]), float(self._parameters["jitter_ms"])
        await self._sleep(self._dice.uniform(mean_ms - jitter_ms, mean_ms + jitter_ms) / 1000)

    async def _in_slices(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        while chunk:
            size = len(chunk) if self._healed.is_set() else int(self._parameters["bytes"])
            piece, chunk = chunk[:size], chunk[size:]
            writer.write(piece)
            await writer.drain()
            await self._sleep(float(self._parameters["pause_ms"]) / 1000)

    async def _hold(self, wire: Wire) -> None:
        wire.is_spoilt = self._parameters["then"] == "reset"
        await self._healed.wait()
        if wire.is_spoilt:
            wire.reset()
            raise Cut

    async def _sleep(self, seconds: float) -> None:
        """Or until it is healed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._healed.wait()
