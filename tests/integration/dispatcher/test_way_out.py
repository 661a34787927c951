"""Certificates are verified, against a CA of one's own too; and with a proxy everything goes through it."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from libs.common.clock import SystemClock
from libs.common.contracts import Call
from libs.common.egress import EgressRules
from services.dispatcher.caller import Request
from services.dispatcher.guard import Egress, ssl_context
from services.dispatcher.http.caller import LeanCaller
from services.dispatcher.outcome import Answer
from tests.integration.dispatcher.everywhere import CALLERS
from tests.integration.dispatcher.rig import LOOPBACK, TLS, receiver

CA = trustme.CA()


@pytest.fixture(scope="module")
def own_roots(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    CA.cert_pem.write_to_path(file)
    return ssl_context(Path(file))


def served_as(name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CA.issue_cert(name).configure_cert(context)
    return context


async def called(kind: str, url: str, tls: ssl.SSLContext) -> Answer:
    caller = CALLERS[kind](Egress(EgressRules(LOOPBACK), tls), SystemClock())
    try:
        return await caller.call(Request(Call(url=url, timeout_s=5.0), ()))
    finally:
        await caller.close()


# --- certificates


@pytest.mark.parametrize("kind", CALLERS)
async def test_a_certificate_of_the_ca_in_the_file_is_believed(kind: str, own_roots: ssl.SSLContext) -> None:
    async with receiver(ssl_context=served_as("127.0.0.1")) as made:
        answer = await called(kind, made.url.replace("http:", "https:"), own_roots)
    assert (answer.status_code, answer.error, len(made.requests)) == (200, None, 1)


@pytest.mark.parametrize("kind", CALLERS)
async def test_without_the_file_it_is_not(kind: str) -> None:
    async with receiver(ssl_context=served_as("127.0.0.1")) as made:
        answer = await called(kind, made.url.replace("http:", "https:"), TLS)
    assert (answer.status_code, answer.error, made.requests) == (None, "tls", [])


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("name", ["elsewhere.example", "127.0.0.2", "*.0.0.1"])
async def test_a_certificate_for_another_name_is_not_believed(kind: str, name: str, own_roots: ssl.SSLContext) -> None:
    async with receiver(ssl_context=served_as(name)) as made:
        answer = await called(kind, made.url.replace("http:", "https:"), own_roots)
    assert (answer.status_code, answer.error, made.requests) == (None, "tls", [])


# --- a proxy


@dataclass
class Proxy:
    """Leads whatever name it is asked for to one port of loopback, as a proxy with a resolver of its own would."""

    port: int
    leads_to: int
    refusal: bytes = b""
    heads: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://me:s3cret@127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(head := await reader.readuntil(b"\r\n\r\n"))
        if self.refusal:
            writer.write(self.refusal)
            return
        there, there_writer = await asyncio.open_connection("127.0.0.1", self.leads_to)
        if head.startswith(b"CONNECT "):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            there_writer.write(head)
        await asyncio.wait(
            [asyncio.create_task(_pump(reader, there_writer)), asyncio.create_task(_pump(there, writer))]
        )


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while part := await source.read(65536):
        sink.write(part)
    sink.close()


@asynccontextmanager
async def a_proxy(leads_to: int, refusal: bytes = b"") -> AsyncIterator[Proxy]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await made.serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = Proxy(server.sockets[0].getsockname()[1], leads_to, refusal)
    yield made
    server.close()


async def through(proxy: str, url: str, tls: ssl.SSLContext = TLS, **different: object) -> Answer:
    """By a caller to which no network is open."""
    caller = LeanCaller(Egress(EgressRules(), tls, proxy), SystemClock())
    try:
        return await caller.call(Request(Call(**{"url": url, "timeout_s": 5.0, "body": b"x", **different}), ()))  # type: ignore[arg-type]
    finally:
        await caller.close()


async def test_a_call_goes_through_the_proxy_which_looks_the_name_up() -> None:
    async with receiver() as made, a_proxy(made.port) as proxy:
        answer = await through(proxy.url, "http://known-to-the-proxy.invalid/hook?a=%2F")
    [head] = proxy.heads
    assert (answer.status_code, made.requests[0].body) == (200, b"x")
    assert head.startswith(b"POST http://known-to-the-proxy.invalid/hook?a=%2F HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " + b64encode(b"me:s3cret") in head


async def test_tls_is_made_with_the_target_and_not_with_the_proxy(own_roots: ssl.SSLContext) -> None:
    async with receiver(ssl_context=served_as("bank.invalid")) as made, a_proxy(made.port) as proxy:
        answer = await through(proxy.url, "https://bank.invalid/", own_roots)
        other = await through(proxy.url, "https://other.invalid/", own_roots)
    assert (answer.status_code, other.status_code, other.error) == (200, None, "tls")
    assert [head.split(b" HTTP")[0] for head in proxy.heads] == [
        b"CONNECT bank.invalid:443",
        b"CONNECT other.invalid:443",
    ]
    assert made.requests[0].header("proxy-authorization") is None


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "10.0.0.1", "169.254.169.254",
     "127.1", "0x7f.1", "2130706433", "127.0.0.1.", "example.com:25", "[fe80::1%25lo]", "127。0。0。1"],
)  # fmt: skip
async def test_what_the_url_itself_gives_away_is_not_asked_of_the_proxy(scheme: str, host: str) -> None:
    async with receiver() as made, a_proxy(made.port) as proxy:
        answer = await through(proxy.url, f"{scheme}://{host}/")
    assert (answer.error, proxy.heads, made.requests) == ("blocked_address", [], [])


@pytest.mark.parametrize("url", ["http://hooks.invalid/", "https://hooks.invalid/"])
async def test_a_proxy_that_is_away_is_tried_again_later(url: str) -> None:
    async with a_proxy(1) as proxy:
        pass
    answer = await through(proxy.url, url)
    assert (answer.status_code, answer.error) == (None, "connect")
    assert "s3cret" not in (answer.error_detail or "")


async def test_a_proxy_that_refuses_a_tunnel_is_tried_again_later() -> None:
    async with a_proxy(1, b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as proxy:
        answer = await through(proxy.url, "https://hooks.invalid/")
    assert (answer.status_code, answer.error) == (None, "connect")
    assert "407" in (answer.error_detail or "")
    assert "s3cret" not in (answer.error_detail or "")
