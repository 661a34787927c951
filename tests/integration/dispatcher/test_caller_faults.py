"""Every caller: answers that break off, are no HTTP, do not come, or never end."""

import asyncio
import socket

import pytest

from tests.integration.dispatcher.scripted import (
    OK,
    Kind,
    Script,
    close,
    for_ever,
    growth_below,
    hang,
    no_more_sockets,
    ok,
    reset,
    scripted,
)

KIB, MIB = 1024, 1024 * 1024


@pytest.mark.parametrize("then", [close, reset])
@pytest.mark.parametrize(
    "part",
    [b"", b"HTTP/1.1 200", OK + b"X: y", OK + b"Content-Length: 100\r\n\r\nhalf", OK + b"Content-Length: 1\r\n\r\n",
     OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nha", OK + b"Transfer-Encoding: chunked\r\n\r\n",
     OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhalfs\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
     b"HTTP/1.1 100 Continue\r\n\r\n"],
)  # fmt: skip
async def test_an_answer_that_breaks_off_is_disconnected(kind: Kind, part: bytes, then: object) -> None:
    async with scripted([part, then]) as there:  # type: ignore[list-item]
        answer = await kind.once(there.url)
    assert (answer.status_code, answer.error) == (None, "disconnected")
    assert there.connections == 1


