"""From the outbox to a real SMTP server that says yes, says no, is away, or is heard too late."""

import asyncio
from collections.abc import Sequence
from email import message_from_bytes
from email.message import EmailMessage

import pytest

from libs.common.metrics import REGISTRY
from services.mailer.smtp import MailAway, MailRefused, Sent, SmtpServer
from tests.integration.mailer.rig import Mailbox, mailer
from tests.unit.mailer.samples import failed


def mails(outcome: str) -> float:
    return REGISTRY.get_sample_value("carillon_mailer_mails_total", {"outcome": outcome}) or 0.0


def a_mail() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "carillon@example.org"
    message.set_content("text")
    return message


class Watched:
    """The real send, and a signal when it has failed."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self.failures = 0
        self.failed = asyncio.Event()

    async def __call__(self, message: EmailMessage, recipients: Sequence[str]) -> Sent:
        try:
            return await self._server.send(message, recipients)
        except (MailAway, MailRefused):
            self.failures += 1
            self.failed.set()
            raise


async def test_a_mail_waits_on_the_ladder_while_the_server_is_away(broker: str, mailbox: Mailbox) -> None:
    send, before = Watched(mailbox.server), mails("away")
    await mailbox.close()
    async with mailer(broker, send) as made:
        await made.puts(failed(1))
        await made.collects()
        await asyncio.wait_for(send.failed.wait(), 10)
        await mailbox.open()
        await mailbox.has(1)
    assert mails("away") - before == send.failures >= 1


@pytest.mark.parametrize("answer", ["451 try again later", "554 not from you"])
async def test_a_mail_that_is_refused_is_tried_again_until_it_is_taken(
    broker: str, mailbox: Mailbox, answer: str
) -> None:
    mailbox.answer, send = answer, Watched(mailbox.server)
    async with mailer(broker, send) as made:
        await made.puts(failed(1))
        await made.collects()
        while send.failures < 3:  # once more often than the ladder has rungs
            send.failed.clear()
            await asyncio.wait_for(send.failed.wait(), 10)
        mailbox.answer = "250 kept"
        await mailbox.has(1)


async def test_a_mailer_that_dies_before_its_ack_sends_the_same_mail_again(broker: str, mailbox: Mailbox) -> None:
    taken = asyncio.Event()

    async def send_and_hang(message: EmailMessage, recipients: Sequence[str]) -> Sent:
        sent = await mailbox.server.send(message, recipients)
        taken.set()
        await asyncio.Event().wait()
        return sent

    async with mailer(broker, send_and_hang) as made:
        await made.puts(failed(1))
        await made.collects()
        await asyncio.wait_for(taken.wait(), 10)
        made.outbox.cancel()
    async with mailer(broker, mailbox.server.send):
        await mailbox.has(2)
    first, second = mailbox.mails
    assert first == second
    assert message_from_bytes(first)["Message-ID"].endswith("@example.org>")


async def test_starttls_that_is_not_offered_is_not_done_without(mailbox: Mailbox) -> None:
    server = SmtpServer.from_url(f"smtp+starttls://127.0.0.1:{mailbox.port}")
    with pytest.raises((MailAway, MailRefused), match="STARTTLS"):
        await server.send(a_mail(), ["ops@example.org"])
    assert mailbox.mails == []


async def test_a_server_that_nobody_runs_is_away(mailbox: Mailbox) -> None:
    await mailbox.close()
    with pytest.raises(MailAway, match=f"smtp://127.0.0.1:{mailbox.port}"):
        await mailbox.server.send(a_mail(), ["ops@example.org"])
