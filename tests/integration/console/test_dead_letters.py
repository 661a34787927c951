"""Dead letters: by cause, looked at without harm, back to where they failed or gone for a reason, one or thousands."""

import re
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import msgspec
import pytest

from libs.common.clock import SystemClock, ceil_to_ms
from libs.common.contracts import Call, CreateTask, Task, encode
from libs.common.publisher import NotPublished
from libs.common.topology import CREATE
from services.ingest.clearing import PAGE, ClearingWorker
from services.ingest.console.page import Role
from services.ingest.parking import parts
from services.ingest.store import Store
from services.ingest.store_dead_letters import ClearingStore, cause_digest
from services.ingest.stored import ParkedMessage
from tests.integration.console.conftest import Answer, Rig, Visit

NOW = ceil_to_ms(SystemClock().now()) - timedelta(minutes=5)
ORIGIN, CAUSE = "scheduler.tasks", "crashed 5 times: KeyError"
DIGEST = cause_digest(ORIGIN, CAUSE)
HOSTILE = '<script>alert("1")</script>\x00\x1b[31m\u202edlrow</td>'
TOP = "/dead-letters"


def item(project: str = "default", headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    call = msgspec.Raw(encode(Call(url="https://example.com/", headers=headers, body=b"{}")))
    task = Task(id=uuid4(), project=project, generation=1, created_at=NOW, due_at=NOW, fingerprint="f", call=call)
    return encode(CreateTask(task=task))


async def park(
    console: Rig,
    name: str,
    body: bytes | None = None,
    *,
    project: str = "default",
    origin: str = ORIGIN,
    cause: str = CAUSE,
    headers: bytes = b"{}",
    at: datetime = NOW,
) -> None:
    raw = b"[" + item(project) + b"]" if body is None else body
    for part in parts(ParkedMessage(name, origin, cause, 5, headers, raw)):
        await Store(console.postgres).park(part._replace(cause=part.cause.replace("\0", "\ufffd")), at)


async def park_many(console: Rig, count: int, body: bytes | None = None) -> None:
    async with console.postgres.acquire() as connection:
        await connection.execute(
            "INSERT INTO parked (message_id, parked_at, origin, cause, crashes, headers, body, project)"
            " SELECT 'many-' || n, $1::timestamptz + n * interval '1 ms', $2, $3, 5, '{}', $4, $5"
            " FROM generate_series(1, $6) AS n",
            NOW, ORIGIN, CAUSE, body or b"[" + item() + b"]", "default", count,
        )  # fmt: skip


async def left(console: Rig) -> list[str]:
    async with console.postgres.acquire() as connection:
        return [record[0] for record in await connection.fetch("SELECT message_id FROM parked ORDER BY 1")]


async def look(visit: Visit, name: str) -> Answer:
    return await visit.get(f"{TOP}/message?id={name}")


async def work(console: Rig) -> ClearingWorker:
    """All of it, to its end."""
    worker = ClearingWorker(ClearingStore(console.postgres), console.parts.publisher)
    while await worker.one_step():
        pass
    return worker


async def test_messages_stand_together_by_cause_and_origin_the_largest_first(console: Rig) -> None:
    await park(console, "one", cause="rare")
    for number in range(2):
        await park(console, f"two-{number}")
    await park(console, "else", origin="ingest.history")

    page = (await (await console.login("viewer")).get(TOP)).text

    rows = re.findall(r'<td class="number">(\d+)</td>.*?">([^<]*)</a>.*?<code>([^<]*)</code>', page, re.DOTALL)
    assert rows[0] == ("2", CAUSE, ORIGIN)
    assert sorted(rows[1:]) == [("1", CAUSE, "ingest.history"), ("1", "rare", ORIGIN)]


async def test_nothing_parked_is_said(console: Rig) -> None:
    assert "Nothing is parked." in (await (await console.login("viewer")).get(TOP)).text


async def test_messages_of_no_project_are_for_those_who_may_see_all(console: Rig) -> None:
    await park(console, "garbage", b"\xff\xfe", cause="undecodable")
    digest = cause_digest(ORIGIN, "undecodable")
    boss, clerk = await console.login("operator"), await console.login("operator", projects=["default"])

    assert "undecodable" in (await boss.get(TOP)).text
    assert (await look(boss, "garbage")).status == 200
    assert (await boss.get(f"{TOP}/cause/{digest}?nobodys=yes")).status == 200
    assert "undecodable" not in (await clerk.get(TOP)).text
    assert (await look(clerk, "garbage")).status == 404
    assert (await clerk.get(f"{TOP}/cause/{digest}?nobodys=yes")).status == 404
    for verb in ("drop", "redrive"):
        await clerk.post(f"{TOP}/{verb}", {"id": "garbage", "reason": "mine now"})
        fields = {"nobodys": "yes", "reason": "mine now"}
        assert (await clerk.post(f"{TOP}/cause/{digest}/{verb}", fields)).status == 404
    assert await left(console) == ["garbage"]


@pytest.mark.parametrize("owner", ["default", "nobody"])
async def test_a_cause_of_a_project_and_the_same_of_nobody_are_two(console: Rig, owner: str) -> None:
    await park_many(console, 3)
    await park(console, "nobodys", b"{}")
    await park(console, "theirs", project="other")
    visit = await console.login("operator", projects=["default"] if owner == "default" else [])
    fields = {} if owner == "default" else {"nobodys": "yes"}

    page = (await visit.get(f"{TOP}/cause/{DIGEST}?nobodys={fields.get('nobodys', 'no')}")).text
    await clear(visit, "drop", **fields)
    await work(console)

    mine = ["many-1", "many-2", "many-3"]
    assert f"Drop all {3 if owner == 'default' else 1}<" in page
    assert sorted(re.findall(r'name="id" value="([^"]+)"', page)) == (mine if owner == "default" else ["nobodys"])
    assert await left(console) == (["nobodys", "theirs"] if owner == "default" else [*mine, "theirs"])


async def test_messages_of_another_project_are_not_there(console: Rig) -> None:
    await park(console, "theirs", project="other")
    visit = await console.login("operator", projects=["default"])

    assert "Nothing is parked." in (await visit.get(TOP)).text
    assert (await look(visit, "theirs")).status == 404
    assert (await visit.get(f"{TOP}/cause/{DIGEST}")).status == 404
    await visit.post(f"{TOP}/drop", {"id": "theirs", "reason": "mine now"})
    for verb in ("drop", "redrive"):
        assert (await visit.post(f"{TOP}/cause/{DIGEST}/{verb}", {"reason": "mine now"})).status == 404
    await work(console)
    assert await left(console) == ["theirs"]


async def test_pages_of_a_cause_follow_each_other(console: Rig) -> None:
    await park_many(console, 120)
    visit = await console.login("viewer")

    seen, path = [], f"{TOP}/cause/{DIGEST}"
    for _ in range(3):
        page = (await visit.get(path)).text
        seen += re.findall(r'name="id" value="([^"]+)"', page)
        more = re.search(r'href="/console([^"]+)">Older', page)
        path = more[1].replace("&amp;", "&") if more else ""

    assert path == ""
    assert seen == [f"many-{number}" for number in range(120, 0, -1)]


async def test_a_body_is_set_out_and_its_secret_headers_are_hidden(console: Rig) -> None:
    body = b"[" + item(headers=(("Authorization", "Bearer hush"), ("X-Order", "42"))) + b"]"
    await park(console, "m", body, headers=b'{"x-token": "hush", "x-crashes": 5}')

    page = (await look(await console.login("viewer"), "m")).text

    assert "hush" not in page
    assert "values of secret headers are hidden: 1" in page
    assert "X-Order" in page
    assert "JSON" in page
    assert "<code>x-crashes</code></dt><dd><code>5</code>" in page


@pytest.mark.parametrize("body", [HOSTILE.encode(), b"\x00\xff\xfe" * 40, b"[" * 9999, b'[{"type":"</pre><script>"}]'])
async def test_hostile_words_and_bytes_are_shown_without_harm(console: Rig, body: bytes) -> None:
    await park(console, "m", body, cause=HOSTILE, origin="<b>q</b>", headers=msgspec.json.encode({HOSTILE: HOSTILE}))
    visit = await console.login("operator")
    digest = cause_digest("<b>q</b>", HOSTILE.replace("\0", "\ufffd"))

    pages = [await visit.get(TOP), await visit.get(f"{TOP}/cause/{digest}?nobodys=yes"), await look(visit, "m")]

    for page in pages:
        assert page.status == 200
        text = page.text.replace("<script src=", "")
        for harm in ("<script", "<b>", "</td>\ufffd", "\x00", "\x1b", "\u202e"):
            assert harm not in text
        assert "&lt;script&gt;" in text


async def test_an_id_that_somebody_made_up_is_looked_at_as_any_other(console: Rig) -> None:
    await park(console, "a/b?c=d&e<i>")
    visit = await console.login("operator")

    [link] = re.findall(rf'href="/console({TOP}/message[^"]+)"', (await visit.get(f"{TOP}/cause/{DIGEST}")).text)
    assert (await visit.get(link.replace("&amp;", "&"))).status == 200
    assert (await visit.get(f"{TOP}/message?id=%00")).status == 404


async def test_one_message_goes_back_to_where_it_failed_and_why_is_kept(console: Rig) -> None:
    await park(console, "m")
    visit = await console.login("operator")

    page = await visit.follow(await visit.post(f"{TOP}/redrive", {"id": "m", "reason": "the bug is mended"}))

    assert [route for route, _item in console.broker.published] == [CREATE]
    assert await left(console) == []
    assert "1 message went back." in page.text
    [row] = await console.audit()
    assert (row["action"], row["object"], row["outcome"]) == ("parked.redrive", "m", "done")
    assert msgspec.json.decode(row["detail"])["reason"] == "the bug is mended"


async def test_selected_messages_are_dropped_and_the_others_stay(console: Rig) -> None:
    for name in ("a", "b", "c"):
        await park(console, name)
    visit = await console.login("operator")
    fields = [("id", "a"), ("id", "c"), ("reason", "made by a test"), ("digest", DIGEST)]

    answer = await visit.post(f"{TOP}/drop", fields)

    assert answer.location == f"/console{TOP}/cause/{DIGEST}"
    assert "Dropped 2 messages." in (await visit.follow(answer)).text
    assert await left(console) == ["b"]
    assert console.broker.published == []


@pytest.mark.parametrize("verb", ["redrive", "drop"])
@pytest.mark.parametrize("reason", ["", "   ", "x" * 501])
async def test_without_a_reason_nothing_is_done(console: Rig, verb: str, reason: str) -> None:
    for name in ("a", "b"):
        await park(console, name)
    visit = await console.login("operator")

    answers = [
        await visit.post(f"{TOP}/{verb}", {"id": "a", "reason": reason}),
        await visit.post(f"{TOP}/{verb}", {"id": "a", "reason": reason, "digest": DIGEST}),
        await visit.post(f"{TOP}/cause/{DIGEST}/{verb}", {"reason": reason}),
    ]

    assert {answer.status for answer in answers} == {422}
    assert all("write why, in 1 to 500 characters" in answer.text for answer in answers)
    assert re.search(r'value="a"[^>]* checked', answers[1].text)
    await work(console)
    assert await left(console) == ["a", "b"]
    assert {row["outcome"] for row in await console.audit()} == {"refused"}


@pytest.mark.parametrize("verb", ["redrive", "drop"])
async def test_without_a_message_chosen_nothing_is_done(console: Rig, verb: str) -> None:
    await park(console, "a")
    answer = await (await console.login("operator")).post(f"{TOP}/{verb}", {"reason": "why not", "digest": DIGEST})

    assert (answer.status, "choose at least one message" in answer.text) == (422, True)
    assert await left(console) == ["a"]


@pytest.mark.parametrize("path", ["redrive", "drop", f"cause/{DIGEST}/redrive", f"cause/{DIGEST}/drop"])
async def test_a_viewer_only_looks(console: Rig, path: str) -> None:
    await park(console, "a")
    visit = await console.login("viewer")

    assert (await visit.post(f"{TOP}/{path}", {"id": "a", "reason": "because"})).status == 403
    assert "Reason" not in (await visit.get(f"{TOP}/cause/{DIGEST}")).text
    assert await left(console) == ["a"]


async def test_what_nobody_takes_back_stays_and_is_said(console: Rig) -> None:
    await park(console, "unknown", origin="nowhere")
    await park(console, "unreadable", b"{}")
    await park(console, "fine")
    visit = await console.login("operator")
    fields = [("id", name) for name in ("unknown", "unreadable", "fine")]

    page = await visit.follow(await visit.post(f"{TOP}/redrive", [*fields, ("reason", "try")]))

    assert "1 message went back." in page.text
    assert "2 messages cannot go back" in page.text
    assert await left(console) == ["unknown", "unreadable"]
    assert [row["outcome"] for row in await console.audit()] == ["failed"]


async def test_what_the_broker_does_not_confirm_is_still_there(console: Rig) -> None:
    for name in ("a", "b"):
        await park(console, name)
    console.broker.error = NotPublished("a test")
    visit = await console.login("operator")

    page = await visit.follow(await visit.post(f"{TOP}/redrive", [("id", "a"), ("id", "b"), ("reason", "try")]))

    assert "The message broker did not confirm" in page.text
    assert await left(console) == ["a", "b"]
    assert [row["outcome"] for row in await console.audit()] == ["failed"]


async def clear(visit: Visit, verb: str, **fields: str) -> Answer:
    return await visit.post(f"{TOP}/cause/{DIGEST}/{verb}", {"reason": "the bug is mended", **fields})


async def progress(console: Rig, answer: Answer) -> tuple[int, int, bool]:
    """What was done, what left alone, and whether that is all."""
    clearing = await ClearingStore(console.postgres).show("default", _id(answer), sees_nobodys=True)
    assert clearing is not None
    return clearing.done, clearing.left_alone, clearing.finished_at is not None


def _id(answer: Answer) -> UUID:
    return UUID(answer.location.rpartition("/")[2])


@pytest.mark.parametrize("verb", ["redrive", "drop"])
async def test_a_whole_cause_goes_in_the_background_its_count_before_and_its_progress_after(
    console: Rig, verb: str
) -> None:
    await park_many(console, 2 * PAGE + 1)
    await park(console, "other cause", cause="other")
    await park(console, "theirs", project="other")
    visit = await console.login("operator", name="ann")

    assert f"{verb.capitalize()} all {2 * PAGE + 1}" in (await visit.get(f"{TOP}/cause/{DIGEST}")).text
    answer = await clear(visit, verb)
    worker = ClearingWorker(ClearingStore(console.postgres), console.parts.publisher)
    assert await worker.one_step()

    assert "Under way" in (await visit.follow(answer)).text
    assert await progress(console, answer) == (PAGE, 0, False)
    assert "Under way: " in (await visit.get(TOP)).text
    await work(console)
    assert await progress(console, answer) == (2 * PAGE + 1, 0, True)
    page = (await visit.follow(answer)).text
    assert "Finished" in page
    assert "the bug is mended" in page
    assert "ann" in page
    assert await left(console) == ["other cause", "theirs"]
    assert len(console.broker.published) == (2 * PAGE + 1 if verb == "redrive" else 0)
    [row] = await console.audit()
    detail = msgspec.json.decode(row["detail"])
    assert (row["object"], detail["matched"]) == (f"{ORIGIN}: {CAUSE}", 2 * PAGE + 1)
    assert detail["reason"] == "the bug is mended"


async def test_a_form_sent_twice_is_one_clearing(console: Rig) -> None:
    await park_many(console, 3)
    visit = await console.login("operator")
    id_ = str(uuid4())

    assert {(await clear(visit, "drop", clearing=id_)).location for _ in range(2)} == {f"/console{TOP}/clearing/{id_}"}
    async with console.postgres.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM clearing") == 1


async def test_what_is_parked_after_it_was_started_is_not_taken(console: Rig) -> None:
    await park_many(console, 2)
    answer = await clear(await console.login("operator"), "redrive")
    await park(console, "again", at=ceil_to_ms(SystemClock().now()) + timedelta(seconds=1))

    await work(console)

    assert await left(console) == ["again"]
    assert await progress(console, answer) == (2, 0, True)


async def test_a_cause_with_messages_that_nobody_takes_back_comes_to_its_end_all_the_same(console: Rig) -> None:
    await park_many(console, PAGE)
    await park(console, "unreadable", b"{}")
    async with console.postgres.acquire() as connection:
        await connection.execute("UPDATE parked SET project = 'default'")
    answer = await clear(await console.login("operator"), "redrive")

    await work(console)

    assert await progress(console, answer) == (PAGE, 1, True)
    assert await left(console) == ["unreadable"]


async def test_what_is_left_alone_is_looked_at_once(console: Rig) -> None:
    await park_many(console, PAGE + 1, body=b"{}")
    answer = await clear(await console.login("operator"), "redrive")

    await work(console)

    assert await progress(console, answer) == (0, PAGE + 1, True)
    assert len(await left(console)) == PAGE + 1


async def test_a_broker_that_is_away_loses_none_and_the_work_goes_on_with_it(console: Rig) -> None:
    await park_many(console, 5)
    answer = await clear(await console.login("operator"), "redrive")
    console.broker.error = NotPublished("a test")
    worker = await work(console)
    assert await progress(console, answer) == (0, 0, False)
    assert len(await left(console)) == 5

    console.broker.error = None
    assert await worker.one_step()

    assert await progress(console, answer) == (5, 0, True)
    assert await left(console) == []


async def test_two_workers_never_hold_the_same_clearing(console: Rig) -> None:
    await park_many(console, 1)
    await clear(await console.login("operator"), "drop")
    store = ClearingStore(console.postgres)

    assert await store.claim() is not None
    assert await store.claim() is None


async def test_a_worker_that_lost_its_lease_writes_no_progress(console: Rig) -> None:
    await park_many(console, 1)
    answer = await clear(await console.login("operator"), "drop")
    store = ClearingStore(console.postgres)
    slept = await store.claim()
    assert slept is not None
    async with console.postgres.acquire() as connection:
        await connection.execute("UPDATE clearing SET leased_until = now() - interval '1 s'")
    await work(console)

    await store.step(slept, done=7, left_alone=0, is_over=False)

    assert await progress(console, answer) == (1, 0, True)


async def test_the_progress_of_another_projects_work_is_not_there(console: Rig) -> None:
    await park_many(console, 1)
    answer = await clear(await console.login("operator", projects=["default"]), "drop")
    path = answer.location.removeprefix("/console")

    for role in ("viewer", "operator"):
        visit: Visit = await console.login(_role(role), projects=["other"])
        assert (await visit.get(path)).status == 404
        assert "Under way" not in (await visit.get(TOP)).text
    assert (await (await console.login("viewer")).get(f"{TOP}/clearing/{uuid4()}")).status == 404
    assert (await (await console.login("viewer")).get(f"{TOP}/clearing/nothing")).status == 404


def _role(name: str) -> Role:
    return "viewer" if name == "viewer" else "operator"
