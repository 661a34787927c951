"""The real caller against receivers that behave, misbehave, and must never be reached."""

import asyncio
import gzip
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from libs.common.clock import SystemClock
from libs.common.contracts import Call, encode
from services.dispatcher.caller import BODY_READ_MAX, AiohttpCaller, Request, request_of
from services.dispatcher.guard import guarded_socket_factory
from services.dispatcher.outcome import judge
from services.dispatcher.retry import Ladder
from tests.integration.dispatcher.rig import (
    LOOPBACK,
    Listener,
    Received,
    a_caller,
    call,
    listener,
    receiver,
    saying,
)
from tests.integration.rig import until
from tests.unit.dispatcher.samples import NOW, a_call, a_task

OK = b"HTTP/1.1 200 OK\r\n"
MIB = 1024 * 1024


# --- what arrives there


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)) * 40, "naïve ☃".encode(), b"x" * 262_144])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
async def test_method_and_body_arrive_byte_for_byte(method: str, body: bytes) -> None:
    async with receiver() as made:
        answer = await call(made.url, ("Content-Type", "text/odd"), method=method, body=body)
    assert answer.status_code == 200
    assert (made.requests[0].method, made.requests[0].body) == (method, body)
    assert made.requests[0].header("content-type") == "text/odd"


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb/../c//d;e=f?x=1&&y=%20+&z=%c3%A9&x=2#none",
        "/?",
        "/%7Euser/~user?q=a%2Bb",
        "/?json={%22a%22:[1]}",
        "/?a=b?c=d&e=/x",
        "/." + "/x" * 900,
    ],
)
async def test_the_url_arrives_as_it_was_written(target: str) -> None:
    async with receiver() as made:
        await call(made.url + target)
    assert made.requests[0].target == target.removesuffix("#none").removesuffix("?")


async def test_nothing_is_added_that_nobody_asked_for() -> None:
    async with receiver() as made:
        await call(made.url, ("X-A", "b"), body=b"x")
    assert {name.lower() for name, _value in made.requests[0].headers} == {"x-a", "host", "content-length"}


async def test_a_post_without_a_body_says_that_it_is_empty() -> None:
    async with receiver() as made:
        await call(made.url)
    assert made.requests[0].header("content-length") == "0"


async def test_the_headers_that_are_documented_come_on_top_of_the_clients() -> None:
    task = a_task(attempt=2, due_at=NOW)
    wanted = a_call(headers=(("X-A", "b"), ("x-a", "c"), ("user-agent", "mine")), traceparent="00-1-2-01")
    async with receiver() as made, a_caller(*LOOPBACK) as caller:
        wanted = msgspec.structs.replace(wanted, url=made.url)
        await caller.call(request_of(task, wanted, 7, NOW + timedelta(seconds=1, milliseconds=999)))
    [got] = made.requests
    assert [value for name, value in got.headers if name.lower() == "x-a"] == ["b", "c"]
    assert [value for name, value in got.headers if name.lower() == "user-agent"] == ["mine"]
    assert got.header("webhook-id") == got.header("idempotency-key") == str(task.id)
    assert got.header("webhook-timestamp") == str(int(NOW.timestamp()) + 1)
    assert got.header("carillon-attempt") == "2/7"
    assert got.header("carillon-due-at") == "2027-03-01T09:00:00.000Z"
    assert got.header("traceparent") == "00-1-2-01"


@pytest.mark.parametrize("value", ["café ☃", "a\tb", "", '"quoted, list"', "x" * 8000, "\x7f\xa0"])
async def test_an_unusual_header_value_arrives_as_utf_8_or_is_refused(value: str) -> None:
    async with listener(saying(OK + b"Content-Length: 0\r\n\r\n")) as made:
        answer = await call(made.url, ("X-A", value))
    assert answer.status_code == 200 or answer.error == "protocol"


@pytest.mark.parametrize("header", [("X-A", "a\r\nX-B: c"), ("X-A", "a\nb"), ("X\r\nY", "v"), ("X-A", "\0")])
async def test_no_header_breaks_out_of_its_line(header: tuple[str, str]) -> None:
    heads = []

    async def serve(_made: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK + b"Content-Length: 0\r\n\r\n")

    async with listener(serve) as made:
        answer = await call(made.url, header)
    assert heads == []
    assert answer.error == "protocol"


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listener(saying(OK + b"\r\n")) as proxy, receiver() as made:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        answer = await call(made.url)
    assert (answer.status_code, proxy.connections, len(made.requests)) == (200, 0, 1)


