"""`POST /v1/tasks/batch`: each item by itself, whatever the others are."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_aiohttp.plugin import AiohttpClient

from libs.common.clock import SystemClock
from libs.common.contracts import CreateTask, Task, decode_call
from libs.common.egress import EgressRules
from libs.common.postgres import PostgresAway
from libs.common.publisher import PublishUnknown, Refused
from services.ingest.auth import Keys
from services.ingest.batch import TURN_ITEMS, Rules
from services.ingest.batch_door import BATCH_BYTES_MAX, ITEMS_MAX, NDJSON, BatchDoor
from services.ingest.http import build_app
from services.ingest.stored import just_created
from tests.http.conftest import BODY_BYTES_MAX, KEY, Client, FakeBroker, FakeHistory

PATH = "/v1/tasks/batch"
GOOD = b'{"url": "https://example.com/%d"}'
TOO_LARGE = b'{"url": "https://example.com/", "body_text": "' + b"x" * BODY_BYTES_MAX + b'"}'
DEEP = b'{"url": "https://example.com/", "body": ' + b"[" * 3000
BAD = {
    b'{"url": "ftp://x"}': 422,
    b'{"url": "https://example.com/", "headers": {"Host": "x"}}': 422,
    b"[]": 422,
    b"7": 422,
    b'{"url": "https://example.com/", "url_": 1}': 422,
    TOO_LARGE: 413,
}
BAD_LINES = {**BAD, b"{": 400, b'{"url": "https://example.com/"}}': 400, b"\xff": 400, DEEP: 400}


async def send(client: Client, raw: bytes, kind: str = "application/json", **headers: str) -> ClientResponse:
    return await client.post(PATH, data=raw, headers={"Content-Type": kind, **headers})


async def results(response: ClientResponse) -> list[dict[str, Any]]:
    assert response.status == 200, await response.text()
    found: list[dict[str, Any]] = (await response.json())["results"]
    assert [each["index"] for each in found] == list(range(len(found)))
    return found


def array(items: list[bytes]) -> bytes:
    return b'{"tasks": [' + b",".join(items) + b"]}"


def tasks(broker: FakeBroker) -> list[Task]:
    return [message.task for _route, message in broker.published if isinstance(message, CreateTask)]


def mixture(bad: dict[bytes, int]) -> st.SearchStrategy[list[tuple[bytes, int]]]:
    item = st.one_of(st.integers(0, 9).map(lambda n: (GOOD % n, 201)), st.sampled_from(list(bad.items())))
    return st.lists(item, max_size=250)


def check(items: list[tuple[bytes, int]], found: list[dict[str, Any]], broker: FakeBroker) -> None:
    """Each good one exactly once, in its place; each bad one has its own problem."""
    assert [each["status"] for each in found] == [status for _raw, status in items]
    made = {str(task.id): task for task in tasks(broker)}
    assert len(made) == len(broker.published) == sum(status == 201 for _raw, status in items)
    for (raw, status), each in zip(items, found, strict=True):
        if status == 201:
            assert decode_call(made.pop(each["id"]).call).url == json.loads(raw)["url"]
            assert "problem" not in each
        else:
            assert each["problem"]["status"] == status
            assert each["problem"]["code"]
            assert "id" not in each
    assert not made


ONE_APPLICATION = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ONE_APPLICATION
@given(items=mixture(BAD))
async def test_of_any_mixture_in_an_array_each_good_one_is_taken_once(
    client: Client, broker: FakeBroker, items: list[tuple[bytes, int]]
) -> None:
    broker.published.clear()
    check(items, await results(await send(client, array([raw for raw, _status in items]))), broker)


@ONE_APPLICATION
@given(items=mixture(BAD_LINES), pieces=st.integers(1, 9), ends_in_newline=st.booleans())
async def test_of_any_mixture_of_lines_each_good_one_is_taken_once(
    client: Client, broker: FakeBroker, items: list[tuple[bytes, int]], pieces: int, ends_in_newline: bool
) -> None:
    broker.published.clear()
    raw = b"\n".join(raw for raw, _status in items) + b"\n" * ends_in_newline
    step = len(raw) // pieces + 1

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), step):
            yield raw[start : start + step]
            await asyncio.sleep(0)

    response = await client.post(PATH, data=in_pieces(), headers={"Content-Type": NDJSON})
    check(items, await results(response), broker)


@pytest.mark.parametrize(
    ("raw", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_json"),
        (array([b"{"]), "application/json", 400, "malformed_json"),
        (b"\xff", "application/json", 400, "malformed_json"),
        (b"[]", "application/json", 422, "invalid_request"),
        (b"{}", "application/json", 422, "invalid_request"),
        (b'{"tasks": {}}', "application/json", 422, "invalid_request"),
        (b'{"tasks": [], "task": 1}', "application/json", 422, "invalid_request"),
        (array([b"{}"] * (ITEMS_MAX + 1)), "application/json", 422, "invalid_request"),
        (b'{"tasks": [], "tasks": []}', "application/json", 422, "invalid_request"),
        (array([b"{}"]), "text/plain", 415, "unsupported_media_type"),
        (b" " * (BATCH_BYTES_MAX + 1), "application/json", 413, "body_too_large"),
        (b" " * (BATCH_BYTES_MAX + 1), NDJSON, 413, "body_too_large"),
    ],
)
async def test_a_batch_that_is_none_is_refused_whole(
    client: Client, broker: FakeBroker, raw: bytes, kind: str, status: int, code: str
) -> None:
    response = await send(client, raw, kind)
    assert (response.status, (await response.json(content_type=None))["code"]) == (status, code)
    assert broker.published == []


@pytest.mark.parametrize("kind", ["application/json", NDJSON])
async def test_a_batch_of_exactly_the_limit_is_taken(client: Client, broker: FakeBroker, kind: str) -> None:
    raw = GOOD % 1 if kind == NDJSON else array([GOOD % 1])
    assert len(await results(await send(client, raw.ljust(BATCH_BYTES_MAX, b"\n"), kind))) == 1


async def test_a_name_that_stands_twice_in_a_task_sinks_that_one(client: Client, broker: FakeBroker) -> None:
    found = await results(
        await send(client, array([GOOD % 1, b'{"url": "http://a.example/", "url": "http://b.example/"}']))
    )
    assert [each["status"] for each in found] == [201, 422]


async def test_nothing_asked_is_nothing_done(client: Client, broker: FakeBroker) -> None:
    assert await results(await send(client, b'{"tasks": []}')) == []
    assert await results(await send(client, b"\n \r\n", NDJSON)) == []
    assert broker.published == []


@pytest.mark.parametrize("kind", ["application/json", NDJSON])
async def test_a_batch_may_have_a_thousand_tasks(client: Client, broker: FakeBroker, kind: str) -> None:
    items = [GOOD % n for n in range(ITEMS_MAX)]
    found = await results(await send(client, b"\n".join(items) if kind == NDJSON else array(items), kind))
    assert [each["id"] for each in found] == [str(task.id) for task in tasks(broker)]
    assert len({each["id"] for each in found}) == ITEMS_MAX


async def test_lines_after_the_thousandth_have_one_result_and_are_not_taken(client: Client, broker: FakeBroker) -> None:
    found = await results(await send(client, b"\n".join([GOOD % 1] * (ITEMS_MAX + 500)), NDJSON))
    assert len(broker.published) == ITEMS_MAX
    assert [each["status"] for each in found] == [201] * ITEMS_MAX + [413]
    assert found[-1]["problem"]["code"] == "too_many"


async def test_lines_beyond_the_size_of_a_batch_have_one_result_and_are_not_taken(
    client: Client, broker: FakeBroker
) -> None:
    line = (GOOD % 1).ljust(BODY_BYTES_MAX) + b"\n"

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10 * BATCH_BYTES_MAX // len(line)):
            yield b"\n" * len(line)  # blank, so that they are no items
        pytest.fail("all of it was read")

    async def lines() -> AsyncIterator[bytes]:
        yield line * 3
        async for chunk in endless():
            yield chunk

    found = await results(await client.post(PATH, data=lines(), headers={"Content-Type": NDJSON}))
    assert [each["status"] for each in found] == [201, 201, 201, 413]
    assert found[-1]["problem"]["code"] == "body_too_large"
    assert len(broker.published) == 3


async def test_lines_are_taken_before_the_last_has_come(client: Client, broker: FakeBroker) -> None:
    more = asyncio.Event()

    async def lines() -> AsyncIterator[bytes]:
        yield GOOD % 1 + b"\n" + GOOD % 2
        await more.wait()

    sending = asyncio.create_task(client.post(PATH, data=lines(), headers={"Content-Type": NDJSON}))
    async with asyncio.timeout(5):
        await broker.asked.wait()
    assert len(broker.published) == 1
    more.set()
    assert len(await results(await sending)) == len(broker.published) == 2


async def test_only_items_without_a_confirm_are_503(client: Client, broker: FakeBroker) -> None:
    broker.failures = {2: Refused("full"), 3: PublishUnknown("no answer")}
    found = await results(await send(client, array([GOOD % n for n in range(5)])))
    assert [each["status"] for each in found] == [201, 201, 503, 503, 201]
    assert found[2]["problem"]["code"] == "not_confirmed"


async def test_after_a_failed_publish_the_rest_is_not_tried(client: Client, broker: FakeBroker) -> None:
    """Each try may take five seconds: a stream must not wait for many of them."""
    broker.failures = {0: PublishUnknown("no answer")}

    async def lines() -> AsyncIterator[bytes]:
        yield GOOD % 1 + b"\n" + GOOD % 2 + b"\n"
        await broker.asked.wait()
        yield GOOD % 3 + b"\n"

    found = await results(await client.post(PATH, data=lines(), headers={"Content-Type": NDJSON}))
    assert [each["status"] for each in found] == [503, 201, 503]
    assert len(broker.published) == 2


@pytest.mark.parametrize("kind", ["application/json", NDJSON])
async def test_other_requests_have_their_turn_while_a_batch_is_read(
    client: Client, broker: FakeBroker, kind: str
) -> None:
    items = [GOOD % n for n in range(ITEMS_MAX)]
    async with asyncio.TaskGroup() as group:
        whole = group.create_task(send(client, b"\n".join(items) if kind == NDJSON else array(items), kind))
        turns = 0
        while not broker.asked.is_set():
            await asyncio.sleep(0)
            turns += 1
    assert len(await results(await whole)) == ITEMS_MAX
    assert turns > 1.5 * ITEMS_MAX / TURN_ITEMS


async def test_a_repeated_batch_with_a_key_makes_the_same_tasks_once(client: Client, broker: FakeBroker) -> None:
    items = array([GOOD % 1, b"{}", GOOD % 1])
    first, second = [await send(client, items, **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert await results(first) == await results(second)
    assert len({task.id for task in tasks(broker)}) == len(broker.published) == 2
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("is_projected", [True, False])
async def test_under_its_key_a_changed_item_is_refused_and_a_new_one_taken(
    client: Client, broker: FakeBroker, history: FakeHistory, is_projected: bool
) -> None:
    await send(client, array([GOOD % 1, GOOD % 2]), **{"Idempotency-Key": "k"})
    if is_projected:
        history.tasks = {task.id: just_created(task) for task in tasks(broker)}
    response = await send(client, array([GOOD % 1, GOOD % 3, GOOD % 4]), **{"Idempotency-Key": "k"})
    found = await results(response)
    assert [each["status"] for each in found] == [201, 422, 201]
    assert found[1]["problem"]["code"] == "idempotency_key_reused"
    assert len(broker.published) == 3
    assert "Idempotency-Replayed" not in response.headers


async def test_what_another_replica_has_made_is_known_from_the_history(
    aiohttp_client: AiohttpClient, client: Client, broker: FakeBroker, history: FakeHistory
) -> None:
    items, headers = [GOOD % 1, GOOD % 2], {"Idempotency-Key": "k", "Authorization": f"Bearer {KEY}"}
    first = await results(await send(client, array(items), **headers))
    history.tasks = {task.id: just_created(task) for task in tasks(broker)}
    door = BatchDoor(broker, history, SystemClock(), Rules(EgressRules(), BODY_BYTES_MAX))
    replica = await aiohttp_client(build_app([door], Keys(KEY), version="1", body_bytes_max=BODY_BYTES_MAX))
    response = await send(replica, array([items[0], GOOD % 3]), **headers)
    second = await results(response)
    assert [each["status"] for each in second] == [201, 422]
    assert (second[0], response.headers["Idempotency-Replayed"]) == (first[0], "true")
    assert second[1]["problem"]["code"] == "idempotency_key_reused"
    assert len(broker.published) == 2


async def test_under_a_key_an_items_id_depends_on_its_index_and_on_nothing_else(
    client: Client, broker: FakeBroker
) -> None:
    items = [GOOD % 1, b"{}", GOOD % 1, GOOD % 1]

    async def lines() -> AsyncIterator[bytes]:
        yield b"\n".join(items[:3]) + b"\n"
        await broker.asked.wait()  # so that the last comes in another piece
        yield items[3]

    headers = {"Content-Type": NDJSON, "Idempotency-Key": "k"}
    first = await results(await client.post(PATH, data=lines(), headers=headers))
    second = await results(await send(client, array(items), **{"Idempotency-Key": "k"}))
    assert first == second
    assert len({each["id"] for each in first if "id" in each}) == len(broker.published) == 3


async def test_after_unconfirmed_items_a_repeat_with_the_key_completes_the_batch(
    client: Client, broker: FakeBroker
) -> None:
    broker.failures = {1: PublishUnknown("no answer")}
    items = array([GOOD % n for n in range(3)])
    first = await results(await send(client, items, **{"Idempotency-Key": "k"}))
    await asyncio.sleep(0.005)  # another millisecond, which must not show
    second = await results(await send(client, items, **{"Idempotency-Key": "k"}))
    assert [each["status"] for each in first] == [201, 503, 201]
    assert [each["status"] for each in second] == [201, 201, 201]
    assert (second[0]["id"], second[2]["id"]) == (first[0]["id"], first[2]["id"])
    _first, missing, _third, repeated = tasks(broker)
    assert missing.id == repeated.id == UUID(second[1]["id"])
    assert (missing.created_at, missing.due_at) == (repeated.created_at, repeated.due_at)


async def test_while_a_batch_is_running_its_key_is_taken(client: Client, broker: FakeBroker) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    first = asyncio.create_task(send(client, array([GOOD % 1]), **{"Idempotency-Key": "k"}))
    await broker.asked.wait()
    second = await send(client, array([GOOD % 1]), **{"Idempotency-Key": "k"})
    assert (second.status, (await second.json(content_type=None))["code"]) == (409, "in_progress")
    broker.confirm.set_result(None)
    assert len(await results(await first)) == 1


async def test_a_batch_does_not_wait_for_a_history_that_is_away(
    client: Client, broker: FakeBroker, history: FakeHistory
) -> None:
    history.error = PostgresAway("down")
    assert len(await results(await send(client, array([GOOD % 1]), **{"Idempotency-Key": "k"}))) == 1
    assert len(broker.published) == 1
