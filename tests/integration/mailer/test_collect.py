"""From the fallback queue to the outbox, on a real broker."""

import asyncio
from collections.abc import Mapping
from email import message_from_bytes
from email.policy import default
from typing import Any

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractConnection

from libs.common.contracts import encode
from libs.common.intake import CAUSE_HEADER, ORIGIN_HEADER
from libs.common.publisher import Publisher
from libs.common.topology import DIGEST_PAGE, FALLBACK, PARKING, Route
from services.mailer.collect import FallbackQueue, Occupied
from tests.integration.mailer.rig import Mailbox, mailer, until
from tests.unit.mailer.samples import failed, notice


async def put_raw(amqp: AbstractConnection, body: bytes) -> None:
    channel = await amqp.channel()
    await channel.default_exchange.publish(Message(body), FALLBACK)


def subjects(mailbox: Mailbox) -> list[str]:
    return [str(message_from_bytes(mail, policy=default)["Subject"]) for mail in mailbox.mails]


async def test_many_entries_are_one_digest(broker: str, mailbox: Mailbox) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(*(failed(number) for number in range(1, 251)), notice())
        assert await made.collects() == 1
        await mailbox.has(1)
    assert subjects(mailbox) == ["Carillon: 250 tasks failed, 1 notice"]
    assert mailbox.recipients == [["ops@example.org"]]


async def test_a_run_that_finds_nothing_sends_nothing(broker: str, mailbox: Mailbox) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        assert await made.fallback.waiting() == 0
        assert await made.fallback.collect(1, asyncio.Event()) == (0, 0)
        await made.puts(notice())
        await made.collects()
        await mailbox.has(1)
    assert subjects(mailbox) == ["Carillon: 1 notice"]


async def test_however_many_fail_alike_it_is_one_mail(broker: str, mailbox: Mailbox) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(*(failed(number) for number in range(1, 1201)))
        assert await made.collects() == 1
        await mailbox.has(1)
        assert await made.fallback.waiting() == 0
    assert subjects(mailbox) == ["Carillon: 1200 tasks failed"]


async def test_notices_that_do_not_fit_are_several_mails(broker: str, mailbox: Mailbox) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(*(notice(number, message=f"{number:4} {'x' * 8_000}") for number in range(12)))
        assert await made.collects() == 3
        await mailbox.has(3)
    assert subjects(mailbox) == [f"Carillon: 4 notices{page}" for page in ("", " (page 2)", " (page 3)")]
    sent = b"".join(mailbox.mails)
    assert all(f"{number:4} xxx".encode() in sent for number in range(12))


async def test_the_next_digest_knows_what_was_in_the_last(broker: str, mailbox: Mailbox) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        for url in ("https://old.example/", "https://new.example/"):
            await made.puts(failed(1, url="https://old.example/"), failed(2, url=url))
            await made.collects()
        await mailbox.has(2)
        last = await made.fallback.last()
        assert last is not None
        assert len(last.causes) == 2
    news = [[line.strip() for line in mail.decode().splitlines() if line.endswith("[new]")] for mail in mailbox.mails]
    assert news == [[], ["1 x failed: new.example: HTTP 503  [new]"]]


async def test_an_empty_run_keeps_what_the_last_digest_had(broker: str, mailbox: Mailbox) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(failed(1))
        await made.collects()
        before = await made.fallback.last()
        await made.fallback.note_empty()
        after = await made.fallback.last()
        assert before is not None
        assert after is not None
        assert after.causes == before.causes
        assert after.collected_at > before.collected_at


async def test_what_arrives_during_a_run_waits_for_the_next(broker: str, mailbox: Mailbox) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(failed(1))
        await made.puts(failed(2))
        await made.waits(2)
        assert await made.collects(messages_max=1) == 1
        assert await made.waits() == 1


async def test_what_cannot_be_read_is_parked_and_the_rest_is_sent(
    broker: str, mailbox: Mailbox, amqp: AbstractConnection
) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        await put_raw(amqp, b"[" + encode(failed(1)) + b',{"type":"Nonsense.1"},' + encode(notice()) + b"]")
        await put_raw(amqp, b"no JSON at all")
        await made.waits(2)
        assert await made.collects() == 1
        await mailbox.has(1)
        assert await made.fallback.waiting() == 0
    assert subjects(mailbox) == ["Carillon: 1 task failed, 1 notice, 2 entries unreadable"]
    parking = await (await amqp.channel()).get_queue(PARKING, ensure=False)
    parked = [await parking.get(no_ack=True, timeout=5) for _ in range(2)]
    assert [message.body for message in parked] == [b'[{"type":"Nonsense.1"}]', b"[no JSON at all]"]
    assert [message.headers[ORIGIN_HEADER] for message in parked] == [FALLBACK, FALLBACK]
    assert str(parked[0].headers[CAUSE_HEADER]).startswith("undecodable: ")
    assert str(parked[1].headers[CAUSE_HEADER]).startswith("not a JSON array: ")


class HeldPublisher(Publisher):
    """A broker that does not confirm: pages stay in the collector's hands."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def insist(
        self, route: Route, item: bytes, headers: Mapping[str, str | int] | None = None, **_unless: Any
    ) -> None:
        assert route == DIGEST_PAGE
        self.asked.set()
        await asyncio.Event().wait()


async def test_a_second_collector_is_refused_while_one_runs(
    broker: str, mailbox: Mailbox, amqp: AbstractConnection
) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(failed(1))
        await made.waits()
        holding = HeldPublisher()
        first = FallbackQueue(holding, made.fallback._clock)
        await first.opened(amqp, asyncio.Event())
        running = asyncio.create_task(first.collect(1, asyncio.Event()))
        await asyncio.wait_for(holding.asked.wait(), 10)
        with pytest.raises(Occupied):
            await made.fallback.collect(1, asyncio.Event())
        assert await made.fallback.waiting() == 0  # its connection lives, and the first still holds the message
        running.cancel()
        await asyncio.wait({running})
        # What was cut off before its page was confirmed is there again, for whoever comes next.
        assert await made.waits() == 1
        assert await made.collects() == 1
        await mailbox.has(1)


async def test_a_stopping_collector_sends_what_it_holds_and_leaves_the_rest(broker: str, mailbox: Mailbox) -> None:
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(failed(1))
        stopping = asyncio.Event()
        stopping.set()
        assert await made.fallback.collect(await made.waits(), stopping) == (0, 0)

        async def is_back() -> bool:
            return await made.fallback.waiting() == 1

        await until("the message to be back", is_back)
