"""Every caller: which connections are used again, what is repeated on a new one, and what closes them."""

import asyncio

import pytest

from tests.integration.dispatcher.scripted import (
    OK,
    Conversation,
    Kind,
    Script,
    close,
    hang,
    ok,
    reset,
    scripted,
)
from tests.integration.rig import until


async def test_connections_are_not_shared_between_receivers(kind: Kind) -> None:
    async with scripted(ok(b"one")) as one, scripted(ok(b"two")) as two, kind.open() as calling:
        for _ in range(3):
            assert (await calling(one.url)).body == b"one"
            assert (await calling(two.url)).body == b"two"
    assert (one.connections, two.connections) == (1, 1)


@pytest.mark.parametrize(
    "script",
    [
        [OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"],
        [ok(b"ok"), b"HTTP/1.1 500 Injected\r\nContent-Length: 0\r\n\r\n"],
        [ok(b"ok") + b"HTTP/1.1 500 Injected\r\nContent-Length: 0\r\n\r\n"],
        [ok(b"ok") + b"garbage"],
        [OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nokgarbage"],
    ],
    ids=["said to close", "HTTP/1.0", "more after it", "more with it", "garbage with it", "garbage behind the end"],
)
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(kind: Kind, script: Script) -> None:
    async with scripted(script, ok(b"the second")) as there, kind.open() as calling:
        first = await calling(there.url)
        await until("what was said too much to be here", lambda: there.bytes_sent >= 20)
        await asyncio.sleep(0.01)  # no predicate can tell that bytes are in the caller's kernel
        second = await calling(there.url)
    assert (first.status_code, first.body) == (200, b"ok") or first.error == "protocol"
    assert (second.status_code, second.body, there.connections) == (200, b"the second", 2)


@pytest.mark.parametrize("how", [close, reset])
async def test_a_connection_closed_while_idle_costs_nothing(kind: Kind, how: object) -> None:
    async with scripted([ok(), how], ok(b"again")) as there, kind.open() as calling:  # type: ignore[list-item]
        assert (await calling(there.url)).status_code == 200
        await until("the receiver to have hung up", lambda: not there.open)
        assert (await calling(there.url)).body == b"again"
    assert (there.connections, len(there.requests)) == (2, 2)


async def test_a_farewell_on_an_idle_connection_is_not_taken_for_an_answer(kind: Kind) -> None:
    """Some say 408 before they close."""
    gate = asyncio.Event()

    async def farewell(talk: Conversation) -> None:
        await gate.wait()
        await talk.say(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    async with scripted([ok(), farewell], ok(b"again")) as there, kind.open() as calling:
        await calling(there.url)
        gate.set()
        await until("the farewell", lambda: there.bytes_sent > len(ok()))
        assert (await calling(there.url)).body == b"again"
    assert there.connections == 2


@pytest.mark.parametrize("how", [close, reset])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_post_that_a_kept_connection_died_under_is_not_repeated(kind: Kind, method: str, how: object) -> None:
    """The receiver may have acted on it (RFC 9110 section 9.2.2): it is an attempt, and the ladder makes the next."""
    async with scripted(ok(), [how], ok()) as there, kind.open() as calling:  # type: ignore[list-item]
        await calling(there.url, method=method)
        answer = await calling(there.url, method=method, body=b"x")
    assert (answer.error, len(there.requests)) == ("disconnected", 2)


@pytest.mark.parametrize("how", [close, reset])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_what_is_idempotent_is_repeated_once_on_a_new_connection(kind: Kind, method: str, how: object) -> None:
    async with scripted(ok(), [how], ok(b"repeated")) as there, kind.open() as calling:  # type: ignore[list-item]
        await calling(there.url, method=method)
        answer = await calling(there.url, method=method, body=b"x")
    assert answer.body == b"repeated"
    assert [(asked.body, asked.connection) for asked in there.requests] == [(b"", 1), (b"x", 1), (b"x", 2)]


async def test_it_is_repeated_no_more_than_once(kind: Kind) -> None:
    async with scripted(ok(), [close]) as there, kind.open() as calling:
        await calling(there.url, method="GET")
        answer = await calling(there.url, method="GET")
    assert (answer.error, len(there.requests)) == ("disconnected", 3)


@pytest.mark.parametrize("part", [b"H", OK])
async def test_after_the_first_byte_of_an_answer_nothing_is_repeated(kind: Kind, part: bytes) -> None:
    async with scripted(ok(), [part, close], ok()) as there, kind.open() as calling:
        await calling(there.url, method="GET")
        answer = await calling(there.url, method="GET")
    assert (answer.error, len(there.requests)) == ("disconnected", 2)


async def test_calls_are_not_limited(kind: Kind) -> None:
    gate = asyncio.Event()

    async def held(talk: Conversation) -> None:
        await gate.wait()
        await talk.say(ok())

    async with scripted([held]) as there, kind.open() as calling:
        calls = [asyncio.create_task(calling(there.url, timeout_s=30.0)) for _ in range(300)]
        await until("all calls to be under way", lambda: len(there.requests) == 300)
        gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200", ok(b"body")[:-1]])
async def test_a_cancelled_call_closes_its_connection(kind: Kind, part: bytes) -> None:
    async with scripted([part, hang], ok()) as there, kind.open() as calling:
        call = asyncio.create_task(calling(there.url, timeout_s=60.0))
        await until("the call to be under way", lambda: there.requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await there.all_closed()
        assert (await calling(there.url)).status_code == 200
    assert there.connections == 2


async def test_a_caller_that_is_closed_keeps_no_connection(kind: Kind) -> None:
    async with scripted(ok()) as there:
        async with kind.open() as calling:
            await calling(there.url)
            assert there.open
        await there.all_closed()