async def test_no_netrc_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with receiver() as made:
        await call(made.url)
    assert made.requests[0].header("authorization") is None


# --- what is made of the answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with listener(saying(OK + b"\r\n")) as elsewhere:

        async def answer(_received: Received) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": elsewhere.url})

        async with receiver(answer) as made:
            met = await call(made.url)
        assert (met.status_code, met.header("location"), elsewhere.connections) == (status, elsewhere.url, 0)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
async def test_a_compressed_body_is_taken_as_it_is(encoding: str) -> None:
    bomb = gzip.compress(bytes(32 * MIB))[:40_000]
    head = OK + f"Content-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    async with listener(saying(head, bomb)) as made:
        answer = await call(made.url)
    assert (answer.status_code, answer.body) == (200, bomb)


async def test_of_a_gigabyte_only_the_beginning_is_read() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    part = bytes(MIB)
    async with listener(saying(OK + b"Content-Length: 1073741824\r\n\r\n", *([part] * 1024))) as made:
        answer = await call(made.url, timeout_s=10.0)
        assert (answer.status_code, len(answer.body)) == (200, BODY_READ_MAX)
        assert answer.duration_ms < 3000
        assert made.bytes_sent < 32 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


async def test_a_body_of_exactly_what_is_read_is_whole() -> None:
    body = bytes(BODY_READ_MAX)
    async with listener(saying(OK + f"Content-Length: {len(body)}\r\n\r\n".encode(), body)) as made:
        assert (await call(made.url)).body == body


async def test_an_endless_chunked_body_is_cut() -> None:
    chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
    async with listener(saying(OK + b"Transfer-Encoding: chunked\r\n\r\n", *([chunk] * 3000))) as made:
        answer = await call(made.url)
    assert (answer.status_code, len(answer.body)) == (200, BODY_READ_MAX)


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe\x80", b"\xed\xa0\x80"])
async def test_bytes_that_are_no_utf_8_in_an_answer_can_be_told_on(name: bytes) -> None:
    head = b"HTTP/1.1 503 " + name + b"\r\nX-Name: " + name + b"\r\nContent-Length: 2\r\n\r\n" + name[:2]
    async with listener(saying(head)) as made:
        answer = await call(made.url)
    assert answer.status_code == 503
    assert "\ufffd" in (answer.header("x-name") or "")
    task, wanted = a_task(), a_call()
    verdict = Ladder((5.0,), lambda: 0.0).decide(task, wanted, answer, NOW, NOW, "here")
    assert b"X-Name".lower() in encode(verdict)


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST"])
@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"]
)
async def test_an_answer_without_a_body_is_not_waited_for(method: str, head: bytes) -> None:
    async with listener(saying(head, then=lambda _writer: None)) as made:
        answer = await call(made.url, method=method)
    assert (answer.status_code, answer.body) == (int(head[9:12]), b"")


async def test_the_length_in_an_answer_to_head_is_not_waited_for() -> None:
    async def serve(_made: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"Content-Length: 1000\r\n\r\n")
        await asyncio.sleep(30)

    async with listener(serve) as made:
        answer = await call(made.url, method="HEAD", timeout_s=10.0)
    assert (answer.status_code, answer.body) == (200, b"")
    assert answer.duration_ms < 5000


async def test_a_connection_is_used_again_by_the_same_caller() -> None:
    async with receiver() as made, a_caller(*LOOPBACK) as caller:
        for _ in range(3):
            await caller.call(Request(Call(url=made.url, body=b"x"), ()))
    assert len({received.peer for received in made.requests}) == 1


async def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again() -> None:
    async def answer(_received: Received) -> web.StreamResponse:
        return web.Response(body=bytes(MIB))

    async with receiver(answer) as made, a_caller(*LOOPBACK) as caller:
        for _ in range(3):
            assert (await caller.call(Request(Call(url=made.url), ()))).status_code == 200
    assert len({received.peer for received in made.requests}) == 3


async def test_when_and_how_long_is_measured() -> None:
    async def answer(_received: Received) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return web.Response()

    before = datetime.now(UTC)
    async with receiver(answer) as made:
        met = await call(made.url)
    assert before <= met.started_at <= datetime.now(UTC)
    assert met.started_at.microsecond % 1000 == 0
    assert 190 <= met.duration_ms < 2000


