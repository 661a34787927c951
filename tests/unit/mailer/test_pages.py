"""What a run has taken as pages: counted, bounded, each entry once, for who reads of it."""

from datetime import timedelta
from uuid import UUID

import pytest

from libs.common.contracts import DigestPage, FallbackEntry, NoticeTally, encode
from libs.common.digest.tally import GROUPS_MAX, groups_of
from libs.common.topology import MIB
from services.mailer import pages as pages_module
from services.mailer.pages import CAUSES_MAX, PAGES_MAX, SUBJECTS_MAX, Gathering
from tests.unit.mailer.samples import AT, failed, notice


def gathered(*entries: FallbackEntry, routes: dict[str, tuple[str, ...]] | None = None) -> Gathering:
    gathering = Gathering(routes or {})
    gathering.add(entries)
    return gathering


def pages(*entries: FallbackEntry) -> list[DigestPage]:
    return gathered(*entries).pages(AT, None)


def test_failures_alike_are_one_line_with_their_number() -> None:
    [page] = pages(*(failed(n, failed_at=AT + timedelta(seconds=n)) for n in range(1, 1201)))
    [task], [tally] = page.failed, page.tallies
    assert (tally.count, tally.first_at, tally.last_at) == (
        1200,
        AT + timedelta(seconds=1),
        AT + timedelta(seconds=1200),
    )
    assert task.id == UUID(int=1200), "the newest"


def test_a_run_repeats_no_event() -> None:
    [page] = pages(
        failed(1), failed(1), failed(1, generation=2), failed(1, state="parked"), notice(1), notice(1), failed(2)
    )
    assert {group.cause.state: group.count for group in groups_of(page)} == {"failed": 3, "parked": 1}
    assert len(page.notices) == 1


def test_of_many_causes_the_worst_are_shown_and_the_rest_is_counted() -> None:
    many = [failed(n, url=f"https://{n}.example/") for n in range(GROUPS_MAX + 50)]
    worst = [failed(9_000 + n, url="https://7.example/") for n in range(5)]
    [page] = pages(*many, *worst)
    assert len(page.failed) == CAUSES_MAX
    assert (page.failed[0].url, page.tallies[0].count) == ("https://7.example/", 6)
    assert sum(tally.count for tally in page.tallies) + page.failed_more == GROUPS_MAX + 50 + 5


def test_a_page_stays_small_whatever_its_tasks_are_like() -> None:
    big = {"labels": {f"{n}": "x" * 200 for n in range(16)}, "error_detail": "y" * 8_000}
    [page] = pages(*(failed(n, url=f"https://{n}.example/{'z' * 1900}", **big) for n in range(CAUSES_MAX)))
    assert len(encode(page)) < MIB


def test_notices_stand_in_full_on_as_many_pages_as_they_need() -> None:
    made = pages(*(notice(n, message="x" * 8_000) for n in range(20)), failed(1))
    assert [page.number for page in made] == list(range(1, len(made) + 1))
    assert [entry.id.int for page in made for entry in page.notices] == list(range(20))
    assert [len(page.failed) for page in made] == [1] + [0] * (len(made) - 1)
    assert max(len(page.notices) for page in made) == 4


def test_notices_beyond_the_last_page_are_counted_by_subject() -> None:
    full = [notice(n, message="x" * 30_000) for n in range(4 * PAGES_MAX)]
    rest = [notice(1000 + n, subject=f"s{n}", message="x" * 30_000) for n in range(SUBJECTS_MAX + 7)]
    made = pages(*full, *rest)
    assert len(made) == PAGES_MAX
    shown = sum(len(page.notices) for page in made)
    counted = {tally.subject: tally.count for tally in made[0].notice_tallies}
    assert counted["Disk"] == len(full) - shown
    assert len(counted) == SUBJECTS_MAX
    assert shown + sum(counted.values()) + made[0].notices_more == len(full) + len(rest)
    assert NoticeTally(project="shop", subject="s0", count=1) in made[0].notice_tallies


def test_each_project_has_its_readers_and_the_others_the_rest() -> None:
    gathering = gathered(
        failed(1),
        failed(2, project="bank"),
        notice(3),
        routes={"bank": ("bank@example.org",), "idle": ("idle@example.org",)},
    )
    gathering.unreadable = 2
    made = {page.recipients: page for page in gathering.pages(AT, None)}
    assert set(made) == {(), ("bank@example.org",)}
    assert [task.project for task in made["bank@example.org",].failed] == ["bank"]
    assert (made["bank@example.org",].unreadable, made[()].unreadable) == (0, 2)


def test_what_could_not_be_read_is_told_even_alone() -> None:
    gathering = gathered()
    assert gathering.pages(AT, None) == []
    gathering.unreadable = 1
    [page] = gathering.pages(AT, None)
    assert (page.unreadable, page.failed, page.notices) == (1, (), ())


def test_new_is_what_the_digest_before_did_not_have() -> None:
    before = gathered(failed(1), failed(2, url="https://old.example/")).causes()
    now = gathered(failed(3), failed(4, url="https://new.example/"))
    [page] = now.pages(AT, frozenset(before))
    assert {group.cause.host: group.is_new for group in groups_of(page)} == {
        "shop.example.com": False,
        "new.example": True,
    }
    [unknown] = now.pages(AT, None)
    assert not any(tally.is_new for tally in unknown.tallies), "nobody knows"


def test_repeats_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "SEEN_MAX", 10)
    gathering = gathered(*(failed(n) for n in range(100)))
    assert len(gathering._seen) == 10
    gathering.add([failed(99)])
    [page] = gathering.pages(AT, None)
    assert page.tallies[0].count == 100
