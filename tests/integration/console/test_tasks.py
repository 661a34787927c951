"""The list of tasks: found by words, page by page, live; and nothing of another project, whatever is typed."""

import html
import re
from collections.abc import Sequence
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4

import pytest

from libs.common.contracts import Event, TaskAccepted
from services.ingest.console.page import ROLES, ROOT
from services.ingest.console.tasks import PAGE, SHOWN_MAX
from services.ingest.history import History
from tests.integration.console.conftest import Answer, Rig, Visit
from tests.integration.console.histories import prepared_history
from tests.integration.ingest.list_rows import accepted, became, ids

ROW = re.compile(r'id="task-([0-9a-f-]{36})"')
STATUS = re.compile(r'<td><span class="status [a-z]+">([a-z]+)</span></td>')
OLDER = re.compile(r'rel="next" href="([^"]+)"')
SHOWN = re.compile(r'id="shown" name="shown" value="([^"]*)"')


@pytest.fixture
async def history(console: Rig) -> History:
    return await prepared_history(console.postgres)


def rows(answer: Answer) -> list[UUID]:
    assert answer.status == 200, answer.text
    return [UUID(text) for text in ROW.findall(answer.text)]


async def find(visit: Visit, words: str) -> Answer:
    return await visit.get(f"/tasks?q={quote(words)}")


async def again(visit: Visit, answer: Answer, path: str, selected: Sequence[UUID] = ()) -> Answer:
    """What the page asks for while somebody looks."""
    found = SHOWN.search(answer.text)
    assert found is not None
    query = urlencode([("shown", found[1]), *(("id", str(id_)) for id_ in selected)])
    return await visit.get(f"{path}{'&' if '?' in path else '?'}{query}", headers={"HX-Request": "true"})


async def test_tasks_are_found_by_words_newest_first(console: Rig, history: History) -> None:
    tasks = [accepted(created=second, url=f"https://{host}/x") for second, host in enumerate(["a.b", "c.d", "a.b"])]
    failed = accepted(created=-7_200, url="https://a.b/y", labels={"order": "42"}, schedule="nightly")
    await history.handle([*tasks, failed, *became(failed, "failed")])
    visit = await console.login("viewer")

    assert rows(await visit.get("/tasks")) == [*reversed(ids(tasks)), failed.task.id]
    assert rows(await find(visit, "host:a.b")) == [tasks[2].task.id, tasks[0].task.id, failed.task.id]
    for words in (
        "status:failed host:a.b", "label.order:42", "schedule:nightly", "https://a.b/y", f"id:{failed.task.id}",
        "ended-after:1h", "before:1h", "status:failed,parked after:1d",
    ):  # fmt: skip
        assert rows(await find(visit, words)) == [failed.task.id], words


async def test_a_row_says_what_became_of_its_task(console: Rig, history: History) -> None:
    failed = accepted(created=-400, due=-300, url="https://api.example.com/orders?token=s3cret")
    overdue = accepted(created=-90, due=-60)
    await history.handle([failed, *became(failed, "failed", -298.5), overdue])
    text = (await (await console.login("viewer")).get("/tasks")).text

    for said in ("api.example.com", "/orders?…", "500 server_error", "1.5 s late", "overdue", ">failed<", ">due<"):
        assert said in text
    assert "s3cret" not in text


async def test_how_many_attempts_there_will_be_is_shown_where_the_task_says_so(console: Rig, history: History) -> None:
    own, usual = accepted(ladder=(5, 10)), accepted()
    await history.handle([own, *became(own, "retrying"), usual, *became(usual, "retrying")])
    text = (await (await console.login("viewer")).get("/tasks")).text

    assert re.findall(r'<td class="number"[^>]*>([^<]*)</td>', text) in (["1/3", "1"], ["1", "1/3"])


async def test_an_id_alone_leads_to_its_task(console: Rig) -> None:
    id_ = uuid4()
    answer = await find(await console.login("viewer"), f"  {id_} ")
    assert (answer.status, answer.location) == (303, f"{ROOT}/tasks/{id_}")


