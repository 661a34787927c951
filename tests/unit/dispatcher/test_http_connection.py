"""The lean caller's connection, fed by hand: whatever comes, in whatever pieces, it gives one answer or one failure."""

import asyncio
import socket
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dispatcher.caller import BODY_READ_MAX
from services.dispatcher.http.connection import Connection, Reply
from services.dispatcher.http.failure import CallFailed

HEADS = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 503 No\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 X\r\n",
    b"HTTP/1.1 101 X\r\n", b"Content-Length: 5\r\n", b"Content-Length: 99999\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Upgrade: x\r\n", b"X: y\r\n", b"\r\n", b"5\r\nhello\r\n",
    b"0\r\n\r\n", b"hello", b"\n", b"\0",
]  # fmt: skip
SEVERAL = (
    b"HTTP/1.1 103 E\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n"
    b"4\r\nbody\r\n1\r\n!\r\n0\r\nT: u\r\n\r\n"
)


class Wire:
    """A transport that goes nowhere."""

    is_aborted = False

    def write(self, _sent: bytes) -> None:
        """Into the void."""

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.is_aborted = True


async def met(parts: list[bytes], *, is_head: bool = False) -> tuple[Reply | CallFailed, bool]:
    """What became of the answer in `parts`, then the end of the connection; and whether it could serve again."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection, wire = Connection(ours), Wire()
        connection.connection_made(wire)  # type: ignore[arg-type]
        asked = connection.ask(b"", asyncio.get_running_loop().time() + 60, is_head=is_head)
        for part in parts:
            if not wire.is_aborted:
                connection.data_received(part)
        is_kept = connection.is_open and asked.done()
        connection.connection_lost(None)
        assert asked.done()
        error: Any = asked.exception()
        return error or asked.result(), is_kept


def run(parts: list[bytes], *, is_head: bool = False) -> tuple[Reply | CallFailed, bool]:
    return asyncio.run(met(parts, is_head=is_head))


@settings(max_examples=150)
@given(st.lists(st.sampled_from(HEADS) | st.binary(min_size=1, max_size=20), max_size=12), st.booleans())
def test_any_bytes_end_in_one_answer_or_one_failure(parts: list[bytes], is_head: bool) -> None:
    outcome, is_kept = run(parts, is_head=is_head)
    if isinstance(outcome, CallFailed):
        assert outcome.error in {"protocol", "disconnected"}
        assert not is_kept
    else:
        assert outcome.status == 101 or 200 <= outcome.status <= 999
        assert len(outcome.body) <= BODY_READ_MAX
        assert not (is_head and outcome.body)


@settings(max_examples=150)
@given(st.lists(st.integers(1, len(SEVERAL) - 1), max_size=12))
def test_how_an_answer_is_cut_into_reads_does_not_matter(cuts: list[int]) -> None:
    edges = [0, *sorted(set(cuts)), len(SEVERAL)]
    parts = [SEVERAL[start:end] for start, end in pairwise(edges)]
    headers = [(b"Transfer-Encoding", b"chunked"), (b"X", b"y")]
    assert run(parts) == (Reply(200, headers, b"body!"), True)


@pytest.mark.parametrize("read_bytes", [1_000, 65_536, 65_537, 262_144])
def test_a_head_is_bounded_however_much_comes_in_one_read(read_bytes: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"
    outcome, _is_kept = run([head[at : at + read_bytes] for at in range(0, len(head), read_bytes)])
    assert isinstance(outcome, CallFailed)
    assert "a head of more than" in str(outcome)
