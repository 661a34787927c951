"""Every caller: what arrives at the receiver, and what is made of answers that keep the rules.

The conformance suite of the port is this file and `test_caller_faults`, `_connections` and `_dialling`; all of it on
real sockets. Where two behaviours are right, a test allows both. RFC numbers: 9110 is HTTP, 9112 is HTTP/1.1.
"""

import asyncio
import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from libs.common.contracts import encode
from services.dispatcher.caller import BODY_READ_MAX
from services.dispatcher.retry import Ladder
from tests.integration.dispatcher.scripted import (
    OK,
    Conversation,
    Kind,
    Script,
    close,
    for_ever,
    hang,
    ok,
    scripted,
    slowly,
)
from tests.unit.dispatcher.samples import NOW, a_call, a_task

KIB, MIB = 1024, 1024 * 1024


# --- what arrives at the receiver


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)) * 40, "naïve ☃".encode(), b"x" * 262_144])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "PROPFIND"])
async def test_method_and_body_arrive_byte_for_byte(kind: Kind, method: str, body: bytes) -> None:
    async with scripted(ok()) as there:
        answer = await kind.once(there.url, ("Content-Type", "text/odd"), method=method, body=body)
    [asked] = there.requests
    assert answer.status_code == 200
    assert (asked.line, asked.body) == (f"{method} /hook HTTP/1.1".encode(), body)
    assert asked.all(b"content-type") == [b"text/odd"]


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb/../c//d;e=f?x=1&&y=%20+&z=%c3%A9&x=2",
        "/%7Euser/~user?q=a%2Bb",
        "/?json={%22a%22:[1]}",
        "/?a=b?c=d&e=/x",
        "/." + "/x" * 900,
        "/%00%0d%0a",
        "/%",
        "//evil.example/x",
        "/a@b:c",
    ],
)
async def test_path_and_query_arrive_as_they_were_written(kind: Kind, target: str) -> None:
    async with scripted(ok()) as there:
        await kind.once(there.at("127.0.0.1", target) + "#fragment?never=sent")
    assert [asked.target for asked in there.requests] == [target]


async def test_a_url_without_a_path_asks_for_the_root(kind: Kind) -> None:
    async with scripted(ok()) as there:
        await kind.once(there.at("127.0.0.1", ""))
        await kind.once(there.at("127.0.0.1", "?a=b"))
    assert [asked.target for asked in there.requests] == ["/", "/?a=b"]


@pytest.mark.parametrize(
    ("host", "header"),
    [("127.0.0.1", "127.0.0.1"), ("Shop.EXAMPLE", "shop.example"), ("shop.example.", "shop.example"),
     ("münchen.example", "xn--mnchen-3ya.example"), ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
     ("a_b.example", "a_b.example")],
)  # fmt: skip
async def test_the_host_header_names_host_and_port(kind: Kind, host: str, header: str) -> None:
    names = {name: [["127.0.0.1"]] for name in (header, f"{header}.")}
    async with scripted(ok()) as there, kind.open(names=names) as calling:
        answer = await calling(there.at(host))
    assert answer.status_code == 200
    [named] = there.requests[0].all(b"host")
    assert named.lower() == f"{header}:{there.port}".encode()


async def test_a_receiver_on_ipv6_is_called(kind: Kind) -> None:
    async with scripted(ok(), host="::1") as there:
        answer = await kind.once(there.at("[::1]"))
    assert answer.status_code == 200
    assert there.requests[0].all(b"host") == [f"[::1]:{there.port}".encode()]


async def test_a_user_in_the_url_reaches_neither_target_nor_host(kind: Kind) -> None:
    async with scripted(ok()) as there:
        answer = await kind.once(there.url.replace("//", "//user:secret@"))
    assert answer.error == "protocol" or answer.status_code == 200
    for asked in there.requests:
        assert b"secret" not in asked.head
        assert asked.line == b"POST /hook HTTP/1.1"


async def test_nothing_is_added_that_nobody_asked_for(kind: Kind) -> None:
    async with scripted(ok()) as there:
        await kind.once(there.url, ("X-A", "b"), body=b"x")
        await kind.once(there.url, ("X-A", "b"), method="GET")
    names = [sorted(name.lower() for name, _value in asked.headers) for asked in there.requests]
    assert names == [[b"content-length", b"host", b"x-a"], [b"host", b"x-a"]]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_an_empty_body_is_said_to_be_empty(kind: Kind, method: str) -> None:
    async with scripted(ok()) as there:
        await kind.once(there.url, method=method)
    assert there.requests[0].all(b"content-length") == [b"0"]


