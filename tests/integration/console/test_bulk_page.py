"""Commands for many tasks from the console: counted first, begun once, worked off whoever looks, shown to their own."""

import asyncio
import html
import re
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest

from libs.common.contracts import CreateTask, Event, TaskAccepted
from libs.common.ids import new_id
from services.ingest.bulk import BulkWorker, actions
from services.ingest.bulk_command import for_action
from services.ingest.console.bulk_pages import progress
from services.ingest.console.page import ROOT
from services.ingest.history import History
from services.ingest.store import Store
from services.ingest.store_bulk import Bulk, BulkStore, Tally
from services.ingest.store_lists import Lists
from services.ingest.store_purge import PurgeStore
from services.ingest.task_commands import TaskCommands
from services.ingest.task_filter import TaskFilter
from tests.integration.console.conftest import Answer, Rig, Visit
from tests.integration.console.histories import prepared_history
from tests.integration.ingest.list_rows import NOW, accepted, became, ids

FIELD = re.compile(r'<input type="hidden" name="(once|words)" value="([^"]*)"')
TITLE = re.compile(r"<h1>\s*(.*?)\s*</h1>", re.DOTALL)


@pytest.fixture
async def history(console: Rig) -> History:
    return await prepared_history(console.postgres)


@pytest.fixture
def bulks(console: Rig) -> BulkStore:
    return BulkStore(console.postgres)


@pytest.fixture
def worker(console: Rig, bulks: BulkStore) -> BulkWorker:
    parts = console.parts
    tasks = TaskCommands(parts.commands, parts.publisher, Store(parts.postgres), parts.clock)
    return BulkWorker(bulks, Lists(parts.postgres), actions(tasks, PurgeStore(parts.postgres)), parts.clock)


async def to_the_end(worker: BulkWorker) -> None:
    async with asyncio.timeout(30):
        while await worker.one_step(asyncio.Event()):
            pass


async def failed(history: History, count: int, **more: object) -> list[TaskAccepted]:
    tasks = [accepted(created=-100 - number, **more) for number in range(count)]  # type: ignore[arg-type]
    events: list[Event] = [*tasks, *(event for task in tasks for event in became(task, "failed"))]
    await history.handle(events)
    return tasks


async def ask(
    visit: Visit, action: str, words: str = "", selected: Sequence[UUID] = (), *, is_all: bool = True
) -> Answer:
    query = [("q", words), *(("id", str(id_)) for id_ in selected)]
    if is_all and not selected:
        query.append(("all", "1"))
    return await visit.get(f"/bulk/{action}?{urlencode(query)}")


def form_of(answer: Answer) -> dict[str, str]:
    assert answer.status == 200, answer.text
    return {name: html.unescape(value) for name, value in FIELD.findall(answer.text)}


def title(answer: Answer) -> str:
    found = TITLE.search(answer.text)
    assert found is not None
    return " ".join(found[1].split())


async def begun(visit: Visit, action: str, answer: Answer) -> Answer:
    """The page of the command that the form begins."""
    return await visit.follow(await visit.post(f"/bulk/{action}", form_of(answer)))


def sent(console: Rig) -> set[UUID]:
    """The tasks that were redriven."""
    return {each.task.id for _route, each in console.broker.published if isinstance(each, CreateTask)}


async def only(bulks: BulkStore) -> Bulk:
    [bulk] = await bulks.recent("default")
    return bulk


async def test_the_count_is_shown_before_anything_is_done_and_what_is_left_alone_with_why(
    console: Rig, history: History, bulks: BulkStore
) -> None:
    await failed(history, 3, labels={"a": "1"})
    await failed(history, 1, labels={"a": "2"})
    others = [accepted(labels={"a": "1"}, due=36_000) for _ in range(2)]
    await history.handle([*others, *became(others[0], "succeeded")])
    answer = await ask(await console.login("operator"), "redrive", "label.a:1")

    assert title(answer) == "Redrive 3 tasks?"
    assert re.search(r">succeeded</span></td><td class=\"number\">1</td><td>has succeeded<", answer.text)
    assert re.search(r">scheduled</span></td><td class=\"number\">1</td><td>is still to be called<", answer.text)
    assert form_of(answer)["words"] == "status:failed label.a:1"
    assert await bulks.recent("default") == []


async def test_all_that_match_are_redriven_also_when_the_page_is_left(
    console: Rig, history: History, bulks: BulkStore, worker: BulkWorker
) -> None:
    wanted, others = await failed(history, 130, labels={"a": "1"}), await failed(history, 2)
    visit = await console.login("operator", "anna")
    page = await begun(visit, "redrive", await ask(visit, "redrive", "status:failed label.a:1 after:1d"))
    assert title(page) == "Redrive 130 tasks"
    await visit.post("/logout")

    await to_the_end(worker)
    assert sent(console) == set(ids(wanted))
    assert not sent(console) & set(ids(others))
    bulk = await only(bulks)
    assert (bulk.done, bulk.submitted_by, bulk.finished_at is None) == (130, "user:anna", False)
    shown = await (await console.login("viewer")).get(f"/bulk/{bulk.id}")
    assert "130 redriven" in shown.text
    assert "anna" in shown.text
    assert "every 2s" not in shown.text


