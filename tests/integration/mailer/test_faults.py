"""Every entry is in a mail that the server took, whatever it does, and one who cannot be served stops nobody."""

from collections import Counter

import pytest

from libs.common.digest.render import Letterhead
from libs.common.metrics import REGISTRY
from services.mailer.outbox import LOGIN_PAUSE_S
from tests.integration.mailer.rig import Mailbox, mailer, until
from tests.unit.mailer.samples import failed

OPS, BOSS, GONE = "ops@example.org", "boss@example.org", "gone@example.org"
LETTERHEAD = Letterhead("carillon@example.org", (OPS, BOSS, GONE))


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"carillon_mailer_{name}", labels) or 0.0


class HandClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_one_recipient_who_is_refused_for_good_is_dropped_with_an_alarm(broker: str, mailbox: Mailbox) -> None:
    mailbox.refusals[GONE] = "550 no such user"
    before = metric("recipients_dropped_total")
    async with mailer(broker, mailbox.server.send, letterhead=LETTERHEAD) as made:
        await made.puts(failed(1))
        await made.collects()
        await mailbox.has(1)
        await made.puts(failed(2))
        await made.collects()
        await mailbox.has(2)
    assert mailbox.recipients == [[OPS, BOSS]] * 2
    assert metric("recipients_dropped_total") == before + 2


async def test_one_who_is_put_off_gets_the_same_mail_later_and_the_others_not_again(
    broker: str, mailbox: Mailbox
) -> None:
    mailbox.refusals[BOSS] = "451 greylisted"
    async with mailer(broker, mailbox.server.send, letterhead=LETTERHEAD) as made:
        await made.puts(failed(1))
        await made.collects()
        await mailbox.has(1)
        del mailbox.refusals[BOSS]
        await mailbox.has(2)
    assert mailbox.recipients == [[OPS, GONE], [BOSS]]
    assert len(set(mailbox.ids())) == 1


async def test_when_all_are_refused_the_mail_is_kept_until_somebody_mends_it(broker: str, mailbox: Mailbox) -> None:
    mailbox.refusals = dict.fromkeys((OPS, BOSS, GONE), "550 not from you")
    before = metric("mails_total", outcome="refused")
    async with mailer(broker, mailbox.server.send, letterhead=LETTERHEAD) as made:
        await made.puts(failed(1))
        await made.collects()

        async def is_refused() -> bool:
            return metric("mails_total", outcome="refused") >= before + 2

        await until("it to be refused twice", is_refused)
        mailbox.refusals.clear()
        await mailbox.has(1)
    assert mailbox.recipients == [[OPS, BOSS, GONE]]


async def test_a_server_that_hangs_up_after_the_mail_gets_the_same_mail_again(broker: str, mailbox: Mailbox) -> None:
    async def hang_up() -> None:
        mailbox.before_answer = None
        raise ConnectionResetError

    mailbox.before_answer = hang_up
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(failed(1))
        await made.collects()
        await mailbox.has(2)
    assert mailbox.mails[0] == mailbox.mails[1]


async def test_a_slow_server_is_waited_for(broker: str, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.mailer.smtp.TRANSFER_S", 0.3)
    waits = Counter[str]()

    async def dawdle() -> None:
        waits["all"] += 1
        if waits["all"] < 3:
            before = metric("mails_total", outcome="away")

            async def has_hung_up() -> bool:
                return metric("mails_total", outcome="away") > before

            await until("the mailer to hang up", has_hung_up)

    mailbox.before_answer = dawdle
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(failed(1))
        await made.collects()
        await mailbox.has(3)
    assert len(set(mailbox.ids())) == 1, "two were given up on, and are the same mail"


async def test_a_wrong_password_is_not_tried_again_before_its_pause_is_over(broker: str, mailbox: Mailbox) -> None:
    mailbox.password, clock = "another", HandClock()
    paused = metric("mails_total", outcome="paused")
    async with mailer(broker, mailbox.server.send, monotonic=clock) as made:
        await made.puts(failed(1))
        await made.collects()

        async def has_come_back_thrice() -> bool:
            return metric("mails_total", outcome="paused") >= paused + 3

        await until("the page to have come back in the pause", has_come_back_thrice)
        assert mailbox.logins <= 2  # by two mechanisms, in the one session
        assert metric("login_refused") == 1
        mailbox.password, clock.now = "secret", clock.now + LOGIN_PAUSE_S
        await mailbox.has(1)
    assert metric("login_refused") == 0
    assert metric("last_sent_timestamp_seconds") > 0


async def test_a_page_that_cannot_be_rendered_is_sent_as_numbers(
    broker: str, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("services.mailer.outbox.render", broken)
    async with mailer(broker, mailbox.server.send) as made:
        await made.puts(failed(1))
        await made.collects()
        await mailbox.has(1)
    assert b"Subject: Carillon: 1 task failed" in mailbox.mails[0]
