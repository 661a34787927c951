"""What each method of the client asks, and what it makes of the answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import carillon
import msgspec
import pytest
from carillon import Client

from tests.client.conftest import KEY, TASK, Answer, Server, problem

FULL_TASK = json.loads("""{
  "id": "019a-1", "project": "default", "status": "retrying", "url": "https://example.com/hook", "method": "POST",
  "headers": {"X-A": "b"}, "body": {"a": [1, 2.5, null]}, "content_type": "application/json", "timeout_s": 15.0,
  "created_at": "2026-11-21T09:00:00.000Z", "due_at": "2026-11-21T09:05:00.000Z", "expires_at": null,
  "retry": {"schedule_s": [5, 15], "respect_retry_after": true}, "expect": {"status": ["2xx"], "body_contains": null},
  "labels": {"order": "42"}, "callbacks": {"success": null, "failure": "https://example.com/failed"},
  "attempt_count": 1, "next_attempt_at": "2026-11-21T09:05:05.012Z", "first_attempt_at": "2026-11-21T09:05:00.004Z",
  "finished_at": null, "lateness_ms": 4,
  "last_attempt": {"number": 1, "status_code": 503, "error": "server_error", "duration_ms": 8, "new": 1},
  "of_a_newer_server": {"deep": []}
}""")
ATTEMPT = {
    "generation": 0, "number": 1, "started_at": "2026-11-21T09:05:00.004Z", "lateness_ms": 4, "duration_ms": 8,
    "status_code": 503, "error": "server_error", "error_detail": None, "next_attempt_at": None,
    "timing": {"dns_ms": 1}, "response_headers": [["Set-Cookie", "a"], ["Set-Cookie", "b"]], "response_body": "no",
    "curl": "curl ...", "new": True,
}  # fmt: skip

Call = Callable[[Client], Awaitable[object]]


async def everything(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def test_the_simplest_create_sends_no_more_than_it_was_given(client: Client, server: Server) -> None:
    server.will(Answer(201, TASK))
    task = await client.tasks.create("https://example.com/hook", delay="5m", body={"a": 1})
    assert task == carillon.Task(id="019a-1", status="scheduled", url="https://example.com/hook")
    assert (server.only.method, server.only.path) == ("POST", "/v1/tasks")
    assert server.only.json == {"url": "https://example.com/hook", "delay": "5m", "body": {"a": 1}}
    assert server.only.headers["authorization"] == f"Bearer {KEY}"
    assert server.only.headers["content-type"] == "application/json"
    assert server.only.headers["user-agent"] == f"carillon-python/{carillon.__version__}"


async def test_every_field_of_a_task_is_sent_under_the_name_of_the_api(client: Client, server: Server) -> None:
    server.will(Answer(201, TASK))
    await client.tasks.create(
        "https://example.com/hook", method="PUT", due_at=datetime(2027, 3, 1, 9, tzinfo=UTC), headers={"X-A": "b"},
        body_bytes=b"\x00\xff", content_type="image/png", timeout_s=3.5,
        expires_at=datetime(2027, 3, 2, 9, tzinfo=timezone(timedelta(hours=2))),
        retry={"schedule_s": [5, 15], "respect_retry_after": False}, expect={"status": ["204"], "body_contains": "ok"},
        labels={"order": "42"}, callbacks={"failure": "https://example.com/failed"},
    )  # fmt: skip
    assert server.only.json == {
        "url": "https://example.com/hook", "method": "PUT", "due_at": "2027-03-01T09:00:00+00:00",
        "headers": {"X-A": "b"}, "body_base64": "AP8=", "content_type": "image/png", "timeout_s": 3.5,
        "expires_at": "2027-03-02T09:00:00+02:00", "retry": {"schedule_s": [5, 15], "respect_retry_after": False},
        "expect": {"status": ["204"], "body_contains": "ok"}, "labels": {"order": "42"},
        "callbacks": {"failure": "https://example.com/failed"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"delay": timedelta(milliseconds=1500)}, {"delay": 1.5}),
        ({"delay": 90}, {"delay": 90}),
        ({"delay": "PT5M"}, {"delay": "PT5M"}),
        ({"due_at": 1803891600}, {"due_at": 1803891600}),
        ({"due_at": "2027-03-01T09:00:00Z"}, {"due_at": "2027-03-01T09:00:00Z"}),
        ({"due_at": None, "labels": None}, {}),
        ({"local_time": {"at": "2027-03-28T02:30:00", "timezone": "Europe/Paris"}},) * 2,
        ({"of_a_newer_server": 1},) * 2,
    ],
)
async def test_a_time_may_be_written_in_any_way(
    client: Client, server: Server, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    server.will(Answer(201, TASK))
    await client.tasks.create("https://example.com/hook", **given)
    assert server.only.json == {"url": "https://example.com/hook", **sent}


async def test_a_time_without_an_offset_is_refused_before_anything_is_sent(client: Client, server: Server) -> None:
    with pytest.raises(ValueError, match="due_at has no offset"):
        await client.tasks.create("https://example.com/hook", due_at=datetime(2027, 3, 1, 9))  # noqa: DTZ001
    assert server.seen == []


async def test_a_task_is_read_whole_and_what_is_new_in_it_passed_over(client: Client, server: Server) -> None:
    server.will(Answer(200, FULL_TASK))
    task = await client.tasks.get("019a-1")
    assert task.due_at == datetime(2026, 11, 21, 9, 5, tzinfo=UTC)
    assert task.next_attempt_at == datetime(2026, 11, 21, 9, 5, 5, 12000, tzinfo=UTC)
    assert task.body == {"a": [1, 2.5, None]}
    assert task.retry == {"schedule_s": [5.0, 15.0], "respect_retry_after": True}
    assert task.callbacks == {"success": None, "failure": "https://example.com/failed"}
    assert task.last_attempt is not None
    assert (task.last_attempt.status_code, task.last_attempt.error) == (503, "server_error")
    assert (task.labels, task.lateness_ms, task.is_final) == ({"order": "42"}, 4, False)


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "expired", "parked"])
def test_these_statuses_are_final(status: str) -> None:
    assert carillon.Task(id="x", status=status).is_final


@pytest.mark.parametrize("status", ["scheduled", "due", "delivering", "retrying", "of_a_newer_server"])
def test_these_statuses_are_not(status: str) -> None:
    assert not carillon.Task(id="x", status=status).is_final


async def test_attempts_are_read_with_repeated_headers_in_order(client: Client, server: Server) -> None:
    server.will(Answer(200, {"data": [ATTEMPT], "next_cursor": None}))
    [attempt] = await client.tasks.attempts("019a-1")
    assert server.only.path == "/v1/tasks/019a-1/attempts"
    assert attempt.response_headers == [("Set-Cookie", "a"), ("Set-Cookie", "b")]
    assert (attempt.number, attempt.status_code, attempt.response_body) == (1, 503, "no")


async def test_a_list_follows_its_cursors_and_stops_fetching_where_the_reader_stops(
    client: Client, server: Server
) -> None:
    pages = [Answer(200, {"data": [{**TASK, "id": f"{n}"}], "next_cursor": f"c+{n}/="}) for n in range(3)]
    server.will(*pages, Answer(200, {"data": [], "next_cursor": None}))
    tasks = client.tasks.list(
        status=["failed", "parked"], labels={"order": "4&2"}, due_to=datetime(2027, 1, 1, tzinfo=UTC)
    )
    assert [task.id for task in await everything(tasks)] == ["0", "1", "2"]
    base = "/v1/tasks?status=failed%2Cparked&due_to=2027-01-01T00%3A00%3A00%2B00%3A00&label.order=4%262"
    assert [seen.path for seen in server.seen] == [
        base, f"{base}&cursor=c%2B0%2F%3D", f"{base}&cursor=c%2B1%2F%3D", f"{base}&cursor=c%2B2%2F%3D",
    ]  # fmt: skip
    server.seen.clear()
    server.will(*pages)
    async for task in client.tasks.list(page_size=1):
        if task.id == "1":
            break
    assert [seen.path for seen in server.seen] == ["/v1/tasks?limit=1", "/v1/tasks?limit=1&cursor=c%2B0%2F%3D"]


async def test_each_item_of_a_batch_has_its_own_result(client: Client, server: Server) -> None:
    bad = {"status": 422, "code": "invalid_request", "detail": "No.", "errors": [{"pointer": "/url", "detail": "x"}]}
    results = [{"index": 0, "status": 201, "id": "a"}, {"index": 1, "status": 422, "problem": bad}]
    server.will(Answer(200, {"results": results}))
    first, second = await client.tasks.batch(
        [{"url": "https://example.com/", "delay": timedelta(seconds=5)}, {"url": "nowhere"}], idempotency_key="mine"
    )
    assert server.only.json == {"tasks": [{"url": "https://example.com/", "delay": 5.0}, {"url": "nowhere"}]}
    assert (server.only.path, server.only.headers["idempotency-key"]) == ("/v1/tasks/batch", "mine")
    assert (first.id, first.problem, second.id) == ("a", None, None)
    assert second.problem is not None
    assert second.problem.errors[0].pointer == "/url"


async def test_a_watched_task_is_told_at_each_change_until_it_is_final(client: Client, server: Server) -> None:
    retrying = {**TASK, "status": "retrying", "attempt_count": 1}
    statuses = [TASK, TASK, retrying, retrying, {**TASK, "status": "succeeded", "attempt_count": 2}]
    server.will(*(Answer(200, status) for status in statuses))
    async with asyncio.timeout(5):
        seen = [task.status async for task in client.tasks.watch("019a-1", every_s=0.001)]
    assert seen == ["scheduled", "retrying", "succeeded"]
    assert len(server.seen) == 5


async def test_a_task_far_from_its_time_is_asked_about_less(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("carillon.tasks.sleep", sleep)
    for left_s in (3600, 4, 0.1, -1):
        at = datetime.now(UTC) + timedelta(seconds=left_s)
        server.will(Answer(200, {**TASK, "next_attempt_at": at.isoformat()}))
    server.will(Answer(200, {**TASK, "status": "succeeded"}))
    assert len(await everything(client.tasks.watch("x"))) == 5
    assert slept[0] == 5.0
    assert 1.5 < slept[1] <= 2.0
    assert slept[2:] == [0.5, 0.5]


TEMPLATE_VIEW = {
    "url": "https://example.com/", "method": "POST", "headers": {}, "body": None, "body_text": None,
    "body_base64": None, "content_type": None, "timeout_s": 3.0,
    "retry": {"schedule_s": None, "respect_retry_after": True}, "expect": {"status": ["2xx"], "body_contains": None},
    "labels": {}, "callbacks": {"success": None, "failure": None},
}  # fmt: skip
EXPLANATION = {
    "status": "scheduled", "code": "overdue", "sentence": "It waits.", "next_at": None,
    "because": [{"code": "target_paused", "detail": "Paused.", "since": "2026-11-21T09:00:00Z", "until": None}],
    "what_would_move_it": [{"code": "resume_target", "detail": "Resume it."}],
}  # fmt: skip
SCHEDULE = {
    "name": "nightly", "status": "active", "cron": "0 2 * * *", "timezone": "Europe/Berlin",
    "next_at": "2026-11-22T01:00:00Z", "task": TEMPLATE_VIEW,
}  # fmt: skip
TEMPLATE: carillon.fields.Template = {"url": "https://example.com/", "body_bytes": b"x"}
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
# What is called, what it asks, and what it is answered.
ASKED: list[tuple[Call, str, str, Any, Any]] = [
    (lambda c: c.tasks.explain("x"), "GET", "/v1/tasks/x/explain", None, EXPLANATION),
    (lambda c: c.tasks.patch("x", delay="2h"), "PATCH", "/v1/tasks/x", {"delay": "2h"}, TASK),
    (
        lambda c: c.tasks.patch("x", local_time={"at": "2027-03-28T02:30:00", "timezone": "Europe/Paris"}),
        "PATCH", "/v1/tasks/x", {"local_time": {"at": "2027-03-28T02:30:00", "timezone": "Europe/Paris"}}, TASK,
    ),
    (lambda c: c.tasks.cancel("x"), "DELETE", "/v1/tasks/x", None, TASK),
    (lambda c: c.tasks.run("x"), "POST", "/v1/tasks/x/run", None, TASK),
    (lambda c: c.tasks.redrive("x"), "POST", "/v1/tasks/x/redrive", None, TASK),
    (
        lambda c: c.tasks.cancel_many({"labels": {"order": "42"}, "due_to": 5, "status": ("due",)}, dry_run=True),
        "POST", "/v1/tasks/cancel",
        {"filter": {"label.order": "42", "due_to": "5", "status": "due"}, "dry_run": True}, {"matched": 3},
    ),
    (
        lambda c: c.tasks.redrive_many({"status": "failed"}),
        "POST", "/v1/tasks/redrive", {"filter": {"status": "failed"}, "dry_run": False},
        {"matched": 3, "id": "b1", "action": "redrive", "is_exact": False, "submitted_at": "2026-11-22T08:00:00Z"},
    ),
    (
        lambda c: c.tasks.purge_many({}, all=True),
        "POST", "/v1/tasks/purge", {"filter": {"all": True}, "dry_run": False}, {"matched": 3},
    ),
    (
        lambda c: c.tasks.purge(["a", UUID(int=1)], dry_run=True),
        "POST", "/v1/tasks/purge", {"ids": ["a", str(UUID(int=1))], "dry_run": True},
        {"purged": ["a"], "unknown": ["b"]},
    ),
    (lambda c: c.tasks.bulk("b1"), "GET", "/v1/bulk/b1", None, {"matched": 3, "done": 2, "left_alone": 1}),
    (
        lambda c: c.schedules.put("a/b", every=timedelta(minutes=5), start_at=NEW_YEAR, task=TEMPLATE),
        "PUT", "/v1/schedules/a%2Fb",
        {"every": "300s", "start_at": "2027-01-01T00:00:00+00:00",
         "task": {"url": "https://example.com/", "body_base64": "eA=="}}, SCHEDULE,
    ),
    (lambda c: c.schedules.get("nightly"), "GET", "/v1/schedules/nightly", None, SCHEDULE),
    (lambda c: c.schedules.pause("nightly"), "POST", "/v1/schedules/nightly/pause", None, SCHEDULE),
    (lambda c: c.schedules.resume("nightly"), "POST", "/v1/schedules/nightly/resume", None, SCHEDULE),
    (lambda c: c.schedules.run("nightly"), "POST", "/v1/schedules/nightly/run", None, {"task_id": "t"}),
    (lambda c: c.schedules.delete("nightly"), "DELETE", "/v1/schedules/nightly", None, None),
    (
        lambda c: c.schedules.preview(cron="0 9 * * *", timezone="Europe/Berlin", count=3),
        "POST", "/v1/schedules/preview", {"cron": "0 9 * * *", "timezone": "Europe/Berlin", "count": 3},
        {"data": [{"at": "2026-11-22T08:00:00Z", "local": "2026-11-22T09:00:00+01:00", "dst": "gap", "meant": "x"}],
         "words": "at 9", "timezone": "Europe/Berlin"},
    ),
    (
        lambda c: c.keys.create("shop", scopes=("tasks:write",), expires_at="2027-01-01T00:00:00Z"),
        "POST", "/v1/keys", {"name": "shop", "scopes": ["tasks:write"], "expires_at": "2027-01-01T00:00:00Z"},
        {"id": "k1", "key": "secret"},
    ),
    (
        lambda c: c.keys.create("shop", scopes=["admin"], per_s=5, burst=9, project="shop"),
        "POST", "/v1/keys", {"name": "shop", "scopes": ["admin"], "per_s": 5, "burst": 9, "project": "shop"},
        {"id": "k1", "key": "secret", "per_s": 5, "burst": 9, "project": "shop", "status": "active"},
    ),
    (lambda c: c.keys.get("k1"), "GET", "/v1/keys/k1", None, {"id": "k1", "status": "expired"}),
    (lambda c: c.keys.revoke("k1", project="a&b"), "DELETE", "/v1/keys/k1?project=a%26b", None, {"id": "k1"}),
    (lambda c: c.keys.rotate("k1", overlap_s=60), "POST", "/v1/keys/k1/rotate", {"overlap_s": 60}, {"id": "k1"}),
    (lambda c: c.keys.rotate("k1", project="b"), "POST", "/v1/keys/k1/rotate?project=b", {}, {"id": "k1"}),
    (lambda c: c.signing_secret.get(), "GET", "/v1/signing-secret", None, {"secret": "whsec_x"}),
    (
        lambda c: c.signing_secret.rotate(overlap_s=60), "POST", "/v1/signing-secret/rotate",
        {"overlap_s": 60, "force": False},
        {"secret": "y", "version": 2, "previous": {"secret": "x", "version": 1, "until": "2026-11-22T08:00:00Z"}},
    ),
    (lambda c: c.targets.get("a.example:80"), "GET", "/v1/targets/a.example%3A80", None, {"host": "a.example:80"}),
    (
        lambda c: c.targets.limit("a.example", per_s=5, burst=10),
        "PUT", "/v1/targets/a.example", {"per_s": 5, "burst": 10},
        {"host": "a.example", "per_s": 5, "burst": 10, "breaker": {"state": "open", "until": "2026-11-22T08:00:00Z"}},
    ),
    (
        lambda c: c.targets.limit("a.example", per_s=None),
        "PUT", "/v1/targets/a.example", {"per_s": None, "burst": 1}, {"host": "a.example", "per_s": None},
    ),
    (lambda c: c.targets.pause("a.example"), "POST", "/v1/targets/a.example/pause", None, {"host": "a.example"}),
    (lambda c: c.targets.resume("a.example"), "POST", "/v1/targets/a.example/resume", None, {"host": "a.example"}),
    (
        lambda c: c.parked.get("p1"), "GET", "/v1/parked/p1", None,
        {"id": "p1", "cause": "unreadable", "crashes": 5, "headers": {"x-a": 1}, "body": "[{}]", "task_id": "t"},
    ),
    (lambda c: c.parked.redrive("p1"), "POST", "/v1/parked/p1/redrive", None, {"id": "p1", "origin": "q", "items": 2}),
    (lambda c: c.parked.drop("p1", reason="old"), "DELETE", "/v1/parked/p1", {"reason": "old"}, None),
    (
        lambda c: c.digest.preview(), "GET", "/v1/digest/preview", None,
        {"subject": "s", "text": "t", "failed": 3, "next_at": "2027-01-01T08:00:00Z"},
    ),
    (lambda c: c.digest.send(), "POST", "/v1/digest/send", None, {"pages": 1}),
    (lambda c: c.notify("x", subject="s"), "POST", "/fallback", {"subject": "s", "message": "x"}, {"id": "n"}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "method", "path", "body", "answer"), ASKED, ids=[f"{a[1]} {a[2]}" for a in ASKED])
async def test_a_method_asks_what_the_api_has_for_it(
    client: Client, server: Server, call: Call, method: str, path: str, body: Any, answer: Any
) -> None:
    server.will(Answer(204 if answer is None else 200, answer))
    got = await call(client)
    assert (server.only.method, server.only.path) == (method, path)
    assert (server.only.json if server.only.body else None) == body
    if answer is None:
        assert got is None
    else:
        told = msgspec.to_builtins(got)
        assert {name: told[name] for name in answer} == answer


async def test_dead_letters_of_one_queue_are_listed(client: Client, server: Server) -> None:
    server.will(Answer(200, {"data": [], "next_cursor": None}))
    assert await everything(client.parked.list(origin="dispatcher.due")) == []
    assert server.only.path == "/v1/parked?origin=dispatcher.due"


@pytest.mark.parametrize("name", ["schedules", "keys", "targets", "parked"])
async def test_the_other_lists_follow_their_cursors_too(client: Client, server: Server, name: str) -> None:
    one = {"name": "x", "id": "x", "host": "x"}
    server.will(Answer(200, {"data": [one], "next_cursor": "c"}), Answer(200, {"data": [one], "next_cursor": None}))
    assert len(await everything(getattr(client, name).list())) == 2
    assert [seen.path for seen in server.seen] == [f"/v1/{name}", f"/v1/{name}?cursor=c"]


@pytest.mark.parametrize(("id", "path"), [("../keys", "..%2Fkeys"), ("a?b#c", "a%3Fb%23c"), ("é ", "%C3%A9%20")])
async def test_an_id_never_leads_elsewhere(client: Client, server: Server, id: str, path: str) -> None:
    server.will(Answer(200, TASK))
    await client.tasks.get(id)
    assert server.only.path == f"/v1/tasks/{path}"


@pytest.mark.parametrize("id", ["", ".", ".."])
async def test_an_id_that_is_a_path_is_refused(client: Client, server: Server, id: str) -> None:
    with pytest.raises(ValueError, match="no name of anything"):
        await client.tasks.get(id)
    assert server.seen == []


@pytest.mark.parametrize(
    ("status", "family"),
    [
        (400, carillon.Invalid), (401, carillon.Unauthorized), (403, carillon.Forbidden), (404, carillon.NotFound),
        (405, carillon.Invalid), (409, carillon.Conflict), (413, carillon.Invalid), (415, carillon.Invalid),
        (422, carillon.Invalid), (429, carillon.RateLimited), (500, carillon.Unavailable), (503, carillon.Unavailable),
    ],
)  # fmt: skip
async def test_each_family_of_errors_carries_the_whole_problem(
    server: Server, status: int, family: type[carillon.APIError]
) -> None:
    errors = [{"pointer": "/retry/schedule_s/2", "code": "out_of_range", "detail": "is out of range", "new": 1}]
    server.will(problem(status, "some_code", "Mend it.", errors=errors, Retry_After="99"))
    async with Client(server.url, KEY, timeout_s=5) as client:
        with pytest.raises(family) as raised:
            await client.tasks.run("x")
    error = raised.value
    assert type(error) is family
    assert (error.status, error.code, error.detail, error.request_id) == (status, "some_code", "Mend it.", "req-1")
    assert error.retry_after_s == 99
    assert [(e.pointer, e.code, e.detail) for e in error.errors] == [
        ("/retry/schedule_s/2", "out_of_range", "is out of range")
    ]
    assert str(error) == f"{status} some_code: Mend it. (/retry/schedule_s/2: is out of range)"


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"code": 1}', b"{}", b"\xff"])
async def test_an_error_that_is_no_problem_document_still_has_its_family(
    client: Client, server: Server, body: bytes
) -> None:
    server.will(Answer(404, body))
    with pytest.raises(carillon.NotFound, match="without saying why") as raised:
        await client.tasks.get("x")
    assert (raised.value.status, raised.value.code) == (404, "not_a_problem")


async def test_the_status_of_an_error_is_that_of_the_answer(client: Client, server: Server) -> None:
    server.will(Answer(404, {"status": 500, "code": "not_found", "detail": "No."}))
    with pytest.raises(carillon.NotFound) as raised:
        await client.tasks.get("x")
    assert (raised.value.status, raised.value.request_id, raised.value.errors) == (404, "", ())


async def test_a_path_in_the_address_stays_before_the_apis(server: Server) -> None:
    server.will(Answer(200, TASK))
    async with Client(f" {server.url}/carillon/ ", f"{KEY}\n") as client:
        await client.tasks.get("x")
    assert server.only.path == "/carillon/v1/tasks/x"
    assert server.only.headers["authorization"] == f"Bearer {KEY}"


async def test_the_environment_says_where_and_who(server: Server, environment: Callable[..., None]) -> None:
    for name in ("CARILLON_KEY", "CARILLON_API_KEY"):
        environment(CARILLON_URL=server.url, **{name: f"from-{name}"})
        server.will(Answer(200, TASK))
        async with Client() as client:
            await client.tasks.get("x")
        assert server.seen[-1].headers["authorization"] == f"Bearer from-{name}"


@pytest.mark.parametrize(
    ("url", "key", "text"),
    [
        (None, "k", "CARILLON_URL is not set"),
        ("http://x", None, "CARILLON_KEY is not set"),
        ("localhost:8080", "k", "write it as https://"),
        ("ftp://x/", "k", "write it as https://"),
        ("http://", "k", "write it as https://"),
        ("http://u:p@x/", "k", "leave out user"),
        ("http://x/?a=b", "k", "leave out user"),
        ("http://x", "a b", "copy it again"),
        ("http://x", "a\nb", "copy it again"),
        ("http://x", " ", "copy it again"),
        ("http://x", "ké", "copy it again"),
    ],
)
def test_a_client_that_cannot_work_says_so_at_once(
    environment: Callable[..., None], url: str | None, key: str | None, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Client(url, key)


async def test_a_client_outside_its_block_says_how_it_is_used() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await Client("http://x", "k").tasks.get("x")
