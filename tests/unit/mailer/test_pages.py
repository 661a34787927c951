"""What shares a page: whole messages, no repeats, never too much."""

from libs.common.contracts import DigestPage
from services.mailer.pages import BYTES_MAX, ITEMS_MAX, Batch, Line
from tests.unit.mailer.samples import AT, failed, notice


async def settle() -> None: ...


def lines(first: int, count: int, size: int = 10) -> list[Line]:
    return [Line(failed(number), size) for number in range(first, first + count)]


def pages(*messages: list[Line]) -> list[DigestPage]:
    batch = Batch()
    for message in messages:
        batch.add(message, settle)
    return batch.pages(1, AT)


def test_a_message_that_would_overflow_the_page_has_no_room() -> None:
    batch = Batch()
    batch.add(lines(1, ITEMS_MAX - 1), settle)
    assert batch.has_room_for(lines(1000, 1))
    assert not batch.has_room_for(lines(1000, 2))
    assert not batch.has_room_for(lines(1000, 1, size=BYTES_MAX))


def test_a_message_larger_than_a_page_is_cut() -> None:
    assert Batch().has_room_for(lines(1, ITEMS_MAX + 1))
    assert [(page.number, len(page.failed)) for page in pages(lines(1, ITEMS_MAX + 1))] == [(1, ITEMS_MAX), (2, 1)]
    assert [len(page.failed) for page in pages(lines(1, 3, size=BYTES_MAX // 2))] == [2, 1]


def test_a_page_repeats_no_event() -> None:
    again = [Line(failed(1), 10), Line(failed(1, generation=2), 10), Line(failed(1, state="parked"), 10)]
    [page] = pages(lines(1, 1), again, [Line(notice(1), 10), Line(notice(1), 10)])
    assert [(task.generation, task.state) for task in page.failed] == [(1, "failed"), (2, "failed"), (1, "parked")]
    assert len(page.notices) == 1


def test_what_could_not_be_read_makes_no_page() -> None:
    assert pages([]) == []
