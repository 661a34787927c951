"""A link is kept while waiting can help, and ends the process when it cannot."""

import asyncio

import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.connection import Connection as LibraryConnection
from yarl import URL

from libs.common import connection
from libs.common.connection import Link, watch
from libs.common.lifecycle import Fatal
from libs.common.topology import DISPATCHER_COMMANDS, Topology, topology
from tests.integration.rig import Handler, Proxy, a_link, consuming, metric, one_by_one, publishing, until

NEVER_STOPPING = asyncio.Event


class Guest:
    """A party that notes what it is told."""

    def __init__(self, *, watches: bool = True) -> None:
        self.channels: list[AbstractChannel] = []
        self.closings = 0
        self._watches = watches

    async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
        channel = await connection.channel()
        if self._watches:
            watch(channel, lost)
        self.channels.append(channel)

    def closed(self) -> None:
        self.closings += 1

    async def has_opened(self, times: int) -> None:
        await until(f"{times} openings, {len(self.channels)} so far", lambda: len(self.channels) >= times)


async def run(link: Link, within_s: float = 10) -> None:
    async with link:
        await asyncio.wait_for(link.run(asyncio.Event()), within_s)


async def test_a_wrong_password_ends_it_and_is_not_told_to_anybody(amqp_url: str) -> None:
    wrong = str(URL(amqp_url).with_password("s3cret"))
    with pytest.raises(Fatal, match="refused the login 'guest'") as refused:
        await run(a_link(wrong))
    assert "s3cret" not in str(refused.value)
    assert "CARILLON_AMQP_URL" in str(refused.value)


async def test_a_wrong_virtual_host_ends_it_when_it_has_been_refused_often_enough(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "VHOST_REFUSALS_MAX", 2)
    failed = metric("carillon_broker_lost_total", connection="wrong vhost")
    with pytest.raises(Fatal, match="refuses the virtual host"):
        await run(a_link(str(URL(amqp_url).with_path("/no-such-vhost")), "wrong vhost"))
    assert metric("carillon_broker_lost_total", connection="wrong vhost") - failed == 1


async def test_a_missing_queue_ends_it_by_name(amqp_url: str) -> None:
    with pytest.raises(Fatal, match=r"no queue 'dispatcher\.retry\.777000'"):
        await run(Link(amqp_url, "test", topology((777.0,))))


async def test_a_queue_deleted_under_its_consumer_is_found_and_named(amqp_url: str, amqp: AbstractConnection) -> None:
    consumer = one_by_one(DISPATCHER_COMMANDS, Handler(), None)  # type: ignore[arg-type]
    async with consuming(amqp_url, consumer) as running:
        ended = asyncio.create_task(running.link.run(running.stopping))
        async with amqp.channel() as channel:
            await channel.queue_delete(DISPATCHER_COMMANDS)
        with pytest.raises(Fatal, match=r"no queue 'dispatcher\.commands'"):
            await asyncio.wait_for(ended, 10)


async def test_a_broker_that_is_away_is_waited_for(amqp_url: str) -> None:
    async with Proxy(amqp_url) as proxy:
        await proxy.close()
        guest, link = Guest(), a_link(proxy.url)
        link.join(guest)
        async with link:
            running = asyncio.create_task(link.run(asyncio.Event()))
            with pytest.raises(ConnectionError, match="'test' is down"):
                await link.ping()
            await proxy.open()
            await asyncio.wait_for(link.up(), 10)
            await link.ping()
            assert not running.done()
            running.cancel()
        assert len(guest.channels) == 1


async def test_a_cut_connection_is_made_anew_for_all_parties(amqp_url: str) -> None:
    guests, lost = [Guest(watches=False), Guest(watches=False)], metric("carillon_broker_lost_total", connection="cut")
    async with Proxy(amqp_url) as proxy:
        link = a_link(proxy.url, "cut")
        for guest in guests:
            link.join(guest)
        async with link:
            await asyncio.wait_for(link.up(), 10)
            assert metric("carillon_broker_connected", connection="cut") == 1
            proxy.cut()
            for guest in guests:
                await guest.has_opened(2)
            await asyncio.wait_for(link.up(), 10)
    assert metric("carillon_broker_lost_total", connection="cut") - lost == 1
    assert metric("carillon_broker_connected", connection="cut") == 0
    assert [guest.closings for guest in guests] == [2, 2]


