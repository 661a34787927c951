"""Insisting on a batch: what the broker did not confirm at once is published again, and nothing else is."""

from collections.abc import Sequence

from libs.common.publisher import NotPublished, Publisher, PublishUnknown, Refused
from libs.common.topology import TASK_EVENT, Route

A, B, C = b'"a"', b'"b"', b'"c"'


class Forgetful(Publisher):
    """A broker that refuses B and never answers for C; singly it takes an item the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.singly: list[bytes] = []

    async def publish_many(
        self, route: Route, items: Sequence[bytes], *, within_s: float = 5.0
    ) -> list[NotPublished | None]:
        answers = {A: None, B: Refused("full"), C: PublishUnknown("no answer")}
        return [answers[item] for item in items]

    async def publish(self, route: Route, item: bytes) -> None:
        self.singly.append(item)
        if self.singly.count(item) < 2:
            raise PublishUnknown("no answer")


async def test_what_was_not_confirmed_is_published_until_it_is() -> None:
    publisher = Forgetful()

    await publisher.insist_many(TASK_EVENT, [A, B, C])

    assert sorted(publisher.singly) == [B, B, C, C]


async def test_a_batch_that_is_confirmed_is_not_published_again() -> None:
    publisher = Forgetful()

    await publisher.insist_many(TASK_EVENT, [A, A])

    assert publisher.singly == []