NO_HTTP: dict[str, bytes] = {
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "bytes": b"\xff" * 100 + b"\r\n\r\n",
    "nulls": bytes(1000),
    "a web page": b"<html>\r\n</html>\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "streaming radio": b"ICY 200 OK\r\n\r\n",
    "version 9": b"HTTP/9.9 200 OK\r\n\r\n",
    "status of four": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status of two": b"HTTP/1.1 20 OK\r\n\r\n",
    "status 099": b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
    "status of words": b"HTTP/1.1 OK\r\n\r\n",
    "a header without colon": b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n",
    "a space before the colon": OK + b"X : y\r\nContent-Length: 0\r\n\r\n",
    "no name": OK + b": y\r\nContent-Length: 0\r\n\r\n",
    "one header of 200 kB": OK + b"X: " + b"x" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "one header of a megabyte": OK + b"X: " + b"x" * MIB + b"\r\n\r\n",
    "a reason of a megabyte": b"HTTP/1.1 200 " + b"x" * MIB + b"\r\n\r\n",
    "20,000 headers": OK + b"".join(b"H%d: v\r\n" % n for n in range(20_000)) + b"\r\n",
    "1,000 short headers": OK + b"a:b\r\n" * 1000 + b"\r\n",
    "a length below zero": OK + b"Content-Length: -1\r\n\r\n",
    "a length of words": OK + b"Content-Length: four\r\n\r\nbody",
    "a length beyond all": OK + b"Content-Length: 99999999999999999999999\r\n\r\nbody",
    "two lengths": OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody!",
    "a list of lengths": OK + b"Content-Length: 4, 5\r\n\r\nbody!",
    "chunks of no size": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunks below zero": OK + b"Transfer-Encoding: chunked\r\n\r\n-4\r\nbody\r\n0\r\n\r\n",
    "chunks beyond all": OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nbody",
    "a chunk longer than its size": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nbody\r\n0\r\n\r\n",
}
FLOODS: dict[str, list[object]] = {
    "headers for ever": [OK, for_ever(b"X: " + b"x" * 1000 + b"\r\n")],
    "a header for ever": [OK + b"X: ", for_ever(b"x" * 10_000)],
    "interim answers for ever": [for_ever(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)],
    "a chunk's extension for ever": [OK + b"Transfer-Encoding: chunked\r\n\r\n4;", for_ever(b"x" * 10_000)],
    "trailers for ever": [OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", for_ever(b"a: " + b"b" * 1000 + b"\r\n")],
    "a trailer for ever": [OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\na: ", for_ever(b"b" * 10_000)],
}


@pytest.mark.parametrize("answer", NO_HTTP.values(), ids=NO_HTTP)
async def test_what_is_no_http_is_a_protocol_error(kind: Kind, answer: bytes) -> None:
    async with scripted([answer, close]) as there:
        met = await kind.once(there.url)
    assert (met.status_code, met.error) == (None, "protocol")
    assert 0 < len(met.error_detail or "") <= 500


@pytest.mark.parametrize("script", FLOODS.values(), ids=FLOODS)
async def test_a_flood_ends_early(kind: Kind, script: Script) -> None:
    async with scripted(script) as there, kind.open() as calling:
        met = await calling(there.url, timeout_s=3.0)
        assert (met.status_code, met.error) == (None, "protocol")
        await there.all_closed()
        assert there.bytes_sent < 32 * MIB


async def test_a_length_beside_chunks_is_an_error_or_loses_to_them(kind: Kind) -> None:
    """RFC 9112 section 6.3, rule 3; whichever it is, the connection is not used again."""
    both = OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    async with scripted(both, ok()) as there, kind.open() as calling:
        met = await calling(there.url)
        again = await calling(there.url)
    assert (met.error == "protocol") or (met.status_code, met.body) == (200, b"body")
    assert (again.status_code, there.connections) == (200, 2)


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nX-Slow: ", OK + b"Content-Length: 100000\r\n\r\n", OK + b"\r\n"],
    ids=["headers", "body", "until closed"],
)
async def test_a_slow_answer_ends_with_the_time_of_the_whole_call(kind: Kind, head: bytes) -> None:
    async with scripted([head, for_ever(b"x", every_s=0.05)]) as there, kind.open() as calling:
        answer = await calling(there.url, timeout_s=0.5)
        assert (answer.status_code, answer.error) == (None, "timeout")
        assert 490 <= answer.duration_ms < 1500
        await there.all_closed()


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1", ok(b"body")[:-1], b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_silence_ends_with_the_time_of_the_whole_call(kind: Kind, part: bytes) -> None:
    async with scripted([part, hang]) as there, kind.open() as calling:
        answer = await calling(there.url, timeout_s=0.4)
        assert (answer.status_code, answer.error) == (None, "timeout")
        assert 390 <= answer.duration_ms < 1500
        await there.all_closed()


async def test_a_receiver_that_never_reads_ends_with_the_time_of_the_whole_call(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as never:
        url = f"http://127.0.0.1:{never.getsockname()[1]}/"
        answer = await kind.once(url, timeout_s=0.5, body=bytes(16 * MIB))
    assert (answer.status_code, answer.error) == (None, "timeout")
    assert answer.duration_ms < 1500


@pytest.mark.parametrize(
    "url",
    ["", "x", "//x", "http://", "http:///x", "http://[::1", "ftp://127.0.0.1/", "ws://127.0.0.1/", "http://127.0.0.1:99999/",
     "http://\ud83d.com/", "http://127.1/", "file:///etc/passwd", "http:/x", "http://:80/"],
)  # fmt: skip
async def test_a_url_that_cannot_be_called_is_an_answer_too(kind: Kind, url: str) -> None:
    assert (await kind.once(url)).error == "protocol"


async def test_hostile_receivers_leak_neither_sockets_nor_memory(kind: Kind) -> None:
    scripts: list[Script] = [[answer, close] for answer in NO_HTTP.values()]
    scripts += [script for script in FLOODS.values()]  # type: ignore[misc]
    scripts += [[OK + b"Content-Length: 1073741824\r\n\r\n", for_ever(bytes(MIB))], [hang]]
    with no_more_sockets(), growth_below(50 * MIB):
        for script in scripts:
            async with scripted(script) as there, kind.open() as calling:
                await asyncio.gather(*(calling(there.url, timeout_s=0.5, body=bytes(64 * KIB)) for _ in range(8)))
                await there.all_closed()
