"""A receiver that answers byte by byte as a test scripts it, and callers of every kind to call it with.

A script is one answer per request, the last for ever; an answer is bytes, or steps: bytes are written, anything else
is awaited with the conversation. After its last step the receiver waits for the next request on the connection.
"""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from aiohttp.abc import AbstractResolver, ResolveResult

from libs.common.clock import SystemClock
from libs.common.contracts import Call
from libs.common.egress import EgressRules
from services.dispatcher.caller import Request
from services.dispatcher.guard import Egress, ssl_context
from services.dispatcher.http.caller import LeanCaller
from services.dispatcher.outcome import Answer
from tests.integration.dispatcher.aiohttp_caller import AiohttpCaller
from tests.integration.rig import until

OK = b"HTTP/1.1 200 OK\r\n"
LOOPBACK = ("127.0.0.0/8", "::1/128")

Step = bytes | Callable[["Conversation"], Awaitable[None]]
Script = bytes | Sequence[Step]


# --- receivers


class Asked(NamedTuple):
    """One request, as its bytes came. `connection` numbers the connections from 1."""

    head: bytes
    body: bytes
    connection: int

    @property
    def line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def target(self) -> str:
        return self.line.split(b" ")[1].decode("latin-1")

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.rstrip(b"\r\n").split(b"\r\n")[1:]
        return [(name, value.removeprefix(b" ")) for name, _colon, value in (line.partition(b":") for line in lines)]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(eq=False)