async def test_only_the_selected_tasks_are_done(
    console: Rig, history: History, bulks: BulkStore, worker: BulkWorker
) -> None:
    tasks = await failed(history, 5)
    chosen = [tasks[1].task.id, tasks[3].task.id]
    visit = await console.login("operator")
    answer = await ask(visit, "redrive", "status:failed", chosen)
    assert title(answer) == "Redrive 2 tasks?"

    await begun(visit, "redrive", answer)
    await to_the_end(worker)
    assert sent(console) == set(chosen)
    assert "2 selected" in (await visit.get("/bulk")).text


async def test_a_selected_task_that_cannot_be_done_is_named_by_its_status(console: Rig, history: History) -> None:
    [task] = await failed(history, 1)
    visit = await console.login("operator")
    answer = await ask(visit, "cancel", selected=[task.task.id])

    assert title(answer) == "Nothing to cancel"
    assert "has ended" in answer.text
    assert form_of(answer) == {}


async def test_who_names_tasks_one_by_one_means_also_those_that_are_done_only_when_asked_for(
    console: Rig, history: History
) -> None:
    task = accepted()
    await history.handle([task, *became(task, "expired")])
    visit = await console.login("operator")

    assert title(await ask(visit, "redrive", selected=[task.task.id])) == "Redrive 1 task?"
    by_words = await ask(visit, "redrive", "after:1d")
    assert title(by_words) == "Nothing to redrive"
    assert "add status:expired" in by_words.text
    assert title(await ask(visit, "redrive", "status:expired")) == "Redrive 1 task?"


async def test_a_form_that_is_sent_twice_begins_one_command(console: Rig, history: History, bulks: BulkStore) -> None:
    await failed(history, 3)
    visit = await console.login("operator")
    form = form_of(await ask(visit, "redrive", "status:failed"))

    answers = await asyncio.gather(*(visit.post("/bulk/redrive", form) for _ in range(4)))
    again = await visit.post("/bulk/redrive", form)
    assert {(each.status, each.location) for each in [*answers, again]} == {(303, f"{ROOT}/bulk/{form['once']}")}
    assert (await only(bulks)).id == UUID(form["once"])


async def test_what_was_counted_is_what_is_done_however_long_somebody_reads(console: Rig, history: History) -> None:
    form = form_of(await _with_one(console, history))
    assert re.fullmatch(r"status:failed after:\d{4}-\d\d-\d\dT[\d:.]+Z", form["words"])


async def _with_one(console: Rig, history: History) -> Answer:
    await failed(history, 1)
    return await ask(await console.login("operator"), "redrive", "after:1h")


@pytest.mark.parametrize(
    "change",
    [
        {"words": ""}, {"words": "host:a.b"}, {"words": "status:succeeded"}, {"words": "status:failed,scheduled"},
        {"words": "nonsense"}, {"words": "status:failed " + "a" * 30_000}, {"once": ""}, {"once": "x"},
        {"once": str(uuid4())},
    ],
)  # fmt: skip
async def test_a_form_that_was_tampered_with_begins_nothing(
    console: Rig, history: History, bulks: BulkStore, change: dict[str, str]
) -> None:
    form = form_of(await _with_one(console, history))
    visit = await console.login("operator")
    assert (await visit.post("/bulk/redrive", form | change)).status == 422
    assert await bulks.recent("default") == []


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("all=0", 400), ("id=x", 400), ("all=1&q=nonsense", 400), ("&".join([f"id={new_id()}"] * 3), 200)],
)
async def test_what_is_asked_without_saying_of_which_tasks_is_refused(console: Rig, query: str, status: int) -> None:
    assert (await (await console.login("operator")).get(f"/bulk/redrive?{query}")).status == status


async def test_no_words_at_all_are_every_task_and_it_says_so(console: Rig, history: History) -> None:
    await failed(history, 2)
    answer = await ask(await console.login("operator"), "redrive")
    assert title(answer) == "Redrive 2 tasks?"
    assert "every task of project default" in answer.text


async def test_only_an_admin_purges(console: Rig, history: History, worker: BulkWorker) -> None:
    [task] = await failed(history, 1)
    operator, admin = await console.login("operator"), await console.login("admin")
    answer = await ask(admin, "purge", "status:failed")
    assert (await ask(operator, "purge", "status:failed")).status == 403
    assert (await operator.post("/bulk/purge", form_of(answer))).status == 403

    await begun(admin, "purge", answer)
    await to_the_end(worker)
    stored = await Store(console.postgres).task("default", task.task.id)
    assert stored is not None
    assert not stored.has_payload


