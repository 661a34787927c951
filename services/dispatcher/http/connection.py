"""One connection: a request is written, its answer is read, and then it may serve the next one, or not.

The parser is llhttp (httptools). It knows neither answers to HEAD nor bodies that end with the connection: both are
decided here. Whatever a receiver sends, an answer's memory and length are bounded.
"""

import asyncio
import select
import socket
from collections.abc import Iterator
from typing import NamedTuple, cast

import httptools

from services.dispatcher.caller import BODY_READ_MAX
from services.dispatcher.http.failure import CallFailed
from services.dispatcher.outcome import ErrorClass

# Looked at after each read or part of one: what is whole by then may be up to twice as long.
HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 256
# All that a body brings with it: of chunks of one byte, five sixths are framing.
ANSWER_BYTES_MAX = HEAD_BYTES_MAX + 16 * BODY_READ_MAX
SWITCHING_PROTOCOLS = 101


class Reply(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Connection(asyncio.Protocol):
    """Made by asyncio's `create_connection`; asked and aborted by its one user at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._parser = _parser(self)
        self._transport: asyncio.Transport | None = None
        self._asked: asyncio.Future[Reply] | None = None
        self._deadline = 0.0
        # Of the request in hand, or of an earlier one: it looks again when it fires. To set and cancel one for each
        # request costs as much as the parser.
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = 0.0
        self.first_byte_s: float | None = None
        """Of the latest answer: from the request handed to the kernel to the first byte that came."""
        self._begin(False)

    def ask(self, request: bytes, deadline: float, *, is_head: bool = False) -> asyncio.Future[Reply]:
        """Send it; the future fails with CallFailed, at the latest at `deadline` (the loop's time)."""
        self._begin(is_head)
        asked = self._asked = self._loop.create_future()
        if self._transport is None:
            self._fail("disconnected", "the receiver closed the connection at once")
        else:
            self._expect_by(deadline)
            self._transport.write(request)
            self._asked_at = self._loop.time()
        return asked

    @property
    def is_open(self) -> bool:
        """False once it has ended, or may not be used again."""
        return self._transport is not None

    def is_silent(self) -> bool:
        """Nothing waits to be read: neither its end nor bytes that would pass for an answer."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and not self._readable.poll(0)

    def abort(self) -> None:
        """Close it without a goodbye; nothing of it can meet another request."""
        self._forget_timer()
        self._asked = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # --- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._asked is None:
            return self.abort()  # nobody asked: it would pass for the next answer
        if not self._received:
            self.first_byte_s = self._loop.time() - self._asked_at
        try:
            for part in (data,) if len(data) <= HEAD_BYTES_MAX else _parts(data):
                self._received += len(part)
                self._parser.feed_data(part)
                if self._received >= HEAD_BYTES_MAX:
                    self._check_size()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._is_reusable = False
            if not self._is_complete:
                return self._fail("protocol", f"no HTTP/1.1 answer: {error.__context__ or error}")
        if self._is_complete:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._forget_timer()
        del self._parser  # which holds this object
        if self._asked is None:
            return
        if error is None and self._ends_with_connection():
            self._is_reusable = False
            return self._finish()
        said = f": {error}" if error else ""
        detail = f"the receiver closed the connection before the answer was whole{said}"
        self._fail("disconnected", detail, is_unanswered=not self._received)

    # --- called by the parser

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ValueError("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_head_read:  # else it is a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 and status != SWITCHING_PROTOCOLS:
            if status < 100:
                raise ValueError(f"status {status}")
            return self._headers.clear()  # an interim answer: the final one follows
        if len(self._headers) > HEADERS_MAX:
            raise ValueError(f"more than {HEADERS_MAX} headers")
        self._status = status
        self._is_head_read = True
        if self._is_head:
            self._is_complete = True  # not reusable: the parser would wait for a body

    def on_body(self, part: bytes) -> None:
        if self._is_complete or not self._is_head_read:
            return
        self._body += part
        if len(self._body) >= BODY_READ_MAX:
            self._is_complete = True  # enough; not reusable, the rest is in the way

    def on_message_complete(self) -> None:
        if self._is_head_read and not self._is_complete:
            self._is_complete = True
            self._is_reusable = self._parser.should_keep_alive()

    # --- one exchange

    def _begin(self, is_head: bool) -> None:
        self._is_head = is_head
        self._asked_at = 0.0
        self.first_byte_s = None
        self._received = 0
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._is_head_read = self._is_complete = self._is_reusable = False

    def _finish(self) -> None:
        asked, transport, self._asked = self._asked, self._transport, None
        assert asked is not None
        reply = Reply(self._status, self._headers, bytes(self._body[:BODY_READ_MAX]))
        self._headers, self._body = [], bytearray()  # nobody needs them while it waits
        # What is still being sent would reach the receiver as the beginning of the next request.
        if not self._is_reusable or transport is None or transport.get_write_buffer_size():
            self.abort()
        if not asked.done():
            asked.set_result(reply)

    def _expect_by(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is None or deadline < self._timer.when():
            self._forget_timer()
            self._timer = self._loop.call_at(deadline, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        if self._asked is None:
            return
        if self._deadline > self._loop.time():
            self._expect_by(self._deadline)
        else:
            self._fail("timeout", "no whole answer in time")

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, error: ErrorClass, detail: str, *, is_unanswered: bool = False) -> None:
        asked = self._asked
        self.abort()
        if asked is not None and not asked.done():
            asked.set_exception(CallFailed(error, detail, is_unanswered=is_unanswered))

    def _check_size(self) -> None:
        if not self._is_head_read:
            raise httptools.HttpParserError(f"a head of more than {HEAD_BYTES_MAX} bytes")
        if self._received > ANSWER_BYTES_MAX and not self._is_complete:
            raise httptools.HttpParserError(f"more than {ANSWER_BYTES_MAX} bytes for a body of {len(self._body)}")

    def _ends_with_connection(self) -> bool:
        """Neither counted nor chunked: RFC 9112 section 6.3, the last rule."""
        if not self._is_head_read:
            return False
        framing = {name.lower(): value for name, value in self._headers}
        coding = framing.get(b"transfer-encoding", b"").rpartition(b",")[2].strip().lower()
        return coding != b"chunked" and (bool(coding) or b"content-length" not in framing)


def _parser(connection: Connection) -> httptools.HttpResponseParser:
    parser = httptools.HttpResponseParser(connection)
    parser.set_dangerous_leniencies(
        lenient_optional_cr_before_lf=True,  # RFC 9112 section 2.2 allows it, and small receivers need it
        lenient_spaces_after_chunk_size=True,
    )
    return parser


def _parts(data: bytes) -> Iterator[memoryview]:
    """So small that the head's limit holds within one read."""
    view = memoryview(data)
    return (view[at : at + HEAD_BYTES_MAX] for at in range(0, len(data), HEAD_BYTES_MAX))