async def test_headers_keep_their_order_and_spelling(kind: Kind) -> None:
    given = [("X-B", "1"), ("x-a", "2"), ("X-B", "3"), ("ACCEPT", "*/*"), ("User-Agent", "mine")]
    async with scripted(ok()) as there:
        await kind.once(there.url, *given)
    sent = [header for header in there.requests[0].headers if header[0].lower() not in {b"host", b"content-length"}]
    assert sent == [(name.encode(), value.encode()) for name, value in given]


@pytest.mark.parametrize(
    "value", ["café ☃", "a\tb", "", '"quoted, list"', "x" * 8000, "\x7f\xa0", "a: b", "\u2028\x85"]
)
async def test_an_unusual_header_value_arrives_as_utf_8_or_is_refused(kind: Kind, value: str) -> None:
    async with scripted(ok()) as there:
        answer = await kind.once(there.url, ("X-A", value))
    if answer.error is None:
        assert there.requests[0].all(b"x-a") == [value.encode()]
    assert answer.error in {None, "protocol"}


@pytest.mark.parametrize(
    "header",
    [("X-A", "a\r\nX-B: c"), ("X-A", "a\nb"), ("X-A", "a\rb"), ("X\r\nY", "v"), ("X-A", "\0"), ("X\0", "v"),
     ("X-A", "a\r\n b"), ("", "v\r\n"), pytest.param(("X-A", "\ud800"), id="surrogate")],
)  # fmt: skip
async def test_no_header_breaks_out_of_its_line(kind: Kind, header: tuple[str, str]) -> None:
    async with scripted(ok()) as there:
        answer = await kind.once(there.url, header)
    assert there.requests == []
    assert answer.error == "protocol"


@pytest.mark.parametrize("method", ["GE T", "G\r\nX: y", "", "G\n", "GET / HTTP/1.1\r\nX: "])
async def test_no_method_breaks_out_of_its_line(kind: Kind, method: str) -> None:
    async with scripted(ok()) as there:
        answer = await kind.once(there.url, method=method)
    assert there.requests == []
    assert answer.error == "protocol"