async def test_what_is_of_another_project_is_neither_counted_nor_shown_nor_taken_over(
    console: Rig, history: History, bulks: BulkStore
) -> None:
    mine, theirs = await failed(history, 1), await failed(history, 2, project="other")
    foreign = Bulk(new_id(), "other", "redrive", TaskFilter(status=("failed",)), 2, True, NOW, "user:bert")
    await bulks.add(foreign)
    visit = await console.login("operator", projects=["default"])

    assert title(await ask(visit, "redrive", "status:failed")) == "Redrive 1 task?"
    answer = await ask(visit, "redrive", selected=ids([*mine, *theirs]))
    assert title(answer) == "Redrive 1 task?"
    assert (await visit.get(f"/bulk/{foreign.id}")).status == 404
    assert str(foreign.id) not in (await visit.get("/bulk")).text
    taken = await visit.post("/bulk/redrive", form_of(answer) | {"once": str(foreign.id)})
    assert (await visit.follow(taken)).status == 404
    assert await bulks.show("other", foreign.id) == foreign._replace(leased_until=None)
    assert (await visit.get("/bulk/nonsense")).status == 404


async def test_who_began_it_and_how_many_stands_in_the_audit_log(console: Rig, history: History) -> None:
    await failed(history, 2)
    visit = await console.login("operator", "anna")
    form = form_of(await ask(visit, "redrive", "status:failed"))
    await visit.post("/bulk/redrive", form)

    [row] = [each for each in await console.audit() if each["action"] == "tasks.redrive"]
    assert (row["actor"], row["object"], row["outcome"]) == ("anna", form["once"], "done")
    assert '"matched":2' in str(row["detail"]).replace(" ", "")


async def test_markup_in_words_and_names_is_text(console: Rig, history: History, bulks: BulkStore) -> None:
    await failed(history, 1, labels={"<i>": "<script>"})
    visit = await console.login("operator", "<b>anna")
    page = await begun(visit, "redrive", await ask(visit, "redrive", 'label.<i>:"<script>"'))
    for text in (page.text, (await visit.get("/bulk")).text):
        assert "&lt;script&gt;" in text
        assert "<b>anna" not in text
        assert "<i>" not in text


# --- how far it is


def bulk_of(**values: object) -> Bulk:
    of = Bulk(new_id(), "default", "cancel", TaskFilter(status=("due",)), 200, True, NOW, "user:anna")
    return of._replace(**values)  # type: ignore[arg-type]


def test_progress_is_by_what_was_looked_at_and_the_rate_says_what_is_left() -> None:
    shown = progress(bulk_of(done=40, left_alone=8, unknown=2), NOW + timedelta(seconds=10))
    assert (shown.looked_at, shown.percent, shown.per_s, shown.left_s) == (50, 25, 5.0, 30.0)


def test_it_is_never_whole_before_it_has_ended_nor_less_after() -> None:
    later = NOW + timedelta(seconds=10)
    assert progress(bulk_of(done=500), later).percent == 99
    assert progress(bulk_of(done=3, finished_at=later), later + timedelta(days=1)).percent == 100
    assert progress(bulk_of(done=30, finished_at=later), later + timedelta(days=1)).per_s == 3.0


def test_of_a_count_that_is_a_lower_bound_no_share_and_no_end_is_told() -> None:
    shown = progress(bulk_of(is_exact=False, done=50), NOW + timedelta(seconds=10))
    assert (shown.percent, shown.left_s, shown.per_s) == (None, None, 5.0)


def test_a_key_that_began_it_is_named_as_one() -> None:
    assert progress(bulk_of(submitted_by="a1b2"), NOW).by == "API key a1b2"
    assert progress(bulk_of(), NOW).by == "anna"


async def test_a_command_under_way_asks_for_itself_with_and_without_script(console: Rig, bulks: BulkStore) -> None:
    bulk = bulk_of()
    await bulks.add(bulk)
    claimed = await bulks.claim()
    assert claimed is not None
    await bulks.step(claimed, None, Tally(done=50), is_over=False)
    answer = await (await console.login("viewer")).get(f"/bulk/{bulk.id}")

    assert 'hx-trigger="every 2s"' in answer.text
    assert '<noscript><meta http-equiv="refresh"' in answer.text
    assert 'value="25"' in answer.text
    assert "25 % done" in answer.text


def test_a_filter_without_a_status_that_the_action_is_for_is_no_filter_at_all() -> None:
    with pytest.raises(ValueError, match="nothing to redrive"):
        for_action(TaskFilter(status=("succeeded",)), "redrive")
