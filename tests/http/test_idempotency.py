"""What `Idempotency-Key` promises on `POST /v1/tasks`, as far as one process can see."""

import asyncio

import pytest
from aiohttp import ClientResponse
from pytest_aiohttp.plugin import AiohttpClient

from libs.common.clock import SystemClock
from libs.common.contracts import CreateTask
from libs.common.egress import EgressRules
from libs.common.postgres import PostgresAway
from libs.common.publisher import PublishUnknown, Refused
from services.ingest.auth import Keys
from services.ingest.http import build_app
from services.ingest.stored import just_created
from services.ingest.task_door import TaskDoor
from tests.http.conftest import BODY_BYTES_MAX, KEY, Client, FakeBroker, FakeHistory

TASK = {"url": "https://example.com/hook", "delay": "5m"}
OTHER = {**TASK, "delay": "6m"}


async def send(client: Client, task: dict[str, str] = TASK, key: str = "order-42") -> ClientResponse:
    headers = {"Idempotency-Key": key, "Authorization": f"Bearer {KEY}"}
    return await client.post("/v1/tasks", json=task, headers=headers)


async def project(broker: FakeBroker, history: FakeHistory, state: str = "scheduled") -> None:
    task = broker.created.task
    history.tasks[task.id] = just_created(task)._replace(state=state)  # type: ignore[arg-type]


async def test_a_repeat_before_the_history_knows_is_the_first_answer_again(client: Client, broker: FakeBroker) -> None:
    first, second = await send(client), await send(client)
    assert (first.status, second.status) == (201, 201)
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert second.headers["Location"] == first.headers["Location"]
    assert await second.json() == await first.json()
    assert len(broker.published) == 1


async def test_a_repeat_after_the_call_shows_what_became_of_the_task(
    client: Client, broker: FakeBroker, history: FakeHistory
) -> None:
    await send(client)
    await project(broker, history, "succeeded")
    second = await send(client)
    assert (second.status, second.headers["Idempotency-Replayed"]) == (201, "true")
    assert (await second.json())["status"] == "succeeded"
    assert len(broker.published) == 1


@pytest.mark.parametrize("is_projected", [True, False])
async def test_the_key_with_another_body_is_refused(
    client: Client, broker: FakeBroker, history: FakeHistory, is_projected: bool
) -> None:
    await send(client)
    if is_projected:
        await project(broker, history)
    response = await send(client, OTHER)
    assert (response.status, (await response.json())["code"]) == (422, "idempotency_key_reused")
    assert len(broker.published) == 1


async def test_the_key_of_a_purged_task_makes_no_other(
    client: Client, broker: FakeBroker, history: FakeHistory
) -> None:
    await send(client)
    await project(broker, history, "succeeded")
    history.tasks = {id_: task._replace(fingerprint="") for id_, task in history.tasks.items()}
    response = await send(client)
    problem = await response.json()
    assert (response.status, problem["code"]) == (422, "idempotency_key_reused")
    assert "purged" in problem["detail"]
    assert len(broker.published) == 1


async def test_while_the_first_is_running_a_second_is_told_to_wait(client: Client, broker: FakeBroker) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    first = asyncio.create_task(send(client))
    await broker.asked.wait()
    same, other, unrelated = await send(client), await send(client, OTHER), asyncio.create_task(send(client, key="k2"))
    assert (same.status, (await same.json())["code"], same.headers["Retry-After"]) == (409, "in_progress", "1")
    assert (other.status, (await other.json())["code"]) == (422, "idempotency_key_reused")
    broker.confirm.set_result(None)
    assert ((await first).status, (await unrelated).status) == (201, 201)
    assert (await send(client)).headers["Idempotency-Replayed"] == "true"
    assert len(broker.published) == 2


async def test_fifty_at_once_publish_one_task(client: Client, broker: FakeBroker) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    asking = [asyncio.create_task(send(client)) for _ in range(50)]
    await broker.asked.wait()
    broker.confirm.set_result(None)
    statuses = [(await response).status for response in asking]
    assert set(statuses) <= {201, 409}
    assert 201 in statuses
    assert len(broker.published) == 1


async def test_after_an_unknown_outcome_the_same_task_is_published_again(client: Client, broker: FakeBroker) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    broker.confirm.set_exception(PublishUnknown("no answer"))
    assert (await send(client)).status == 503
    assert (await send(client, OTHER)).status == 422
    broker.confirm = None
    answer = await send(client)
    assert answer.status == 201
    assert "Idempotency-Replayed" not in answer.headers
    first, second = (message.task for _route, message in broker.published if isinstance(message, CreateTask))
    assert (first.id, first.due_at, first.created_at) == (second.id, second.due_at, second.created_at)


async def test_a_refusal_by_the_broker_leaves_the_key_free(client: Client, broker: FakeBroker) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    broker.confirm.set_exception(Refused("full"))
    assert (await send(client)).status == 503
    broker.confirm = None
    assert (await send(client, OTHER)).status == 201


async def test_another_replica_without_a_history_publishes_the_same_id(
    aiohttp_client: AiohttpClient, client: Client, broker: FakeBroker, history: FakeHistory
) -> None:
    """The scheduler keeps the first of them."""
    history.error = PostgresAway("down")
    doors = [TaskDoor(broker, history, SystemClock(), EgressRules())]
    replica = await aiohttp_client(build_app(doors, Keys(KEY), version="1", body_bytes_max=BODY_BYTES_MAX))
    ids = {(await (await send(each)).json())["id"] for each in (client, replica)}
    assert len(ids) == 1
    assert len(broker.published) == 2


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
async def test_a_key_that_is_none_is_refused(client: Client, broker: FakeBroker, key: str) -> None:
    response = await send(client, key=key)
    assert (response.status, (await response.json())["code"]) == (422, "bad_idempotency_key")
    assert broker.published == []


async def test_two_keys_on_one_request_are_refused(client: Client, broker: FakeBroker) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    response = await client.post("/v1/tasks", json=TASK, headers=headers)
    assert (response.status, (await response.json())["code"]) == (422, "bad_idempotency_key")
    assert broker.published == []
