"""Every caller: names, addresses, TLS, and how long each took. RFC 8305 is happy eyeballs."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest
import trustme

from services.dispatcher.caller import BODY_READ_MAX
from services.dispatcher.guard import ssl_context
from services.dispatcher.outcome import judge
from tests.integration.dispatcher.scripted import (
    OK,
    Conversation,
    Kind,
    Script,
    close,
    hang,
    no_more_sockets,
    ok,
    reset,
    scripted,
)
from tests.integration.rig import until
from tests.unit.dispatcher.samples import a_call

# --- names and addresses


async def test_a_refused_connection_is_a_connect_error(kind: Kind) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        answer = await kind.once(f"http://127.0.0.1:{unheard.getsockname()[1]}/")
    assert (answer.status_code, answer.error) == (None, "connect")
    assert "Connect call failed" in (answer.error_detail or "")


async def test_a_name_that_nobody_knows_is_a_dns_error(kind: Kind) -> None:
    async with kind.open(names={}) as calling:
        answer = await calling("http://nobody.example/")
    assert (answer.status_code, answer.error) == (None, "dns")


async def test_many_calls_to_a_new_name_ask_for_it_once(kind: Kind) -> None:
    async with scripted(ok()) as there, kind.open(names={"shop.example": [["127.0.0.1"]]}) as calling:
        answers = await asyncio.gather(*(calling(there.at("shop.example")) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert calling.names is not None
        assert calling.names.asked == ["shop.example"]


async def test_a_call_that_gives_up_on_a_name_takes_it_from_nobody(kind: Kind) -> None:
    async with scripted(ok()) as there, kind.open(names={"shop.example": [["127.0.0.1"]]}) as calling:
        assert calling.names is not None
        calling.names.gate.clear()
        one, two = [asyncio.create_task(calling(there.at("shop.example"))) for _ in range(2)]
        await until("the name to be asked for", lambda: calling.names and calling.names.asked)
        one.cancel()
        calling.names.gate.set()
        assert (await two).status_code == 200
        with pytest.raises(asyncio.CancelledError):
            await one


@contextmanager
def _dead_address(host: str) -> Iterator[int]:
    """A port there that neither answers nor refuses: its queue of connections is full."""
    with socket.socket() as dead, socket.socket() as first, socket.socket() as second:
        dead.bind((host, 0))
        dead.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(dead.getsockname())
        yield dead.getsockname()[1]


async def test_no_connection_ends_with_the_time_of_the_whole_call(kind: Kind) -> None:
    with _dead_address("127.0.0.1") as port:
        answer = await kind.once(f"http://127.0.0.1:{port}/", timeout_s=0.5)
    assert (answer.status_code, answer.error) == (None, "timeout")
    assert 490 <= answer.duration_ms < 1500


async def test_a_connection_is_waited_for_no_longer_than_its_own_limit(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("services.dispatcher.http.caller", "tests.integration.dispatcher.aiohttp_caller"):
        monkeypatch.setattr(f"{module}.CONNECT_TIMEOUT_S", 0.3)
    with _dead_address("127.0.0.1") as port:
        answer = await kind.once(f"http://127.0.0.1:{port}/", timeout_s=20.0)
    assert (answer.status_code, answer.error) == (None, "timeout")
    assert 290 <= answer.duration_ms < 1500


async def test_a_dead_first_address_costs_a_quarter_of_a_second(kind: Kind) -> None:
    """RFC 8305."""
    with _dead_address("127.0.0.2") as port:
        server = await asyncio.start_server(_say_ok, "127.0.0.1", port)
        async with server, kind.open(names={"shop.example": [["127.0.0.2", "127.0.0.1"]]}) as calling:
            answer = await calling(f"http://shop.example:{port}/")
    assert answer.status_code == 200
    assert 240 <= answer.duration_ms < 1500


async def _say_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ok())
    writer.close()


@pytest.mark.parametrize("addresses", [["127.0.0.2", "127.0.0.3", "127.0.0.1"], ["::1", "127.0.0.1"]])
async def test_of_several_addresses_one_that_listens_is_enough(kind: Kind, addresses: list[str]) -> None:
    async with scripted(ok()) as there, kind.open(names={"shop.example": [addresses]}) as calling:
        answer = await calling(there.at("shop.example"))
    assert answer.status_code == 200


async def test_beside_a_blocked_address_an_allowed_one_is_called(kind: Kind) -> None:
    names = {"shop.example": [["10.0.0.1", "::1", "169.254.169.254", "127.0.0.1"]]}
    async with scripted(ok()) as there, kind.open(["127.0.0.1/32"], names) as calling:
        answer = await calling(there.at("shop.example"))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["127.0.0.1", "::1"], ["::1", "127.0.0.1", "10.0.0.1", "fd00::1"]]
)
async def test_a_name_with_only_blocked_addresses_fails_at_once(kind: Kind, addresses: list[str]) -> None:
    async with scripted(ok()) as there, kind.open((), {"shop.example": [addresses]}) as calling:
        answer = await calling(there.at("shop.example"))
        assert (answer.error, there.connections) == ("blocked_address", 0)
    assert judge(a_call(), answer).kind == "failed"
    assert addresses[0] in (answer.error_detail or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "[::]"])
async def test_a_blocked_address_in_the_url_is_never_connected_to(kind: Kind, host: str) -> None:
    async with scripted(ok()) as there, kind.open(()) as calling:
        answer = await calling(there.at(host))
        assert (answer.status_code, answer.error, there.connections) == (None, "blocked_address", 0)


async def test_a_name_that_changes_its_answer_gains_nothing(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("services.dispatcher.http.names", "tests.integration.dispatcher.aiohttp_caller"):
        monkeypatch.setattr(f"{module}.DNS_CACHE_S", 0)
    names = {"shop.example": [["127.0.0.2"], ["127.0.0.1"]]}
    async with scripted(ok()) as there, kind.open(["127.0.0.2/32"], names) as calling:
        first = await calling(there.at("shop.example"))
        second = await calling(there.at("shop.example"))
        assert (first.error, second.error, there.connections) == ("connect", "blocked_address", 0)


# --- TLS


class Authority:
    """A CA that `trusting` callers trust, and servers with its certificates or with others."""

    def __init__(self) -> None:
        self._ca, self._other = trustme.CA(), trustme.CA()

    def trusting(self) -> ssl.SSLContext:
        context = ssl_context()
        self._ca.configure_trust(context)
        return context

    def server(self, *names: str, is_expired: bool = False, is_ours: bool = True) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2", "http/1.1"])
        since, until_ = datetime(2020, 1, 1), datetime(2021 if is_expired else 2099, 1, 1)  # noqa: DTZ001
        authority = self._ca if is_ours else self._other
        authority.issue_cert(*names, not_before=since, not_after=until_).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


SHOP = {"shop.example": [["127.0.0.1"]]}


async def test_a_name_with_its_certificate_is_called_and_the_connection_kept(kind: Kind, authority: Authority) -> None:
    async with (
        scripted(ok(b"body"), tls=authority.server("shop.example")) as there,
        kind.open(names=SHOP, tls=authority.trusting()) as calling,
    ):
        for _ in range(3):
            met = await calling(there.at("shop.example"), body=bytes(100_000))
            assert (met.status_code, met.body) == (200, b"body")
    assert (there.connections, there.names_asked) == (1, ["shop.example"])
    assert [len(asked.body) for asked in there.requests] == [100_000] * 3


async def test_an_address_with_its_certificate_is_called(kind: Kind, authority: Authority) -> None:
    async with (
        scripted(ok(), tls=authority.server("127.0.0.1")) as there,
        kind.open(tls=authority.trusting()) as calling,
    ):
        assert (await calling(there.url)).status_code == 200
    assert there.names_asked == [None]


async def test_a_name_outside_ascii_is_asked_for_and_checked_as_punycode(kind: Kind, authority: Authority) -> None:
    host = "xn--mnchen-3ya.example"
    async with (
        scripted(ok(), tls=authority.server(host)) as there,
        kind.open(names={host: [["127.0.0.1"]]}, tls=authority.trusting()) as calling,
    ):
        assert (await calling(there.at("münchen.example"))).status_code == 200
    assert there.names_asked == [host]


@pytest.mark.parametrize("body", [b"body", b"x" * (BODY_READ_MAX - 1)])
@pytest.mark.parametrize("how", [close, reset])
async def test_answers_over_tls_end_as_others_do(kind: Kind, authority: Authority, body: bytes, how: object) -> None:
    script: Script = [OK + b"Content-Length: 70000\r\n\r\n" + body, how]  # type: ignore[list-item]
    async with (
        scripted(ok(body), script, tls=authority.server("shop.example")) as there,
        kind.open(names=SHOP, tls=authority.trusting()) as calling,
    ):
        assert (await calling(there.at("shop.example"))).body == body
        assert (await calling(there.at("shop.example"))).error == "disconnected"


@pytest.mark.parametrize(
    ("names", "different"),
    [
        (["shop.example"], {"is_ours": False}),
        (["other.example"], {}),
        (["shop.example"], {"is_expired": True}),
        (["127.0.0.1"], {}),
    ],
    ids=["of another authority", "for another name", "expired", "for the address alone"],
)
async def test_a_certificate_that_proves_nothing_is_a_tls_error(
    kind: Kind, authority: Authority, names: list[str], different: dict[str, bool]
) -> None:
    async with (
        scripted(ok(), tls=authority.server(*names, **different)) as there,
        kind.open(names=SHOP, tls=authority.trusting()) as calling,
    ):
        answer = await calling(there.at("shop.example"))
    assert (answer.status_code, answer.error, there.requests) == (None, "tls", [])
    assert "certificate" in (answer.error_detail or "").lower()


async def test_without_its_authority_a_certificate_is_a_tls_error(kind: Kind, authority: Authority) -> None:
    async with scripted(ok(), tls=authority.server("shop.example")) as there, kind.open(names=SHOP) as calling:
        assert (await calling(there.at("shop.example"))).error == "tls"


async def test_a_receiver_without_tls_is_a_tls_error(kind: Kind) -> None:
    async with scripted([b"HTTP/1.1 400 Bad Request\r\n\r\n", close]) as there:
        server = await asyncio.start_server(_say_ok, "127.0.0.1", 0, limit=1)
        async with server:
            answer = await kind.once(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout_s=2.0)
    assert answer.status_code is None
    assert answer.error in {"tls", "connect"}
    assert there.requests == []


async def test_tls_where_none_is_wanted_is_no_http(kind: Kind, authority: Authority) -> None:
    async with scripted(ok(), tls=authority.server("127.0.0.1")) as there:
        answer = await kind.once(there.url.replace("https:", "http:"))
    assert answer.error in {"protocol", "disconnected"}


async def test_a_handshake_that_stalls_ends_with_the_time_of_the_whole_call(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as never, no_more_sockets():
        answer = await kind.once(f"https://127.0.0.1:{never.getsockname()[1]}/", timeout_s=0.4)
    assert (answer.status_code, answer.error) == (None, "timeout")
    assert 390 <= answer.duration_ms < 1500


# --- where the time went


async def test_a_new_connection_and_a_kept_one_say_where_their_time_went(timed: Kind) -> None:
    async def later(talk: Conversation) -> None:
        await asyncio.sleep(0.1)
        await talk.say(ok())

    async with scripted([later]) as there, timed.open(names={"shop.example": [["127.0.0.1"]]}) as calling:
        first, second = [(await calling(there.at("shop.example"))).timing for _ in range(2)]
    assert None not in (first.dns_ms, first.connect_ms)
    assert (second.dns_ms, second.connect_ms, first.tls_ms, second.tls_ms) == (None, None, None, None)
    for timing in (first, second):
        assert timing.first_byte_ms is not None
        assert 95 <= timing.first_byte_ms < 2000


async def test_a_known_name_on_a_new_connection_took_no_time_to_find(timed: Kind) -> None:
    async with scripted([ok(), close]) as there, timed.open(names={"shop.example": [["127.0.0.1"]]}) as calling:
        first = await calling(there.at("shop.example"))
        await there.all_closed()
        second = await calling(there.at("shop.example"))
    assert None not in (first.timing.dns_ms, first.timing.connect_ms, second.timing.connect_ms)
    assert second.timing.dns_ms is None


async def test_tls_has_a_time_of_its_own(timed: Kind, authority: Authority) -> None:
    async with (
        scripted(ok(), tls=authority.server("127.0.0.1")) as there,
        timed.open(tls=authority.trusting()) as calling,
    ):
        first, second = [(await calling(there.url)).timing for _ in range(2)]
    assert None not in (first.connect_ms, first.tls_ms)
    assert (first.dns_ms, second.tls_ms) == (None, None)


async def test_a_call_that_failed_says_how_far_it_came(timed: Kind) -> None:
    async with scripted([hang], [ok(b"body")[:-1], hang]) as there, timed.open() as calling:
        silent, broken = [(await calling(there.url, timeout_s=0.2)).timing for _ in range(2)]
    refused = (await timed.once("http://127.0.0.1:1024/")).timing
    assert (silent.connect_ms, silent.first_byte_ms) != (None, None)
    assert silent.first_byte_ms is None
    assert broken.first_byte_ms is not None
    assert (refused.connect_ms, refused.first_byte_ms) == (None, None)
