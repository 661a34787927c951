"""The one who is called, in a process of its own and lean, so that the measurement is not of the sink.

A raw HTTP/1.1 responder: keep-alive, pipelining, bodies by Content-Length (others are not understood). It answers 204
to every POST, 503 to those of /fail and to the first attempt of /flaky, 410 to those of /gone, and notes its
`webhook-id` and the millisecond. It prints its port at the start; `GET /count` tells how many distinct ids were
called, `GET /total` how many calls there were, `GET /calls` lists every call as a line `<ms since 1970> <id>`.
"""

import argparse
import asyncio
import re
import time

from deploy.local.layout import LOOPBACK

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
GONE = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"
END_OF_HEAD = b"\r\n\r\n"
FIRST_ATTEMPT = b"carillon-attempt: 1/"
_ID = re.compile(rb"\r\nwebhook-id: *([^\r]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Calls:
    """Every call, in the order they came."""

    def __init__(self) -> None:
        self.made: list[tuple[int, bytes]] = []
        self._ids: set[bytes] = set()

    def note(self, at_ms: int, id_: bytes) -> None:
        self.made.append((at_ms, id_))
        self._ids.add(id_)

    def count(self) -> bytes:
        return b"%d" % len(self._ids)

    def listed(self) -> bytes:
        return b"".join(b"%d %b\n" % call for call in self.made)


class Responder(asyncio.Protocol):
    """One connection."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._unread = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        at_ms = time.time_ns() // 1_000_000
        self._unread += data
        answers = []
        while (request := self._next_request()) is not None:
            answers.append(self._answer(request, at_ms))
        if answers and self._transport is not None:
            self._transport.write(b"".join(answers))

    def _next_request(self) -> bytes | None:
        """The head of the next request that is here with its whole body."""
        end = self._unread.find(END_OF_HEAD)
        if end < 0:
            return None
        head = self._unread[:end]
        length = _LENGTH.search(head)
        after = end + len(END_OF_HEAD) + (int(length[1]) if length else 0)
        if len(self._unread) < after:
            return None
        self._unread = self._unread[after:]
        return head

    def _answer(self, head: bytes, at_ms: int) -> bytes:
        if head.startswith(b"GET /count "):
            return _ok(self._calls.count())
        if head.startswith(b"GET /total "):
            return _ok(b"%d" % len(self._calls.made))
        if head.startswith(b"GET /calls "):
            return _ok(self._calls.listed())
        id_ = _ID.search(head)
        self._calls.note(at_ms, id_[1] if id_ else b"-")
        if head.startswith(b"POST /called "):
            return NO_CONTENT
        return _odd(head)


def _odd(head: bytes) -> bytes:
    if head.startswith(b"POST /gone "):
        return GONE
    is_first = head.startswith(b"POST /flaky ") and FIRST_ATTEMPT in head.lower()
    return UNAVAILABLE if is_first or head.startswith(b"POST /fail ") else NO_CONTENT


def _ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def serve(port: int) -> None:
    calls = Calls()
    server = await asyncio.get_running_loop().create_server(
        lambda: Responder(calls), LOOPBACK, port, backlog=1024, reuse_address=True
    )
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sink", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
