"""Lists of tasks, commands for many, purges and parked messages over HTTP, with fakes behind the doors."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from aiohttp.test_utils import TestClient
from aiohttp.web import Application, Request
from pytest_aiohttp.plugin import AiohttpClient
from yarl import URL

from libs.common.clock import SystemClock
from libs.common.intake import CRASHES_HEADER
from libs.common.postgres import PostgresAway
from libs.common.publisher import PublishUnknown
from libs.common.topology import CREATE, RETRY_DUE, Route
from services.ingest.auth import Keys
from services.ingest.bulk_door import BulkDoor
from services.ingest.cursor import Place
from services.ingest.http import build_app
from services.ingest.parked_door import ParkedDoor
from services.ingest.store_bulk import Bulk
from services.ingest.store_filter import Asked
from services.ingest.store_lists import ListedTask, Page
from services.ingest.store_parked import DeadLetter, ParkedPlace
from services.ingest.store_purge import Purged
from services.ingest.stored import StoredTask
from services.ingest.task_list_door import TaskListDoor

KEY = "a-key-of-enough-length"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
Client = TestClient[Request, Application]


def listed(number: int) -> ListedTask:
    task = StoredTask(
        UUID(int=number), "default", NOW - timedelta(seconds=number), NOW + timedelta(days=365), None, "f",
        {"order": "42"}, msgspec.Raw(b""),
    )  # fmt: skip
    return ListedTask(task, "https://example.com/", "PUT", "nightly")


@dataclass
class FakeLists:
    """Newest first are `tasks`; remembers what it was asked."""

    tasks: Sequence[ListedTask] = ()
    asked: list[tuple[Asked, Place, int]] = field(default_factory=list)
    error: Exception | None = None

    async def page(self, asked: Asked, before: Place, limit: int) -> tuple[list[ListedTask], Place | None]:
        self.asked.append((asked, before, limit))
        if self.error is not None:
            raise self.error
        older = [each for each in self.tasks if Place(each.task.created_at, each.task.id) < before]
        last = older[:limit][-1].task if older[:limit] else None
        return older[:limit], Place(last.created_at, last.id) if last and len(older) > limit else None

    async def places(self, asked: Asked, before: Place, limit: int) -> Page:
        tasks, place = await self.page(asked, before, limit)
        return Page([Place(each.task.created_at, each.task.id) for each in tasks], place)


@dataclass
class FakeBulks:
    kept: dict[UUID, Bulk] = field(default_factory=dict)

    async def add(self, bulk: Bulk) -> None:
        self.kept[bulk.id] = bulk

    async def show(self, project: str, id_: UUID) -> Bulk | None:
        return self.kept.get(id_)


@dataclass
class FakePurges:
    outcomes: dict[UUID, Purged] = field(default_factory=dict)
    purged: list[UUID] = field(default_factory=list)

    async def look(self, project: str, ids: Sequence[UUID]) -> dict[UUID, Purged]:
        return {id_: self.outcomes.get(id_, "unknown") for id_ in ids}

    async def purge(self, project: str, ids: Sequence[UUID]) -> dict[UUID, Purged]:
        self.purged += ids
        return await self.look(project, ids)


@dataclass
class FakeParked:
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    error: Exception | None = None

    async def page(
        self, project: str, origin: str | None, before: ParkedPlace | None, limit: int
    ) -> Sequence[DeadLetter]:
        of = [each for each in self.letters.values() if origin in {None, each.origin}]
        newest = sorted(of, key=lambda each: (each.parked_at, each.message_id), reverse=True)
        return [each for each in newest if before is None or (each.parked_at, each.message_id) < before][:limit]

    async def show(self, project: str, message_id: str) -> DeadLetter | None:
        return self.letters.get(message_id)

    async def drop(self, project: str, message_id: str) -> bool:
        self.events.append(f"dropped {message_id}")
        return self.letters.pop(message_id, None) is not None

    async def publish_alone(self, route: Route, item: bytes, headers: Mapping[str, str | int]) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(f"published {route.exchange} {route.key} {item.decode()} {dict(headers)}")


@pytest.fixture
def lists() -> FakeLists:
    return FakeLists()


@pytest.fixture
def bulks() -> FakeBulks:
    return FakeBulks()


@pytest.fixture
def purges() -> FakePurges:
    return FakePurges()


@pytest.fixture
def parked() -> FakeParked:
    return FakeParked()


@pytest.fixture
async def client(
    aiohttp_client: AiohttpClient, lists: FakeLists, bulks: FakeBulks, purges: FakePurges, parked: FakeParked
) -> Client:
    clock = SystemClock()
    doors = (TaskListDoor(lists, clock), BulkDoor(bulks, lists, purges, clock), ParkedDoor(parked, parked))
    app = build_app(doors, Keys(KEY), version="1.2.3", body_bytes_max=8192)
    return await aiohttp_client(app, headers={"Authorization": f"Bearer {KEY}"})


async def problem(client: Client, method: str, path: str, status: int, **request: Any) -> dict[str, Any]:
    response = await client.request(method, path, **request)
    told: dict[str, Any] = await response.json()
    assert response.status == status, told
    return told


# --- lists


async def test_a_list_goes_on_by_its_cursor_and_link_to_the_end(client: Client, lists: FakeLists) -> None:
    lists.tasks = [listed(number) for number in range(5)]
    shown, path = [], "/v1/tasks?limit=2&status=due,scheduled&label.order=42"
    while path:
        response = await client.get(path)
        page = await response.json()
        assert response.status == 200
        shown += [UUID(task["id"]).int for task in page["data"]]
        path = URL(response.links["next"]["url"]).path_qs if page["next_cursor"] else ""
        assert ("next" in response.links) == (page["next_cursor"] is not None)
    assert shown == [0, 1, 2, 3, 4]
    assert {asked.filter.labels["order"] for asked, _before, _limit in lists.asked} == {"42"}
    assert {limit for _asked, _before, limit in lists.asked} == {2}


async def test_a_task_in_a_list_has_no_payload_and_the_words_of_the_task(client: Client, lists: FakeLists) -> None:
    lists.tasks = [listed(1)]
    page = await (await client.get("/v1/tasks")).json()
    [task] = page["data"]
    assert (task["status"], task["url"], task["method"], task["schedule"], task["labels"]) == (
        "scheduled", "https://example.com/", "PUT", "nightly", {"order": "42"},
    )  # fmt: skip
    assert not {"body", "body_text", "headers"} & set(task)
    assert page["next_cursor"] is None
    assert lists.asked[0][2] == 50


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("colour=red", "there are status, label.NAME, url_prefix"),
        ("stauts=failed", "did you mean status?"),
        ("status=fialed", "there are scheduled, due"),
        ("limit=0", "limit"),
        ("limit=251", "limit"),
        ("limit=x", "limit"),
        ("cursor=garbage", "cursor"),
        ("due_from=2027-03-01T09:00:00", "no offset"),
        ("status=due&status=failed", "twice"),
        ("label.order=1&label.order=2", "twice"),
        ("label.=1", "label"),
        ("url_prefix=nowhere", "url_prefix"),
        ("schedule=%00", "schedule"),
        ("label.a=%00", "label.a"),
    ],
)
async def test_a_query_that_cannot_be_meant_is_a_400_that_names_it(client: Client, query: str, named: str) -> None:
    told = await problem(client, "GET", f"/v1/tasks?{query}", 400)
    assert named in told["detail"]


async def test_a_cursor_of_another_filter_is_a_400(client: Client, lists: FakeLists) -> None:
    lists.tasks = [listed(number) for number in range(3)]
    page = await (await client.get("/v1/tasks?limit=1&status=scheduled")).json()
    for other in ("", "&status=failed", "&status=scheduled&label.a=1"):
        await problem(client, "GET", f"/v1/tasks?limit=1{other}&cursor={page['next_cursor']}", 400)
    assert (await client.get(f"/v1/tasks?limit=2&status=scheduled&cursor={page['next_cursor']}")).status == 200


async def test_a_list_is_a_503_while_postgres_is_away(client: Client, lists: FakeLists) -> None:
    lists.error = PostgresAway("away")
    assert (await problem(client, "GET", "/v1/tasks", 503))["code"] == "history_unavailable"


# --- commands for many


async def test_a_command_for_many_is_kept_with_what_it_is_for_and_can_be_watched(
    client: Client, lists: FakeLists, bulks: FakeBulks
) -> None:
    lists.tasks = [listed(number) for number in range(3)]
    body = {"filter": {"label.order": "42", "url_prefix": "https://example.com/"}}
    response = await client.post("/v1/tasks/cancel", json=body)
    told = await response.json()
    assert (response.status, told["matched"], told["is_exact"], told["done"]) == (202, 3, True, 0)
    [bulk] = bulks.kept.values()
    assert (bulk.action, bulk.project, bulk.submitted_by) == ("cancel", "default", "bootstrap")
    assert bulk.filter.labels == {"order": "42"}
    assert set(bulk.filter.status) == {"scheduled", "due", "delivering", "retrying"}
    shown = await client.get(response.headers["Location"])
    assert (await shown.json())["id"] == str(bulk.id)


async def test_a_dry_run_counts_and_keeps_nothing(client: Client, lists: FakeLists, bulks: FakeBulks) -> None:
    lists.tasks = [listed(number) for number in range(3)]
    response = await client.post("/v1/tasks/redrive", json={"filter": {"all": True}, "dry_run": True})
    told = await response.json()
    assert (response.status, told["matched"], told["id"]) == (202, 3, None)
    assert bulks.kept == {}
    assert lists.asked[0][0].filter.status == ("failed",)


@pytest.mark.parametrize(
    ("path", "body", "pointer", "code"),
    [
        ("cancel", {"filter": {}}, "/filter", "empty_filter"),
        ("cancel", {"filter": {"all": False}}, "/filter", "empty_filter"),
        ("cancel", {"filter": {"all": True, "status": "due"}}, "/filter", "conflict"),
        ("cancel", {}, "/filter", "required"),
        ("cancel", {"filter": {"status": "succeeded"}}, "/filter/status", "bad_status"),
        ("redrive", {"filter": {"status": "failed,cancelled"}}, "/filter/status", "bad_status"),
        ("purge", {"filter": {"status": "scheduled"}}, "/filter/status", "bad_status"),
        ("cancel", {"filter": {"colour": "red"}}, "/filter/colour", "unknown_field"),
        ("cancel", {"filter": {"label.a": 1}}, "/filter", "wrong_type"),
        ("cancel", {"filter": {"due_from": "soon"}}, "/filter/due_from", "not_a_time"),
        ("cancel", {"filter": {"all": True}, "dry": True}, "/dry", "unknown_field"),
        ("cancel", {"ids": [str(uuid4())]}, "/ids", "unknown_field"),
        ("purge", {"ids": []}, "/ids", "wrong_type"),
        ("purge", {"ids": ["x"]}, "/ids/0", "wrong_type"),
        ("purge", {"ids": [str(uuid4())], "filter": {"all": True}}, "/filter", "conflict"),
        ("purge", {}, "/filter", "required"),
    ],
)
async def test_a_command_that_cannot_be_meant_is_a_422_that_names_it(
    client: Client, bulks: FakeBulks, path: str, body: object, pointer: str, code: str
) -> None:
    told = await problem(client, "POST", f"/v1/tasks/{path}", 422, json=body)
    assert [(error["pointer"], error["code"]) for error in told["errors"]] == [(pointer, code)]
    assert bulks.kept == {}


@pytest.mark.parametrize("id_", ["nothing", str(uuid4())])
async def test_there_is_no_command_under_another_id(client: Client, id_: str) -> None:
    await problem(client, "GET", f"/v1/bulk/{id_}", 404)


async def test_a_purge_says_of_each_id_what_became_of_it(client: Client, purges: FakePurges) -> None:
    ended, waiting, nobody = uuid4(), uuid4(), uuid4()
    purges.outcomes = {ended: "purged", waiting: "waiting"}
    body = {"ids": [str(ended), str(waiting), str(nobody), str(ended)]}
    expected = {"purged": [str(ended)], "waiting": [str(waiting)], "unknown": [str(nobody)]}
    response = await client.post("/v1/tasks/purge", json={**body, "dry_run": True})
    assert (response.status, await response.json()) == (200, expected)
    assert purges.purged == []
    response = await client.post("/v1/tasks/purge", json=body)
    assert (response.status, await response.json()) == (200, expected)
    assert purges.purged == [ended, waiting, nobody]


async def test_a_purge_by_label_is_a_command_for_many(client: Client, bulks: FakeBulks) -> None:
    response = await client.post("/v1/tasks/purge", json={"filter": {"label.customer": "7"}})
    assert response.status == 202
    [bulk] = bulks.kept.values()
    assert (bulk.action, set(bulk.filter.status)) == ("purge", {"succeeded", "failed", "cancelled", "expired"})


# --- parked


def letter(name: str = "m", body: bytes = b'[{"a":1}]', origin: str = "scheduler.tasks", second: int = 0) -> DeadLetter:
    moment = NOW + timedelta(seconds=second)
    return DeadLetter(name, moment, origin, "crashed", 5, "default", UUID(int=1), b'{"x":1}', body)


async def test_parked_messages_are_listed_newest_first_page_by_page(client: Client, parked: FakeParked) -> None:
    parked.letters = {str(n): letter(str(n), second=n // 2) for n in range(5)}
    shown, cursor = [], ""
    while True:
        page = await (await client.get(f"/v1/parked?limit=2{cursor}")).json()
        shown += [each["id"] for each in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert shown == ["4", "3", "2", "1", "0"]
    await problem(client, "GET", f"/v1/parked?origin=other{cursor}", 400)
    assert (await (await client.get("/v1/parked?origin=other")).json())["data"] == []


async def test_a_parked_message_is_shown_with_its_body_as_text_or_base64(client: Client, parked: FakeParked) -> None:
    parked.letters = {"m": letter(), "n": letter("n", b"\xff\x00")}
    shown = await (await client.get("/v1/parked/m")).json()
    assert (shown["cause"], shown["crashes"], shown["headers"], shown["body"]) == ("crashed", 5, {"x": 1}, '[{"a":1}]')
    shown = await (await client.get("/v1/parked/n")).json()
    assert base64.b64decode(shown["body_base64"]) == b"\xff\x00"
    assert "body" not in shown


@pytest.mark.parametrize("id_", ["nobody", "%00", "a%0Ab"])
async def test_a_message_that_is_not_there_is_a_404(client: Client, id_: str) -> None:
    await problem(client, "GET", f"/v1/parked/{id_}", 404)
    await problem(client, "POST", f"/v1/parked/{id_}/redrive", 404)
    await problem(client, "DELETE", f"/v1/parked/{id_}", 404, json={"reason": "x"})


async def test_a_redriven_message_goes_back_where_it_came_from_and_only_then_from_the_table(
    client: Client, parked: FakeParked
) -> None:
    parked.letters = {"m": letter(), "n": letter("n", b"[1,2]", "dispatcher.due")}
    response = await client.post("/v1/parked/m/redrive")
    assert (response.status, (await response.json())["items"]) == (200, 1)
    assert (await client.post("/v1/parked/n/redrive")).status == 200
    fresh = {CRASHES_HEADER: 0}
    assert parked.events == [
        f'published {CREATE.exchange} {CREATE.key} {{"a":1}} {fresh}', "dropped m",
        f"published {RETRY_DUE.exchange} {RETRY_DUE.key} 1 {fresh}",
        f"published {RETRY_DUE.exchange} {RETRY_DUE.key} 2 {fresh}", "dropped n",
    ]  # fmt: skip


async def test_a_message_that_is_not_confirmed_stays(client: Client, parked: FakeParked) -> None:
    parked.letters, parked.error = {"m": letter()}, PublishUnknown("away")
    assert (await problem(client, "POST", "/v1/parked/m/redrive", 503))["code"] == "not_confirmed"
    assert set(parked.letters) == {"m"}


@pytest.mark.parametrize(
    ("body", "origin", "code"),
    [(b"[]", "unknown", "unknown_origin"), (b"[nope]", "scheduler.tasks", "unreadable_message")],
)
async def test_what_no_queue_would_take_is_a_409_and_stays(
    client: Client, parked: FakeParked, body: bytes, origin: str, code: str
) -> None:
    parked.letters = {"m": letter(body=body, origin=origin)}
    assert (await problem(client, "POST", "/v1/parked/m/redrive", 409))["code"] == code
    assert set(parked.letters) == {"m"}


async def test_a_message_is_dropped_with_a_reason_and_not_without(client: Client, parked: FakeParked) -> None:
    parked.letters = {"m": letter()}
    for body in ({}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "x", "force": True}):
        await problem(client, "DELETE", "/v1/parked/m", 422, json=body)
    assert set(parked.letters) == {"m"}
    assert (await client.delete("/v1/parked/m", json={"reason": "a test message"})).status == 204
    assert parked.letters == {}


async def test_the_document_describes_all_of_it(client: Client) -> None:
    document = await (await client.get("/openapi.json")).json()
    assert {"/v1/tasks", "/v1/tasks/purge", "/v1/bulk/{id}", "/v1/parked/{id}"} <= set(document["paths"])
    named = [each.get("name") for each in document["paths"]["/v1/tasks"]["get"]["parameters"]]
    assert {"status", "label", "url_prefix", "limit", "cursor"} <= set(named)