async def test_a_channel_that_dies_takes_its_connection_along(amqp_url: str) -> None:
    guest, link = Guest(), a_link(amqp_url)
    link.join(guest)
    async with link:
        await guest.has_opened(1)
        await guest.channels[0].close()
        await guest.has_opened(2)
        await asyncio.wait_for(link.up(), 10)


async def test_a_half_open_link_is_found_without_any_traffic(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(connection, "HEARTBEAT_S", 1)
    monkeypatch.setattr(LibraryConnection, "HEARTBEAT_GRACE_MULTIPLIER", 1)
    async with Proxy(amqp_url) as proxy:
        guest, link = Guest(), a_link(proxy.url)
        link.join(guest)
        async with link:
            await asyncio.wait_for(link.up(), 10)
            proxy.freeze()
            await guest.has_opened(2)
            await asyncio.wait_for(link.up(), 10)


async def test_a_link_that_dies_half_open_while_a_party_opens_is_made_anew(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the library raises a bare CancelledError, which must not be taken for the order to end."""
    monkeypatch.setattr(connection, "HEARTBEAT_S", 1)
    monkeypatch.setattr(LibraryConnection, "HEARTBEAT_GRACE_MULTIPLIER", 1)

    class Freezing(Guest):
        async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
            if not tries:
                proxy.freeze()
            tries.append(connection)
            await super().opened(connection, lost)

    tries: list[AbstractConnection] = []
    async with Proxy(amqp_url) as proxy:
        guest, link = Freezing(), a_link(proxy.url)
        link.join(guest)
        async with link:
            await asyncio.wait_for(link.up(), connection.CONNECT_TIMEOUT_S - 1)
            await link.ping()
    assert len(tries) == 2


async def test_a_broker_that_accepts_and_says_nothing_is_given_up_and_tried_again(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.3)
    async with Proxy(amqp_url) as proxy:
        proxy.is_mute = True
        lost = metric("carillon_broker_lost_total", connection="mute")
        link = a_link(proxy.url, "mute")
        async with link:
            await until("a second try", lambda: metric("carillon_broker_lost_total", connection="mute") > lost)
            proxy.is_mute = False
            await asyncio.wait_for(link.up(), 10)


async def test_a_party_that_hangs_while_it_opens_is_given_up_and_tried_again(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.5)

    class Hanging(Guest):
        async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
            await super().opened(connection, lost)
            if len(self.channels) == 1:
                await asyncio.Event().wait()

    guest, link = Hanging(), a_link(amqp_url)
    link.join(guest)
    async with link:
        await asyncio.wait_for(link.up(), 10)
    assert len(guest.channels) == 2


async def test_leaving_at_the_very_moment_a_party_has_opened_ends_the_link(amqp_url: str) -> None:
    """`asyncio.wait_for` of Python 3.11 swallows a cancellation that meets its result."""

    class Telling(Guest):
        def __init__(self) -> None:
            super().__init__()
            self.is_open = asyncio.Event()

        async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
            await super().opened(connection, lost)
            self.is_open.set()

    async def in_and_out(guest: Telling) -> None:
        link = a_link(amqp_url)
        link.join(guest)
        async with link:
            await guest.is_open.wait()

    leaving = asyncio.create_task(in_and_out(Telling()))
    done, _late = await asyncio.wait({leaving}, timeout=5)
    assert done, "the link never noticed that it was left"


async def test_leaving_a_link_closes_its_connection_at_the_broker(amqp_url: str) -> None:
    guest, link = Guest(), Link(amqp_url, "test", Topology((), (), ()))
    link.join(guest)
    async with link:
        await asyncio.wait_for(link.up(), 10)
        assert not guest.channels[0].is_closed
    assert guest.channels[0].is_closed
    assert guest.closings == 1


async def test_asking_a_link_to_stop_is_no_failure(amqp_url: str) -> None:
    stopping = asyncio.Event()
    async with publishing(amqp_url), a_link(amqp_url) as link:
        running = asyncio.create_task(link.run(stopping))
        await asyncio.wait_for(link.up(), 10)
        stopping.set()
        await asyncio.wait_for(running, 5)
