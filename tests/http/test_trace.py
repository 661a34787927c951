"""The trace that a task carries, with tracing off and on."""

import asyncio
from typing import Any

import pytest
from pytest_aiohttp.plugin import AiohttpClient

from libs.common.clock import SystemClock
from libs.common.contracts import decode_call
from libs.common.egress import EgressRules
from libs.common.publisher import Refused
from services.ingest.auth import Keys
from services.ingest.http import build_app
from services.ingest.legacy import LegacyRules
from services.ingest.legacy_door import LegacyDoor
from services.ingest.task_door import TaskDoor
from tests.collector import Recorder
from tests.http.conftest import BODY_BYTES_MAX, KEY, Client, FakeBroker, FakeHistory

TASK = {"url": "https://example.com/hook"}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENTS = f"00-{TRACE}-{PARENT}-01"
INVALID = [
    "",
    "nonsense",
    f"00-{TRACE}-{PARENT}",
    f"ff-{TRACE}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}-01-more",
]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def traced(
    aiohttp_client: AiohttpClient,
    broker: FakeBroker,
    history: FakeHistory,
    legacy_rules: LegacyRules,
    recorder: Recorder,
    egress: EgressRules,
) -> Client:
    keys, clock = Keys(KEY), SystemClock()
    doors = (TaskDoor(broker, history, clock, egress), LegacyDoor(keys, broker, clock, legacy_rules, egress))
    app = build_app(doors, keys, version="1.2.3", body_bytes_max=BODY_BYTES_MAX, tracer=recorder.tracer)
    return await aiohttp_client(app, headers={"Authorization": f"Bearer {KEY}"})


def carried(broker: FakeBroker) -> str | None:
    return decode_call(broker.created.task.call).traceparent


# --- off


@pytest.mark.parametrize("given", [CLIENTS, CLIENTS[:-2] + "00"])
async def test_off_the_clients_own_travels_untouched(client: Client, broker: FakeBroker, given: str) -> None:
    await client.post("/v1/tasks", json=TASK, headers={"traceparent": given})
    assert carried(broker) == given


@pytest.mark.parametrize("given", INVALID)
async def test_an_invalid_one_counts_as_none(client: Client, broker: FakeBroker, given: str) -> None:
    response = await client.post("/v1/tasks", json=TASK, headers={"traceparent": given})
    assert (response.status, carried(broker)) == (201, None)


async def test_two_count_as_none(client: Client, broker: FakeBroker) -> None:
    await client.post("/v1/tasks", json=TASK, headers=[("traceparent", CLIENTS), ("traceparent", CLIENTS)])
    assert carried(broker) is None


# --- on


async def test_on_the_task_carries_the_span_that_accepted_it(
    traced: Client, broker: FakeBroker, recorder: Recorder
) -> None:
    response = await traced.post("/v1/tasks?x=secret", json=TASK, headers={"traceparent": CLIENTS})
    span = recorder.only
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert carried(broker) == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert (span.name, span.kind.name, span.status.status_code.name) == ("POST /v1/tasks", "SERVER", "UNSET")
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/tasks",
        "http.response.status_code": 201,
        "url.path": "/v1/tasks",
        "url.scheme": "http",
        "carillon.task.id": (await response.json())["id"],
    }


@pytest.mark.parametrize("given", INVALID)
async def test_on_an_invalid_one_begins_a_trace_of_our_own(
    traced: Client, broker: FakeBroker, recorder: Recorder, given: str
) -> None:
    await traced.post("/v1/tasks", json=TASK, headers={"traceparent": given})
    context = recorder.only.context
    assert context is not None
    assert recorder.only.parent is None
    assert context.trace_id != int(TRACE, 16)
    assert (carried(broker) or "").startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")


async def test_a_task_of_the_legacy_form_carries_its_span_too(
    traced: Client, broker: FakeBroker, recorder: Recorder
) -> None:
    await traced.post("/api/task/save", data={"notify_url": TASK["url"]}, headers={"traceparent": CLIENTS})
    assert recorder.only.name == "POST /api/task/save"
    assert recorder.only.context is not None
    assert carried(broker) == f"00-{TRACE}-{recorder.only.context.span_id:016x}-01"
    assert (recorder.only.attributes or {})["carillon.task.id"] == str(broker.created.task.id)


async def test_only_an_answer_of_5xx_fails_its_span(traced: Client, broker: FakeBroker, recorder: Recorder) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    broker.confirm.set_exception(Refused("full"))
    await traced.post("/v1/tasks", json=TASK)
    attributes = recorder.only.attributes or {}
    assert recorder.only.status.status_code.name == "ERROR"
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (503, "503")


@pytest.mark.parametrize(
    ("method", "path", "name", "status"),
    [
        ("POST", "/v1/tasks", "POST /v1/tasks", 422),
        ("GET", "/v1/tasks/nonsense", "GET /v1/tasks/{id}", 404),
        ("GET", "/nowhere/else", "GET", 404),
        ("PROPFIND", "/v1/tasks", "HTTP /v1/tasks", 405),
    ],
)
async def test_a_span_is_named_by_its_route_and_a_clients_mistake_is_no_error(
    traced: Client, recorder: Recorder, method: str, path: str, name: str, status: int
) -> None:
    body: Any = {"url": "no"} if method == "POST" else None
    assert (await traced.request(method, path, json=body)).status == status
    assert (recorder.only.name, recorder.only.status.status_code.name) == (name, "UNSET")
    attributes = recorder.only.attributes or {}
    assert attributes["http.response.status_code"] == status
    assert attributes.get("http.route") == (name.split(" ")[1] if " " in name else None)
