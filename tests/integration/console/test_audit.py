"""The audit log as a page: newest first, by who, what and when, a page at a time."""

import html
import re
from collections.abc import Sequence
from datetime import timedelta

import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from services.ingest.console.audit import PAGE
from services.ingest.console.page import ROOT
from services.ingest.store_audit import AuditStore, AuditWords
from tests.integration.console.conftest import Answer, Rig

NOW = SystemClock().now()


async def done(
    console: Rig, about: str, *, actor: str = "ann", action: str = "task.cancel", outcome: str | None = "done",
    hours_ago: float = 0,
) -> None:  # fmt: skip
    audit, id_ = AuditStore(console.postgres), new_id()
    at = NOW - timedelta(hours=hours_ago)
    await audit.begin(id_, at, actor=actor, project="shop", action=action, address="203.0.113.9")
    if outcome is not None:
        await audit.end(id_, outcome, object_=about, detail={"why": "<b>", "scopes": ["a", "b"]})


def shown(answer: Answer) -> list[str]:
    """What the rows are about."""
    assert answer.status == 200, answer.text
    return re.findall(r'<td class="break">(?:<a href="[^"]*">(.*?)</a>)?', answer.text)


@pytest.fixture
async def rows(console: Rig) -> Sequence[str]:
    await done(console, "one", hours_ago=50)
    await done(console, "two", actor="bob", hours_ago=5)
    await done(console, "three", action="task.redrive", outcome="not_found", hours_ago=3)
    await done(console, "key-1", action="key.create", hours_ago=1)
    await done(console, "", actor="bob", action="key.revoke", outcome=None)
    return ("", "key-1", "three", "two", "one")


async def test_it_is_newest_first_and_says_all_there_is_to_say(console: Rig, rows: Sequence[str]) -> None:
    answer = await (await console.login("admin", "root")).get("/audit")
    assert shown(answer) == list(rows)
    for text in ("ann", "key.create", "not_found", "not known", "203.0.113.9", "shop", "why: &lt;b&gt;; scopes: a b"):
        assert text in answer.text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("who=bob", ["", "two"]),
        ("who=BOB%20", ["", "two"]),
        ("who=bo", []),
        ("action=task.", ["three", "two", "one"]),
        ("action=key.create", ["key-1"]),
        ("about=t", ["three", "two"]),
        ("outcome=done", ["key-1", "two", "one"]),
        ("outcome=other", ["", "three"]),
        ("after=4h", ["", "key-1", "three"]),
        ("before=4h", ["two", "one"]),
        ("after=2d&before=2h&who=ann", ["three"]),
        ("before=2000-01-01", []),
        ("about=%25", []),
        ("who=a%00nn", ["key-1", "three", "one"]),
    ],
)
async def test_it_shows_what_matches_all_that_is_asked(
    console: Rig, rows: Sequence[str], query: str, found: list[str]
) -> None:
    answer = await (await console.login("admin", "root")).get(f"/audit?{query}")
    assert shown(answer) == found
    assert ("Nothing was done that matches." in answer.text) == (not found)


async def test_what_is_no_time_is_told_beside_its_field(console: Rig, rows: Sequence[str]) -> None:
    answer = await (await console.login("admin", "root")).get("/audit?after=yesterday&who=ann")
    assert answer.status == 422
    assert "That is no time" in answer.text
    assert 'value="yesterday"' in answer.text
    assert 'value="ann"' in answer.text


async def test_each_row_is_on_one_page_also_when_more_comes_meanwhile(console: Rig) -> None:
    for number in range(PAGE + 20):
        await done(console, f"{number}", actor="ann" if number % 2 else "bob")
    admin = await console.login("admin", "root")
    first = await admin.get("/audit?action=task.")
    await done(console, "later")
    older = re.search(r'href="([^"]+)" rel="next"', first.text)
    assert older
    second = await admin.get(html.unescape(older[1]).removeprefix(ROOT))
    assert shown(first) + shown(second) == [f"{number}" for number in reversed(range(PAGE + 20))]
    assert 'rel="next"' not in second.text
    assert (await admin.get("/audit?cursor=nonsense")).status == 400


async def test_a_row_that_nobody_ended_is_there_all_the_same(console: Rig) -> None:
    await done(console, "", outcome=None)
    [row] = await AuditStore(console.postgres).page(AuditWords(), None, 10)
    assert (row.outcome, row.about, row.actor) == (None, "", "ann")