async def test_links_lead_from_page_to_page_and_keep_the_words(console: Rig, history: History) -> None:
    tasks = [accepted(created=-second, labels={"a": str(second % 2)}) for second in range(PAGE * 2 + 40)]
    await history.handle(tasks)
    visit = await console.login("viewer")

    seen: list[UUID] = []
    path: str | None = f"/tasks?q={quote('label.a:1 after:1h')}"
    while path:
        answer = await visit.get(path)
        seen += rows(answer)
        assert 'value="label.a:1 after:1h"' in answer.text
        older = OLDER.search(answer.text)
        path = html.unescape(older[1]).removeprefix(ROOT) if older else None
    assert seen == ids(tasks[1::2])


async def test_a_link_of_other_words_is_refused(console: Rig, history: History) -> None:
    await history.handle([accepted(created=-second) for second in range(PAGE + 1)])
    visit = await console.login("viewer")
    older = OLDER.search((await visit.get("/tasks")).text)
    assert older is not None

    answer = await visit.get(html.unescape(older[1]).removeprefix(ROOT) + "&q=status:failed")
    assert answer.status == 400


async def test_a_chip_looks_at_its_status_with_the_other_words(console: Rig) -> None:
    text = (await find(await console.login("viewer"), 'status:failed label.a:"b c"')).text

    assert f'href="{ROOT}/tasks?q=label.a%3A%22b+c%22+status%3Aparked"' in text
    assert f'href="{ROOT}/tasks?q=label.a%3A%22b+c%22" title="no retry' in text  # leaves it out again


async def test_an_empty_list_says_what_to_do_next(console: Rig, history: History) -> None:
    operator, viewer = await console.login("operator"), await console.login("viewer")
    assert f'href="{ROOT}/tasks/new"' in (await operator.get("/tasks")).text
    assert f'href="{ROOT}/tasks/new"' not in (await viewer.get("/tasks")).text

    await history.handle([accepted()])
    assert "No task matches all of these words" in (await find(viewer, "host:nobody")).text


async def test_a_word_that_cannot_be_meant_is_named_and_what_was_typed_kept(console: Rig) -> None:
    answer = await find(await console.login("viewer"), "status:fialed host:a.b")

    assert answer.status == 422
    assert 'value="status:fialed host:a.b"' in answer.text
    assert "there are scheduled, due" in html.unescape(answer.text)


@pytest.mark.parametrize(
    "words",
    [
        "a" * 3_000, "\0", "host:\0", "label.a:\x1b[31m", "\ud800".encode("utf-8", "surrogatepass").decode("latin1"),
        "<script>alert(1)</script>", 'host:"><script>alert(1)</script>', "label.<b>:1", "'; DROP TABLE task; --",
        "status:%", "after:99999999999999d", "id:" + "0" * 36, 'label."', "\u202e",
    ],
)  # fmt: skip
async def test_no_words_break_the_page(console: Rig, words: str) -> None:
    answer = await find(await console.login("viewer"), words)

    assert answer.status in {200, 422}
    assert "<script>alert" not in answer.text
    assert "<b>:1" not in answer.text


async def test_a_search_that_no_address_line_holds_is_refused(console: Rig) -> None:
    assert (await find(await console.login("viewer"), "a" * 10_000)).status == 400


async def test_markup_in_what_strangers_wrote_is_text(console: Rig, history: History) -> None:
    task = accepted(url="https://a.b/<script>alert(1)</script>", labels={"<i>": "<script>alert(2)</script>"})
    await history.handle([task])
    visit = await console.login("operator")

    text = (await visit.get("/tasks")).text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text
    answer = await find(visit, 'label.<i>:"<script>alert(2)</script>"')
    assert rows(answer) == [task.task.id]
    assert "<script>alert" not in answer.text


