"""A client as lean as asyncio allows: it sends prepared bytes and looks at each answer's status and length only.

On a small machine the client's own CPU is taken from what it measures.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

STALLED_S = 30.0

_HEAD_END, _LENGTH = b"\r\n\r\n", b"\r\nContent-Length: "


class NotTaken(Exception):
    """An answer other than the expected one. A benchmark repeats nothing: what it measured would be something else."""


def request(api_url: str, api_key: str, path: str, kind: str, body: bytes) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {urlsplit(api_url).netloc}",
        f"Authorization: Bearer {api_key}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + _HEAD_END + body


async def closed_loop(api_url: str, connections: int, requests: Iterator[bytes], status: bytes) -> list[bytes]:
    """One request at a time on each connection until there are none left; the bodies of the answers.

    Raises: NotTaken.
    """
    bodies: list[bytes] = []

    def next_of(link: "_Link") -> Callable[[bytes], None]:
        def answered(body: bytes) -> None:
            bodies.append(body)
            send_next(link)

        return answered

    def send_next(link: "_Link") -> None:
        following = next(requests, None)
        if following is None:
            link.finish()
        else:
            link.send(following, next_of(link))

    links = [await _connected(api_url, status) for _ in range(connections)]
    try:
        for link in links:
            send_next(link)
        await asyncio.gather(*(link.finished for link in links))
    finally:
        for link in links:
            link.close()
    return bodies


async def open_loop(api_url: str, connections: int, requests: list[bytes], per_s: float, status: bytes) -> list[float]:
    """Each request at its own time, whatever became of those before: seconds from that time to its answer.

    A request for which no connection is free waits for one, and the wait counts. Raises: NotTaken.
    """
    links = [await _connected(api_url, status) for _ in range(connections)]
    free: asyncio.LifoQueue[_Link] = asyncio.LifoQueue()
    latencies: list[float] = []

    def answer_of(link: "_Link", due: float) -> Callable[[bytes], None]:
        def answered(_body: bytes) -> None:
            latencies.append(time.perf_counter() - due)
            free.put_nowait(link)
            if len(latencies) == len(requests):
                for each in links:
                    each.finish()

        return answered

    try:
        for link in links:
            free.put_nowait(link)
        began = time.perf_counter()
        async with asyncio.timeout(len(requests) / per_s + STALLED_S):
            for number, raw in enumerate(requests):
                due = began + number / per_s
                await asyncio.sleep(due - time.perf_counter())
                link = await free.get()
                link.send(raw, answer_of(link, due))
            await asyncio.gather(*(link.finished for link in links))
    except TimeoutError as error:
        raise NotTaken(f"{len(requests) - len(latencies)} requests are not answered") from error
    finally:
        for link in links:
            link.close()
    return latencies


class _Link(asyncio.Protocol):
    """One connection, at most one request under way."""

    def __init__(self, status: bytes) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._status = b"HTTP/1.1 " + status
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answered: Callable[[bytes], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, raw: bytes, answered: Callable[[bytes], None]) -> None:
        assert self._transport is not None
        self._answered = answered
        self._transport.write(raw)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(_HEAD_END)
        at = self._received.find(_LENGTH, 0, head_end)
        if head_end < 0 or at < 0:
            return
        length = int(self._received[at + len(_LENGTH) :].split(b"\r", 1)[0])
        if len(self._received) < head_end + len(_HEAD_END) + length:
            return
        answer, self._received = bytes(self._received), bytearray()
        if not answer.startswith(self._status):
            self._fail(NotTaken(f"not {self._status.decode()}: {answer[:600]!r}"))
        elif self._answered is not None:
            self._answered(answer[head_end + len(_HEAD_END) :])

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(NotTaken(f"the connection was closed: {exc!r}"))

    def finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    def close(self) -> None:
        self.finish()
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: NotTaken) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)


async def _connected(api_url: str, status: bytes) -> _Link:
    address = urlsplit(api_url)
    assert address.hostname is not None
    assert address.port is not None
    loop = asyncio.get_running_loop()
    _transport, link = await loop.create_connection(lambda: _Link(status), address.hostname, address.port)
    return link