# --- receivers that misbehave


async def _drip(_made: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(head)
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", OK + b"Content-Length: 100000\r\n\r\n", OK + b"\r\n"]
)
async def test_a_slow_answer_ends_with_the_time_of_the_whole_call(head: bytes) -> None:
    async def serve(made: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _drip(made, reader, writer, head)

    async with listener(serve) as made:
        answer = await call(made.url, timeout_s=0.5)
    assert (answer.status_code, answer.error) in {(None, "timeout"), (None, "protocol")}
    assert answer.error == "timeout" or head == b""
    assert answer.duration_ms < 1500


async def test_no_answer_at_all_ends_with_the_time_of_the_whole_call() -> None:
    async def serve(_made: Listener, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listener(serve) as made:
        answer = await call(made.url, timeout_s=0.4)
    assert (answer.status_code, answer.error) == (None, "timeout")
    assert 400 <= answer.duration_ms < 1500


async def test_a_receiver_that_never_reads_ends_with_the_time_of_the_whole_call() -> None:
    async def serve(_made: Listener, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(30)

    async with listener(serve) as made:
        answer = await call(made.url, timeout_s=0.5, body=bytes(16 * MIB))
    assert (answer.status_code, answer.error) == (None, "timeout")
    assert answer.duration_ms < 1500


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("then", [_reset, lambda writer: writer.close()])
@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200", OK + b"Content-Length: 100\r\n\r\nhalf", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nha"],
)
async def test_an_answer_that_breaks_off_is_disconnected(head: bytes, then: Any) -> None:
    async with listener(saying(*([head] if head else []), then=then)) as made:
        answer = await call(made.url)
    assert (answer.status_code, answer.error) == (None, "disconnected")


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH\r\n\r\n", b"\xff" * 100 + b"\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n",
     OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n", OK + b"".join(b"H%d: v\r\n" % n for n in range(20_000)) + b"\r\n",
     OK + b"Content-Length: -1\r\n\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
async def test_what_is_no_http_is_a_protocol_error(answer: bytes) -> None:
    async with listener(saying(answer)) as made:
        met = await call(made.url)
    assert (met.status_code, met.error) == (None, "protocol")
    assert met.error_detail is not None
    assert len(met.error_detail) <= 500


async def test_a_refused_connection_is_a_connect_error() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        answer = await call(f"http://127.0.0.1:{unheard.getsockname()[1]}/")
    assert (answer.status_code, answer.error) == (None, "connect")
    assert "Connect call failed" in (answer.error_detail or "")


async def test_a_name_that_nobody_knows_is_a_dns_error() -> None:
    answer = await call("http://nobody.invalid/", timeout_s=5.0)
    assert (answer.status_code, answer.error) == (None, "dns")


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    import subprocess

    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_self_signed_certificate_is_a_tls_error(self_signed: ssl.SSLContext) -> None:
    async with receiver(ssl_context=self_signed) as made:
        answer = await call(made.url.replace("http:", "https:"))
    assert (answer.status_code, answer.error, made.requests) == (None, "tls", [])


async def test_a_receiver_without_tls_is_a_tls_error() -> None:
    async with receiver() as made:
        answer = await call(made.url.replace("http:", "https:"))
    assert (answer.status_code, answer.error, made.requests) == (None, "tls", [])


@pytest.mark.parametrize(
    "url",
    ["", "x", "//x", "http://", "http:///x", "http://[::1", "ftp://127.0.0.1/", "ws://127.0.0.1/", "http://127.0.0.1:99999/",
     "http://\ud83d.com/", "http://127.1/", "file:///etc/passwd"],
)  # fmt: skip
async def test_a_url_that_cannot_be_called_is_an_answer_too(url: str) -> None:
    assert (await call(url)).error == "protocol"


@pytest.mark.parametrize("method", ["GE T", "G\r\nX: y"])
async def test_a_method_that_is_none_is_an_answer_too(method: str) -> None:
    assert (await call("http://127.0.0.1:1/", method=method)).error == "protocol"


# --- addresses that must not be reached


@pytest.fixture
async def canary() -> AsyncIterator[Listener]:
    """Listens on loopback where calls have no business."""
    async with listener(saying(OK + b"Content-Length: 0\r\n\r\n"), "127.0.0.1") as made:
        yield made


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LOCALHOST", "127.0.0.2", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]",
     "[::ffff:7f00:1]", "[::127.0.0.1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]",
     "[2002:7f00:1::]", "169.254.169.254", "168.63.129.16", "10.0.0.1", "[fe80::1%25lo]", "[fe80::1%25eth0]",
     "user:password@127.0.0.1"],
)  # fmt: skip
async def test_a_blocked_address_is_never_connected_to(canary: Listener, host: str) -> None:
    answer = await call(f"http://{host}:{canary.port}/", networks=())
    assert (answer.status_code, answer.error, canary.connections) == (None, "blocked_address", 0)
    assert judge(a_call(), answer).kind == "failed"
    assert "CARILLON_ALLOW_NETWORKS can open it" in (answer.error_detail or "")