async def test_a_task_of_another_project_is_never_shown(console: Rig, history: History) -> None:
    mine, theirs = accepted(labels={"a": "1"}, due=36_000), accepted(labels={"a": "1"}, project="other")
    await history.handle([mine, theirs])
    visit = await console.login("operator", projects=["default"])

    for words in ("", "label.a:1", "status:scheduled", "host:example.com", f"id:{theirs.task.id},{mine.task.id}"):
        assert rows(await find(visit, words)) == [mine.task.id]
    answer = await visit.get(f"/tasks?shown={theirs.task.id}&id={theirs.task.id}", headers={"HX-Request": "true"})
    assert rows(answer) == [mine.task.id]


# --- while somebody looks


async def changed(history: History, *tasks: TaskAccepted, state: str) -> None:
    events: list[Event] = [event for task in tasks for event in became(task, state)]
    await history.handle(events)


async def test_a_row_changes_in_place_also_when_it_matches_no_more(console: Rig, history: History) -> None:
    tasks = [accepted(created=-second) for second in range(3)]
    await history.handle([*tasks, *(event for each in tasks for event in became(each, "failed"))])
    visit = await console.login("operator")
    path = "/tasks?q=status:failed"
    page = await visit.get(path)
    redriven = accepted(tasks[1].task.id, created=-1, due=0, generation=2)
    await history.handle([redriven])

    answer = await again(visit, page, path)
    assert rows(answer) == ids(tasks)
    assert [STATUS.findall(each.text) for each in (page, answer)] == [["failed"] * 3, ["failed", "due", "failed"]]


async def test_new_rows_come_to_the_first_page_and_to_no_other(console: Rig, history: History) -> None:
    tasks = [accepted(created=-100 - second) for second in range(PAGE + 5)]
    await history.handle(tasks)
    visit = await console.login("operator")
    first = await visit.get("/tasks")
    older = OLDER.search(first.text)
    assert older is not None
    second_path = html.unescape(older[1]).removeprefix(ROOT)
    second = await visit.get(second_path)
    new = accepted(created=0)
    await history.handle([new])

    assert rows(await again(visit, first, "/tasks")) == [new.task.id, *ids(tasks[:PAGE])]
    assert rows(await again(visit, second, second_path)) == ids(tasks[PAGE:])


async def test_what_is_selected_stays_however_many_come(console: Rig, history: History) -> None:
    tasks = [accepted(created=-100 - second) for second in range(PAGE)]
    await history.handle(tasks)
    visit = await console.login("operator")
    first, chosen = await visit.get("/tasks"), tasks[-1].task.id
    await history.handle([accepted(created=-second) for second in range(SHOWN_MAX)])

    answer = await again(visit, first, "/tasks", [chosen])
    assert len(rows(answer)) == SHOWN_MAX
    assert rows(answer)[-1] == chosen
    assert re.search(rf'value="{chosen}"[^>]* checked', answer.text)


async def test_a_page_asks_for_itself_and_not_for_what_was_selected_before(console: Rig, history: History) -> None:
    await history.handle([accepted()])
    visit = await console.login("operator")
    path = "/tasks?q=status:scheduled"
    answer = await again(visit, await visit.get(path), path, [uuid4()])
    assert f'hx-get="{ROOT}/tasks?q=status%3Ascheduled"' in answer.text


@pytest.mark.parametrize("query", ["shown=x", "shown=&id=x", "shown=" + ".".join([str(UUID(int=7))] * 3 + ["y"])])
async def test_ids_that_are_none_are_refused(console: Rig, query: str) -> None:
    assert (await (await console.login("viewer")).get(f"/tasks?{query}")).status == 400


async def test_who_may_only_look_is_offered_no_action(console: Rig, history: History) -> None:
    await history.handle([accepted()])
    offered = {role: (await (await console.login(role)).get("/tasks")).text for role in ROLES}
    assert 'type="checkbox"' not in offered["viewer"]
    assert ">Redrive<" not in offered["viewer"]
    assert ">Redrive<" in offered["operator"]
    assert (">Purge<" in offered["operator"], ">Purge<" in offered["admin"]) == (False, True)