class Conversation:
    """One connection, on the receiver's side."""

    receiver: "Scripted"
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hear(self, *, bodiless: bool = False) -> Asked | None:
        """The next request, None when the caller hung up."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError):
            return None
        asked = Asked(head, b"", self.number)
        [length] = asked.all(b"content-length") or [b"0"]
        return asked if bodiless else asked._replace(body=await self.reader.readexactly(int(length)))

    async def say(self, part: bytes) -> None:
        self.writer.write(part)
        await self.writer.drain()
        self.receiver.bytes_sent += len(part)


@dataclass(eq=False)
class Scripted:
    script: list[Script]
    port: int = 0
    scheme: str = "http"
    requests: list[Asked] = field(default_factory=list)
    connections: int = 0
    open: set[Conversation] = field(default_factory=set)
    bytes_sent: int = 0
    names_asked: list[str | None] = field(default_factory=list)
    """What TLS was asked for (SNI), one per handshake."""

    @property
    def url(self) -> str:
        return self.at("127.0.0.1")

    def at(self, host: str, path: str = "/hook") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def all_closed(self) -> None:
        await until("the caller to close its connections", lambda: not self.open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        talk = Conversation(self, self.connections, reader, writer)
        self.open.add(talk)
        try:
            while (asked := await talk.hear()) is not None:
                self.requests.append(asked)
                answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                for step in [answer] if isinstance(answer, bytes) else answer:
                    await (talk.say(step) if isinstance(step, bytes) else step(talk))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller hung up, or the test is over
        finally:
            self.open.discard(talk)
            writer.transport.abort()


@asynccontextmanager
async def scripted(
    *script: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Scripted]:
    made = Scripted(list(script), scheme="https" if tls else "http")
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: made.names_asked.append(name)
    server = await asyncio.start_server(made._serve, host, 0, ssl=tls, limit=64 * 1024 * 1024)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for talk in list(made.open):
            talk.writer.transport.abort()
        await until("the receiver to be gone", lambda: not made.open)


def ok(body: bytes = b"", *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", body])


# --- steps


async def close(talk: Conversation) -> None:
    """Send FIN; what was written before arrives."""
    talk.writer.close()
    await talk.writer.wait_closed()


async def reset(talk: Conversation) -> None:
    """Send RST."""
    sock: socket.socket = talk.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talk.writer.transport.abort()


async def hang(talk: Conversation) -> None:
    """Say nothing more, and wait for the caller to hang up."""
    while await talk.reader.read(65536):
        pass
    raise ConnectionResetError


def for_ever(part: bytes, every_s: float = 0.0) -> Callable[[Conversation], Awaitable[None]]:
    async def step(talk: Conversation) -> None:
        while True:
            await talk.say(part)
            await asyncio.sleep(every_s)

    return step


def slowly(answer: bytes) -> list[Step]:
    """Each byte in a segment of its own."""

    async def step(talk: Conversation) -> None:
        sock: socket.socket = talk.writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(answer)):
            await talk.say(answer[at : at + 1])
            await asyncio.sleep(0)

    return [step]


# --- callers


class AnyCaller(Protocol):
    async def call(self, request: Request) -> Answer: ...

    async def close(self) -> None: ...


class FixedNames(AbstractResolver):
    """`names` maps a host to the addresses of each lookup in turn, the last for ever. `asked` notes the hosts."""

    def __init__(self, names: Mapping[str, Iterable[Sequence[str]]]) -> None:
        self._answers = {host: list(answers) for host, answers in names.items()}
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        host = host.lower()
        self.asked.append(host)
        await self.gate.wait()
        await asyncio.sleep(0.002)  # as long as a near name server takes
        if host not in self._answers:
            raise OSError(None, "Domain name not found")
        answers = self._answers[host]
        return [self._result(host, address, port) for address in (answers.pop(0) if len(answers) > 1 else answers[0])]

    def _result(self, host: str, address: str, port: int) -> ResolveResult:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return ResolveResult(
            hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
        )

    async def close(self) -> None:
        """Nothing is open."""


def _aiohttp(egress: Egress, names: FixedNames | None) -> AnyCaller:
    made = AiohttpCaller(egress, SystemClock())
    if names is not None:
        made._session.connector._resolver = names  # type: ignore[union-attr]
    return made


def _lean(egress: Egress, names: FixedNames | None) -> AnyCaller:
    return LeanCaller(egress, SystemClock(), names)


CALLERS: dict[str, Callable[[Egress, FixedNames | None], AnyCaller]] = {"aiohttp": _aiohttp, "lean": _lean}


@dataclass
class Calling:
    """A caller that is open; `await calling(url, header, ..., method="GET")` is one call of it."""

    caller: AnyCaller
    names: FixedNames | None

    async def __call__(self, url: str, *headers: tuple[str, str], **different: Any) -> Answer:
        return await self.caller.call(Request(Call(**{"url": url, "timeout_s": 5.0, **different}), headers))


@cache
def _public_roots() -> ssl.SSLContext:
    return ssl_context()


@dataclass(frozen=True)
class Kind:
    """A kind of caller, by name."""

    name: str

    @asynccontextmanager
    async def open(
        self,
        networks: Iterable[str] = LOOPBACK,
        names: Mapping[str, Iterable[Sequence[str]]] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[Calling]:
        answering = None if names is None else FixedNames(names)
        made = CALLERS[self.name](Egress(EgressRules(networks), tls or _public_roots()), answering)
        try:
            yield Calling(made, answering)
        finally:
            await made.close()

    async def once(self, url: str, *headers: tuple[str, str], **different: Any) -> Answer:
        async with self.open() as calling:
            return await calling(url, *headers, **different)


# --- what must not grow


@contextmanager
def no_more_sockets() -> Iterator[None]:
    before = _sockets()
    yield
    assert _sockets() <= before + 1  # the resolver's, which its library keeps


def _sockets() -> int:
    found = 0
    for entry in os.scandir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found += os.readlink(entry.path).startswith("socket:")
    return found


@contextmanager
def growth_below(limit: int) -> Iterator[None]:
    """Of the peak, receivers in this process included."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    yield
    grown = _status_bytes("VmHWM") - before
    print(f"resident memory grew by {grown / 2**20:.1f} MiB at its peak")
    assert grown < limit


def _status_bytes(name: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024
