import asyncio
import hashlib
from typing import Any

import pytest

from libs.common.contracts import decode_call
from libs.common.publisher import PublishUnknown, Refused
from libs.common.topology import CREATE
from tests.http.conftest import BODY_BYTES_MAX, Client, FakeBroker

TASK = {"url": "https://example.com/hook"}


async def test_a_task_is_answered_with_201_only_after_the_confirm(client: Client, broker: FakeBroker) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    asking = asyncio.create_task(client.post("/v1/tasks", json=TASK))
    await broker.asked.wait()
    await asyncio.sleep(0.05)  # long enough for a wrong answer to arrive
    assert not asking.done()
    broker.confirm.set_result(None)
    response = await asking
    body = await response.json()
    assert response.status == 201
    assert response.headers["Location"] == f"/v1/tasks/{body['id']}"
    assert str(broker.created.task.id) == body["id"]
    assert body["status"] == "scheduled"
    assert broker.published[0][0] == CREATE


@pytest.mark.parametrize("error", [PublishUnknown("no answer"), Refused("full")])
async def test_without_a_confirm_the_answer_is_503_and_says_how_to_repeat(
    client: Client, broker: FakeBroker, error: Exception
) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    broker.confirm.set_exception(error)
    response = await client.post("/v1/tasks", json=TASK)
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    problem = await response.json()
    assert problem["code"] == "not_confirmed"
    assert "may still" in problem["detail"]
    assert "Idempotency-Key" in problem["detail"]


async def test_the_bytes_of_the_body_travel_unchanged(client: Client, broker: FakeBroker) -> None:
    raw = b'{"url": "https://example.com/hook", "body": {"b" : 1.0,  "a": [ ]}}'
    response = await client.post("/v1/tasks", data=raw, headers={"Content-Type": "application/json"})
    task = broker.created.task
    assert response.status == 201
    assert decode_call(task.call).body == b'{"b" : 1.0,  "a": [ ]}'
    assert task.fingerprint == hashlib.sha256(raw).hexdigest()
    assert b'"body":{"b" : 1.0,  "a": [ ]}' in await response.read()


async def test_the_trace_of_the_caller_travels_with_the_task(client: Client, broker: FakeBroker) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await client.post("/v1/tasks", json=TASK, headers={"traceparent": trace})
    assert decode_call(broker.created.task.call).traceparent == trace


async def test_the_request_id_is_echoed_or_made(client: Client) -> None:
    assert (await client.get("/", headers={"X-Request-Id": "mine-1"})).headers["X-Request-Id"] == "mine-1"
    assert len((await client.get("/", headers={"X-Request-Id": "a b"})).headers["X-Request-Id"]) == 36
    response = await client.get("/nowhere", headers={"X-Request-Id": "mine-2"})
    assert (await response.json())["request_id"] == response.headers["X-Request-Id"] == "mine-2"


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic x"])
async def test_without_the_key_there_is_no_task(
    anonymous: Client, broker: FakeBroker, authorization: str | None
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    response = await anonymous.post("/v1/tasks", json=TASK, headers=headers)
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert response.content_type == "application/problem+json"
    assert broker.published == []


@pytest.mark.parametrize(
    ("raw", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_json"),
        (b"\xff", "application/json", 400, "malformed_json"),
        (b'{"url":"http://x/","body":' + b"[" * 3000, "application/json", 400, "malformed_json"),
        (b"url=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"[]", "application/json", 422, "invalid_request"),
        (b'{"url":"ftp://x"}', "application/json", 422, "invalid_request"),
        (b" " * (BODY_BYTES_MAX + 1), "application/json", 413, "body_too_large"),
    ],
)
async def test_what_cannot_be_taken_is_refused_with_a_problem(
    client: Client, broker: FakeBroker, raw: bytes, content_type: str, status: int, code: str
) -> None:
    response = await client.post("/v1/tasks", data=raw, headers={"Content-Type": content_type})
    problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["status"], problem["code"]) == (status, status, code)
    assert problem["instance"] == "/v1/tasks"
    assert broker.published == []


async def test_a_body_of_exactly_the_limit_is_taken(client: Client) -> None:
    raw = b'{"url": "https://example.com/hook"}'.ljust(BODY_BYTES_MAX)
    assert (await client.post("/v1/tasks", data=raw, headers={"Content-Type": "application/json"})).status == 201


async def test_a_422_points_at_every_field(client: Client) -> None:
    task: dict[str, Any] = {"url": "http://a b/", "retry": {"schedule_s": [1, 2, -3]}, "headers": {"Host": "x"}}
    problem = await (await client.post("/v1/tasks", json=task)).json()
    assert {error["pointer"] for error in problem["errors"]} == {"/url", "/retry/schedule_s/2", "/headers/Host"}
    assert all(error["code"] and error["detail"] for error in problem["errors"])


async def test_a_wrong_method_says_which_are_right(client: Client) -> None:
    response = await client.put("/v1/tasks", json=TASK)
    assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_a_bug_is_a_500_without_a_traceback(client: Client, broker: FakeBroker) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    broker.confirm.set_exception(KeyError("inside"))
    response = await client.post("/v1/tasks", json=TASK)
    assert response.status == 500
    text = await response.text()
    assert "inside" not in text
    assert response.headers["X-Request-Id"] in text
