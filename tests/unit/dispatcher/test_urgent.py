"""Which failures are told at once, and that a flood of them is not."""

from typing import Any, cast

import msgspec

from libs.common.contracts import DigestPage
from libs.common.topology import URGENT_NOTICE, Route
from services.dispatcher.urgent import IN_S, MAILS_MAX, Urgent
from tests.unit.mailer.samples import failed


class FakePublisher:
    def __init__(self) -> None:
        self.pages: list[DigestPage] = []

    async def insist(self, route: Route, item: bytes) -> None:
        assert route == URGENT_NOTICE
        self.pages.append(msgspec.json.decode(item, type=DigestPage))


class HandClock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Urgent, FakePublisher, HandClock]:
    publisher, clock = FakePublisher(), HandClock()
    return Urgent([("severity", "critical"), ("team", "pay")], cast("Any", publisher), clock), publisher, clock


async def test_only_a_task_with_the_label_and_the_value_is_urgent() -> None:
    urgent, publisher, _clock = made()
    for number, labels in enumerate(
        [{}, {"severity": "low"}, {"critical": "severity"}, {"severity": "critical", "a": "b"}, {"team": "pay"}]
    ):
        await urgent.tell(failed(number, labels=labels))
    assert [page.failed[0].id.int for page in publisher.pages] == [3, 4]
    assert all(page.is_urgent and page.number == 1 for page in publisher.pages)


async def test_the_same_failure_is_the_same_mail_and_the_next_life_another() -> None:
    urgent, publisher, _clock = made()
    for generation in (1, 1, 2):
        await urgent.tell(failed(1, labels={"team": "pay"}, generation=generation))
    first, again, other = publisher.pages
    assert first == again
    assert other.id != first.id


async def test_a_flood_is_left_to_the_digest_until_there_is_room_again() -> None:
    urgent, publisher, clock = made()
    for number in range(3 * MAILS_MAX):
        await urgent.tell(failed(number, labels={"team": "pay"}))
    assert len(publisher.pages) == MAILS_MAX
    clock.now += IN_S / MAILS_MAX + 0.001
    for number in range(100, 103):
        await urgent.tell(failed(number, labels={"team": "pay"}))
    assert len(publisher.pages) == MAILS_MAX + 1