@pytest.mark.parametrize("path", ["/a\r\nX: y", "/a\nb", "/a\rb", "/ HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_no_url_breaks_out_of_its_line(kind: Kind, path: str) -> None:
    async with scripted(ok()) as there:
        answer = await kind.once(there.at("127.0.0.1", path))
    for asked in there.requests:
        assert [name.lower() for name, _value in asked.headers] == [b"host", b"content-length"]
        assert asked.line.count(b" ") == 2
    assert answer.error in {None, "protocol"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("Content-Length", "1"), ("content-length", "100"), ("Transfer-Encoding", "chunked"), ("Host", "other.example")],
)
async def test_a_header_that_frames_the_request_cannot_split_it(kind: Kind, name: str, value: str) -> None:
    """Ingest refuses these; here they may be refused or make one whole request, nothing in between."""
    async with scripted([ok(), close]) as there:
        answer = await kind.once(there.url, (name, value), body=b"four", timeout_s=0.5)
    assert answer.error in {"protocol", "timeout"} or len(there.requests) == 1
    for asked in there.requests:
        assert len(asked.all(b"host")) == 1
        assert len(asked.all(b"content-length")) + len(asked.all(b"transfer-encoding")) <= 1


async def test_no_proxy_and_no_netrc_of_the_environment_is_used(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with scripted(ok()) as proxy, scripted(ok()) as there:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        answer = await kind.once(there.url)
    assert (answer.status_code, proxy.connections, len(there.requests)) == (200, 0, 1)
    assert there.requests[0].all(b"authorization") == []


async def test_no_cookie_is_kept(kind: Kind) -> None:
    async with (
        scripted(ok(b"", b"Set-Cookie: a=b; Path=/")) as there,
        kind.open(names={"shop.example": [["127.0.0.1"]]}) as calling,
    ):
        for _ in range(2):
            answer = await calling(there.at("shop.example"))
    assert answer.header("set-cookie") == "a=b; Path=/"
    assert [asked.all(b"cookie") for asked in there.requests] == [[], []]


# --- answers that keep the rules


WHOLE: list[tuple[str, bytes, int, bytes]] = [
    ("counted", ok(b"body"), 200, b"body"),
    ("counted, empty", ok(), 200, b""),
    ("chunked", OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", 200, b"body"),
    ("chunks", OK + b"transfer-encoding:CHUNKED\r\n\r\n1\r\nb\r\n003\r\nody\r\n0\r\n\r\n", 200, b"body"),
    ("an extension", OK + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0;x\r\n\r\n", 200, b"body"),
    ("trailers", OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Late: y\r\n\r\n", 200, b"body"),
    ("no reason", b"HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n", 503, b""),
    ("no reason, no space", b"HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n", 503, b""),
    ("line feeds alone", b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody", 200, b"body"),
    ("upgrade offered", OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 4\r\n\r\nbody", 200, b"body"),
    ("continue first", b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"body"), 200, b"body"),
    ("early hints first", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + ok(b"body"), 200, b"body"),
    ("102 and 199 first", b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 199 Odd\r\n\r\n" + ok(b"body"), 200, b"body"),
    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    ("304 with a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b""),
    ("the same length twice", OK + b"Content-Length: 4\r\nX-A: b\r\n\r\nbody", 200, b"body"),
    ("HTTP/1.0, kept", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody", 200, b"body"),
    ("odd status", b"HTTP/1.1 799 Hm\r\nContent-Length: 0\r\n\r\n", 799, b""),
    ("exactly what is read", ok(b"x" * BODY_READ_MAX), 200, b"x" * BODY_READ_MAX),
]
UNTIL_CLOSED: list[tuple[str, bytes, int, bytes]] = [
    ("until closed", OK + b"\r\nbody", 200, b"body"),
    ("until closed, empty", OK + b"\r\n", 200, b""),
    ("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nbody", 200, b"body"),
    ("counted and closed", OK + b"Connection: close\r\nContent-Length: 4\r\n\r\nbody", 200, b"body"),
]


@pytest.mark.parametrize(("what", "answer", "status", "body"), WHOLE, ids=[case[0] for case in WHOLE])
async def test_a_whole_answer_is_read_to_its_end_and_no_further(
    kind: Kind, what: str, answer: bytes, status: int, body: bytes
) -> None:
    async with scripted(answer) as there, kind.open() as calling:
        for _ in range(3):
            met = await calling(there.url)
            assert (met.status_code, met.body, met.error) == (status, body, None), what
    assert len(there.requests) == 3


@pytest.mark.parametrize(
    ("what", "answer", "status", "body"), WHOLE[:-1] + UNTIL_CLOSED, ids=[case[0] for case in WHOLE[:-1] + UNTIL_CLOSED]
)
async def test_an_answer_may_come_a_byte_at_a_time(
    kind: Kind, what: str, answer: bytes, status: int, body: bytes
) -> None:
    script: Script = [*slowly(answer), close] if what in {case[0] for case in UNTIL_CLOSED} else slowly(answer)
    async with scripted(script) as there:
        met = await kind.once(there.url)
    assert (met.status_code, met.body) == (status, body)


@pytest.mark.parametrize(("what", "answer", "status", "body"), UNTIL_CLOSED, ids=[case[0] for case in UNTIL_CLOSED])
async def test_a_body_may_end_with_its_connection(
    kind: Kind, what: str, answer: bytes, status: int, body: bytes
) -> None:
    async with scripted([answer, close]) as there, kind.open() as calling:
        for _ in range(2):
            met = await calling(there.url)
            assert (met.status_code, met.body) == (status, body), what
    assert there.connections == 2


@pytest.mark.parametrize("status", [200, 204, 304, 404])
@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n", b""])
async def test_an_answer_to_head_has_no_body_to_wait_for(kind: Kind, status: int, framing: bytes) -> None:
    answer = b"HTTP/1.1 %d X\r\n" % status + framing + b"\r\n"
    async with scripted([answer, hang]) as there:
        met = await kind.once(there.url, method="HEAD")
    assert (met.status_code, met.body) == (status, b"")
    assert met.duration_ms < 2000


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("head", [b"HTTP/1.1 204 X\r\nContent-Length: 9\r\n\r\n", b"HTTP/1.1 304 X\r\n\r\n"])
async def test_an_answer_without_a_body_is_not_waited_for(kind: Kind, method: str, head: bytes) -> None:
    async with scripted([head, hang]) as there:
        met = await kind.once(there.url, method=method)
    assert (met.status_code, met.body, met.error) == (int(head[9:12]), b"", None)
    assert met.duration_ms < 2000


async def test_switching_protocols_is_an_answer_that_nobody_wanted(kind: Kind) -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n\x00\x01\x02"
    async with scripted(switched, ok()) as there, kind.open() as calling:
        met = await calling(there.url)
        again = await calling(there.url)
    assert (met.status_code, met.body) == (101, b"")
    assert (again.status_code, there.connections) == (200, 2)


async def test_headers_come_in_order_in_lower_case_with_their_repeats(kind: Kind) -> None:
    async with scripted(ok(b"", b"X-B: 1", b"x-a:  two words \t", b"X-b:3", b"X-C:")) as there:
        met = await kind.once(there.url)
    assert met.headers == (("content-length", "0"), ("x-b", "1"), ("x-a", "two words"), ("x-b", "3"), ("x-c", ""))


async def test_trailers_are_no_headers(kind: Kind) -> None:
    """RFC 9110 section 6.5.1."""
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nCarillon-No-Retry: true\r\n\r\n"
    async with scripted(chunked) as there:
        met = await kind.once(there.url)
    assert met.headers == (("transfer-encoding", "chunked"),)


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe\x80", b"\xed\xa0\x80"])
async def test_bytes_that_are_no_utf_8_in_an_answer_can_be_told_on(kind: Kind, name: bytes) -> None:
    head = b"HTTP/1.1 503 " + name + b"\r\nX-Name: " + name + b"\r\nContent-Length: 2\r\n\r\n" + name[:2]
    async with scripted(head) as there:
        answer = await kind.once(there.url)
    assert answer.status_code == 503
    assert "\ufffd" in (answer.header("x-name") or "")
    verdict = Ladder((5.0,), lambda: 0.0).decide(a_task(), a_call(), answer, NOW, NOW, "here")
    assert b"x-name" in encode(verdict)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(kind: Kind, status: int) -> None:
    async with scripted(ok()) as elsewhere:
        head = b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, elsewhere.url.encode())
        async with scripted(head) as there:
            met = await kind.once(there.url)
        assert (met.status_code, met.header("location"), elsewhere.connections) == (status, elsewhere.url, 0)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
async def test_a_compressed_body_is_taken_as_it_is(kind: Kind, encoding: str) -> None:
    bomb = gzip.compress(bytes(32 * MIB))[:40_000]
    async with scripted(ok(bomb, f"Content-Encoding: {encoding}".encode())) as there:
        answer = await kind.once(there.url)
    assert (answer.status_code, answer.body) == (200, bomb)


@pytest.mark.parametrize(
    "script",
    [
        [OK + b"Content-Length: 1073741824\r\n\r\n", for_ever(bytes(MIB))],
        [OK + b"Transfer-Encoding: chunked\r\n\r\n", for_ever(b"8000\r\n" + bytes(0x8000) + b"\r\n")],
        [OK + b"\r\n", for_ever(bytes(MIB))],
        [ok(bytes(BODY_READ_MAX + 1))],
    ],
    ids=["a gigabyte", "endless chunks", "no end in sight", "one byte more"],
)
async def test_of_a_huge_body_only_the_beginning_is_read(kind: Kind, script: Script) -> None:
    async with scripted(script) as there, kind.open() as calling:
        answer = await calling(there.url)
        assert (answer.status_code, answer.body) == (200, bytes(BODY_READ_MAX))
        assert answer.duration_ms < 3000
        await there.all_closed()
        assert there.bytes_sent < 32 * MIB


async def test_an_answer_before_the_request_is_whole_counts_and_costs_the_connection(kind: Kind) -> None:
    """A receiver may refuse a body that it has not read (RFC 9112 section 9.3)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with kind.open() as calling:
        for _ in range(2):
            assert (await calling(url, body=bytes(32 * MIB))).status_code == 413
    server.close()
    assert len(connections) == 2
    for writer in connections:
        writer.transport.abort()


async def test_an_answer_that_did_not_wait_for_the_request_is_taken(kind: Kind) -> None:
    """What `nc -l` with a canned answer does, which people try webhooks with."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\nhello")
        writer.write_eof()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        answer = await kind.once(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert (answer.status_code, answer.body) == (200, b"hello")


async def test_when_and_how_long_is_measured(kind: Kind) -> None:
    async def later(talk: Conversation) -> None:
        await asyncio.sleep(0.2)
        await talk.say(ok())

    before = datetime.now(UTC)
    async with scripted([later]) as there:
        met = await kind.once(there.url)
    assert before <= met.started_at <= datetime.now(UTC)
    assert met.started_at.microsecond % 1000 == 0
    assert 190 <= met.duration_ms < 2000


async def test_a_connection_is_used_again(kind: Kind) -> None:
    async with scripted(*(answer for _what, answer, _status, _body in WHOLE)) as there, kind.open() as calling:
        for _ in WHOLE:
            assert (await calling(there.url, body=b"x")).error is None
    # An answer of exactly BODY_READ_MAX may be taken for the beginning of a longer one.
    assert there.connections <= 2