@pytest.mark.parametrize(
    "host", ["localhost.", "0x7f.1", "2130706433", "127.1", "0177.0.0.1", "0", "①②⑦.⓪.⓪.①", "127。0。0。1"]
)
async def test_no_other_way_to_write_loopback_reaches_it(canary: Listener, host: str) -> None:
    answer = await call(f"http://{host}:{canary.port}/", networks=())
    assert answer.status_code is None
    assert canary.connections == 0


class Names(AbstractResolver):
    """A resolver that says what a test wants, a new thing each time."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        ips = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        families = [socket.AF_INET6 if ":" in ip else socket.AF_INET for ip in ips]
        return [
            ResolveResult(hostname=host, host=ip, port=port, family=of, proto=0, flags=socket.AI_NUMERICHOST)
            for ip, of in zip(ips, families, strict=True)
        ]

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make every new caller ask a resolver that answers so."""

    def answering(*answers: list[str]) -> None:
        real = aiohttp.TCPConnector

        def connector(**settings: Any) -> aiohttp.TCPConnector:
            return real(**{**settings, "resolver": Names(*answers), "use_dns_cache": False})

        monkeypatch.setattr(aiohttp, "TCPConnector", connector)

    return answering


@pytest.mark.parametrize(
    "ips",
    [
        ["127.0.0.1"],
        ["127.0.0.1", "::1"],
        ["::1", "127.0.0.1", "10.0.0.1", "fd00::1"],
        ["127.0.0.1", "127.0.0.2", "127.0.0.3"],
    ],
)
async def test_a_name_with_only_blocked_addresses_fails_at_once(names: Any, canary: Listener, ips: list[str]) -> None:
    names(ips)
    answer = await call(f"http://innocent.example:{canary.port}/", networks=())
    assert (answer.error, canary.connections) == ("blocked_address", 0)
    for ip in ips[-1:]:
        assert ip in (answer.error_detail or "")


async def test_a_name_that_changes_its_answer_gains_nothing(names: Any, canary: Listener) -> None:
    names(["127.0.0.2"], ["127.0.0.1"])
    networks = ["127.0.0.2/32"]
    async with a_caller(*networks) as caller:
        first = await caller.call(Request(Call(url=f"http://innocent.example:{canary.port}/"), ()))
        second = await caller.call(Request(Call(url=f"http://innocent.example:{canary.port}/"), ()))
    assert (first.error, second.error, canary.connections) == ("connect", "blocked_address", 0)


async def test_beside_a_blocked_address_an_allowed_one_is_still_called(names: Any) -> None:
    names(["::1", "127.0.0.1"])
    async with receiver() as made:
        answer = await call(f"http://dual.example:{made.port}/", networks=["127.0.0.1/32"])
    assert answer.status_code == 200


async def test_no_cookie_is_kept(names: Any) -> None:
    async def answer(_received: Received) -> web.StreamResponse:
        return web.Response(headers={"Set-Cookie": "a=b; Path=/"})

    names(["127.0.0.1"])  # aiohttp's own jar keeps none of an address
    async with receiver(answer) as made, a_caller(*LOOPBACK) as caller:
        for _ in range(2):
            met = await caller.call(Request(Call(url=f"http://shop.example:{made.port}/"), ()))
    assert met.header("set-cookie") == "a=b; Path=/"
    assert [received.header("cookie") for received in made.requests] == [None, None]


async def test_a_caller_that_is_closed_keeps_no_socket() -> None:
    async with receiver() as made:
        caller = AiohttpCaller(guarded_socket_factory(LOOPBACK), SystemClock())
        await caller.call(Request(Call(url=made.url), ()))
        await caller.close()

        def is_so() -> bool:
            return not caller._session.connector

        await until("the connector to be gone", is_so)
