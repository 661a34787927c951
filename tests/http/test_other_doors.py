import asyncio
from datetime import timedelta
from typing import Any

import pytest

from libs.common.clock import SystemClock
from libs.common.contracts import Notice, decode_call
from libs.common.publisher import PublishUnknown
from libs.common.topology import FALLBACK_ENTRY
from services.ingest.legacy import LegacyRules
from tests.http.conftest import KEY, Client, FakeBroker

SOON = 2_000_000_000


async def save(client: Client, **form: Any) -> dict[str, Any]:
    response = await client.post("/api/task/save", data={name: str(value) for name, value in form.items()})
    assert response.status == 200
    answer: dict[str, Any] = await response.json()
    return answer


def refuse(broker: FakeBroker) -> None:
    broker.confirm = asyncio.get_running_loop().create_future()
    broker.confirm.set_exception(PublishUnknown("no answer"))


async def test_a_legacy_post_sends_its_parameters_as_a_form(anonymous: Client, broker: FakeBroker) -> None:
    answer = await save(
        anonymous, notify_url="http://x/cb", plan_time=SOON, method_name="POST", notify_param="a=1&b=%20"
    )
    task = broker.created.task
    call = decode_call(task.call)
    assert answer == {"code": "ok", "data": "操作成功", "id": str(task.id)}
    assert (call.method, call.url, call.body) == ("POST", "http://x/cb", b"a=1&b=%20")
    assert call.headers == (("Content-Type", "application/x-www-form-urlencoded"),)
    assert task.due_at.timestamp() == SOON
    assert not call.expect_json_success


@pytest.mark.parametrize("method", ["get", "", "put"])
@pytest.mark.parametrize(
    ("url", "called"), [("http://x/cb", "http://x/cb?a=1&b=2"), ("http://x/cb?c=3", "http://x/cb?c=3&a=1&b=2")]
)
async def test_a_legacy_get_sends_its_parameters_as_the_query(
    anonymous: Client, broker: FakeBroker, method: str, url: str, called: str
) -> None:
    await save(anonymous, notify_url=url, plan_time=SOON, method_name=method, notify_param="a=1&b=2")
    call = decode_call(broker.created.task.call)
    assert (call.method, call.url, call.body) == ("GET", called, b"")


@pytest.mark.parametrize("form", [{"plan_time": 1}, {"plan_time": 0}, {"plan_time": -5}, {"plan_time": ""}, {}])
async def test_a_legacy_time_that_has_passed_means_ten_seconds_from_now(
    anonymous: Client, broker: FakeBroker, form: dict[str, Any]
) -> None:
    before = SystemClock().now()
    await save(anonymous, notify_url="http://x/", **form)
    ten_s, ms = timedelta(seconds=10), timedelta(milliseconds=1)
    assert before + ten_s - ms <= broker.created.task.due_at <= SystemClock().now() + ten_s + ms


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({}, "通知地址参数必须"),
        ({"notify_url": "http://x/", "plan_time": "soon"}, "plan_time"),
        ({"notify_url": "ftp://x/"}, "url"),
        ({"notify_url": "http://x/", "plan_time": 10**12}, "plan_time"),
    ],
)
async def test_a_legacy_refusal_is_a_200_with_a_reason(
    anonymous: Client, broker: FakeBroker, form: dict[str, Any], reason: str
) -> None:
    answer = await save(anonymous, **form)
    assert answer["code"] == "no"
    assert reason in answer["data"]
    assert broker.published == []


async def test_a_legacy_task_that_is_not_confirmed_is_a_no(anonymous: Client, broker: FakeBroker) -> None:
    refuse(broker)
    assert (await save(anonymous, notify_url="http://x/"))["code"] == "no"


async def test_a_legacy_form_may_be_multipart_and_broken(anonymous: Client, broker: FakeBroker) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="notify_url"\r\n\r\nhttp://x/\r\n--x--\r\n'
    answer = await (await anonymous.post("/api/task/save", data=body, headers=headers)).json()
    assert answer["code"] == "ok"
    for broken in (b"", b"--x", b"--x\r\n\r\n\r\n--x--", b"nothing"):
        response = await anonymous.post("/api/task/save", data=broken, headers=headers)
        assert (response.status, (await response.json())["code"]) == (200, "no")


class TestALegacyDoorWithoutAProject:
    @pytest.fixture
    def legacy_rules(self) -> LegacyRules:
        return LegacyRules(None, 10, is_json_success=True)

    async def test_it_needs_the_key(self, anonymous: Client, broker: FakeBroker) -> None:
        assert (await save(anonymous, notify_url="http://x/"))["code"] == "no"
        assert broker.published == []

    async def test_with_the_key_it_opens(self, client: Client, broker: FakeBroker) -> None:
        assert (await save(client, notify_url="http://x/"))["code"] == "ok"
        assert decode_call(broker.created.task.call).expect_json_success


@pytest.mark.parametrize(
    ("sent", "subject", "message"),
    [
        ({"json": {"subject": "disk", "message": "full"}}, "disk", "full"),
        ({"json": {}}, "Fallback", "A request has been sent via fallback API"),
        ({"data": "é".encode(), "headers": {"Content-Type": "text/plain"}}, "Fallback", "é"),
        ({}, "Fallback", "A request has been sent via fallback API"),
    ],
)
async def test_a_notice_goes_straight_onto_the_fallback_queue(
    client: Client, broker: FakeBroker, sent: dict[str, Any], subject: str, message: str
) -> None:
    response = await client.post("/fallback", **sent)
    [(route, notice)] = broker.published
    assert response.status == 202
    assert route == FALLBACK_ENTRY
    assert isinstance(notice, Notice)
    assert (notice.subject, notice.message, notice.project) == (subject, message, "default")
    assert await response.json() == {"id": str(notice.id)}


async def test_a_notice_that_is_not_confirmed_is_a_503(client: Client, broker: FakeBroker) -> None:
    refuse(broker)
    response = await client.post("/fallback")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    ("sent", "status", "pointer"),
    [
        ({"json": {"subjekt": "x"}}, 422, "/subjekt"),
        ({"json": {"message": ""}}, 422, "/message"),
        ({"json": {"message": "x" * 10_001}}, 413, None),
        ({"json": {"subject": "a\nBcc: b"}}, 422, "/subject"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, None),
        ({"data": b"\xff", "headers": {"Content-Type": "text/plain"}}, 400, None),
        ({"data": b"<a/>", "headers": {"Content-Type": "text/xml"}}, 415, None),
    ],
)
async def test_a_notice_that_cannot_be_taken_is_refused(
    client: Client, broker: FakeBroker, sent: dict[str, Any], status: int, pointer: str | None
) -> None:
    response = await client.post("/fallback", **sent)
    problem = await response.json(content_type="application/problem+json")
    assert response.status == status
    assert [error["pointer"] for error in problem["errors"]] == ([pointer] if pointer else [])
    assert broker.published == []


async def test_a_notice_needs_the_key(anonymous: Client) -> None:
    assert (await anonymous.post("/fallback")).status == 401


async def test_the_index_names_the_version_and_the_doors(anonymous: Client) -> None:
    answer = await (await anonymous.get("/")).json()
    assert (answer["name"], answer["version"]) == ("carillon", "1.2.3")
    assert KEY not in str(answer)
