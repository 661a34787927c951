"""What a user is promised, seen from outside."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy

import aiohttp
from standardwebhooks.webhooks import Webhook

from tests.conftest import ROOT
from tests.e2e.conftest import RETRY_SCHEDULE_S, STACK, Receiver, create, eventually, mails, task_in


async def test_a_task_is_called_at_its_time_with_its_bytes_unchanged(
    api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    due_at = datetime.now(UTC) + timedelta(seconds=2)
    task = await create(
        api, url=f"{receiver.url}/exact?b=2&a=%20x", due_at=due_at.isoformat(), headers={"X-Mine": "yes"},
        body_text='{ "spaces" : [1,  2] }', content_type="application/json",
    )  # fmt: skip
    finished = await task_in(api, task["id"], "succeeded")
    [call] = receiver.calls["exact"]
    assert call.at >= due_at
    assert call.path == "/exact?b=2&a=%20x"
    assert call.body == b'{ "spaces" : [1,  2] }'
    assert call.headers["x-mine"] == "yes"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == task["id"]
    assert call.headers["carillon-attempt"] == f"1/{len(RETRY_SCHEDULE_S) + 1}"
    assert finished["attempt_count"] == 1
    assert finished["last_attempt"]["status_code"] == 200
    assert 0 <= finished["lateness_ms"] < 2000


async def test_a_call_verifies_with_the_secret_that_the_receivers_owner_is_told(
    api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    task = await create(api, url=f"{receiver.url}/signed", body={"for": "Zo\u00eb \u2603"})
    await task_in(api, task["id"], "succeeded")
    key = (STACK / "secrets" / "signing-master-key").read_text()
    command = (sys.executable, "-m", "services.dispatcher.secret", "default")  # as in docs/receivers.md
    environ = {"CARILLON_SIGNING_MASTER_KEY": key}
    told = await asyncio.to_thread(subprocess.run, command, env=environ, cwd=ROOT, capture_output=True, check=True)
    [call] = receiver.calls["signed"]
    assert Webhook(told.stdout.decode().strip()).verify(call.body, call.headers) == {"for": "Zo\u00eb \u2603"}


async def test_a_failing_task_climbs_the_rungs_exactly_and_succeeds(
    api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    receiver.answers["climbs"] = [503, 500, 200]
    task = await create(api, url=f"{receiver.url}/climbs")
    finished = await task_in(api, task["id"], "succeeded")
    first, second, third = receiver.calls["climbs"]
    assert finished["attempt_count"] == 3
    assert (second.at - first.at).total_seconds() >= RETRY_SCHEDULE_S[0]
    assert (third.at - second.at).total_seconds() >= RETRY_SCHEDULE_S[1]
    assert {call.headers["webhook-id"] for call in (first, second, third)} == {task["id"]}
    async with api.get(f"/v1/tasks/{task['id']}/attempts") as response:
        attempts = (await response.json())["data"]
    numbers = sorted((each["number"], each["status_code"]) for each in attempts)
    assert numbers == [(1, 503), (2, 500), (3, 200)]


async def test_a_delay_without_a_rung_comes_back_by_the_scheduler(
    api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    receiver.answers["custom"] = [500, 200]
    task = await create(api, url=f"{receiver.url}/custom", retry={"schedule_s": [0.7]})
    await task_in(api, task["id"], "succeeded")
    first, second = receiver.calls["custom"]
    assert (second.at - first.at).total_seconds() >= 0.7


async def test_a_task_that_never_succeeds_ends_as_failed_and_in_one_mail(
    api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    receiver.answers["never"] = [500]
    task = await create(api, url=f"{receiver.url}/never", labels={"order": "42"})
    finished = await task_in(api, task["id"], "failed")
    assert finished["attempt_count"] == len(RETRY_SCHEDULE_S) + 1
    told = await eventually("the digest mail", lambda: [mail for mail in map(_text, mails()) if task["id"] in mail])
    assert len(told) == 1
    assert "HTTP 500" in told[0] or "server_error" in told[0]


async def test_gone_ends_a_task_at_once(api: aiohttp.ClientSession, receiver: Receiver) -> None:
    receiver.answers["gone"] = [410]
    task = await create(api, url=f"{receiver.url}/gone")
    assert (await task_in(api, task["id"], "failed"))["attempt_count"] == 1


async def test_a_private_address_is_refused_at_once(api: aiohttp.ClientSession) -> None:
    async with api.post("/v1/tasks", json={"url": "http://10.0.0.1/"}) as response:
        problem = await response.json()
    assert (response.status, problem["errors"][0]["pointer"]) == (422, "/url")
    assert "CARILLON_ALLOW_NETWORKS" in problem["errors"][0]["detail"]


async def test_a_task_past_its_expiry_is_never_called(api: aiohttp.ClientSession, receiver: Receiver) -> None:
    receiver.answers["expires"] = [500]
    soon = datetime.now(UTC) + timedelta(seconds=4)
    task = await create(api, url=f"{receiver.url}/expires", expires_at=soon.isoformat(), retry={"schedule_s": [4.5]})
    await task_in(api, task["id"], "expired")
    assert len(receiver.calls["expires"]) == 1


async def test_the_legacy_form_posts_its_parameters(api: aiohttp.ClientSession, receiver: Receiver) -> None:
    plan_time = int(datetime.now(UTC).timestamp()) + 2
    form = {"notify_url": f"{receiver.url}/legacy", "plan_time": str(plan_time), "method_name": "post"}
    form["notify_param"] = "a=1"
    async with api.post("/api/task/save", data=form) as response:
        assert response.status == 200
        assert (await response.json())["code"] == "ok"
    [call] = await eventually("the legacy call", lambda: receiver.calls.get("legacy"))
    assert call.at.timestamp() >= plan_time
    assert (call.method, call.body) == ("POST", b"a=1")
    assert call.headers["content-type"].startswith("application/x-www-form-urlencoded")


async def test_a_notice_reaches_the_digest(api: aiohttp.ClientSession) -> None:
    async with api.post("/fallback", json={"subject": "disk", "message": "almost full 93 %"}) as response:
        assert response.status == 202, await response.text()
    await eventually("the notice in a mail", lambda: [mail for mail in mails() if "almost full 93 %" in _text(mail)])


async def test_fifty_repeats_of_one_key_over_both_replicas_are_one_call(
    api: aiohttp.ClientSession, stack: dict[str, str], receiver: Receiver
) -> None:
    second = stack["CARILLON_URL"].replace(":10080", ":10090")
    body = {"url": f"{receiver.url}/once", "delay": 1}

    async def one(base: str) -> str:
        async with api.post(f"{base}/v1/tasks", json=body, headers={"Idempotency-Key": "only-once"}) as response:
            answer = await response.json()
        if (response.status, answer.get("code")) == (409, "in_progress"):  # as its Retry-After says
            await asyncio.sleep(float(response.headers["Retry-After"]))
            return await one(base)
        assert response.status == 201, answer
        return str(answer["id"])

    ids = await asyncio.gather(*(one(base) for _ in range(25) for base in (stack["CARILLON_URL"], second)))
    assert len(set(ids)) == 1
    await task_in(api, ids[0], "succeeded")
    assert len(receiver.calls["once"]) == 1


def _text(path: object) -> str:
    message = message_from_bytes(path.read_bytes(), policy=policy.default)  # type: ignore[attr-defined]
    body = message.get_body(("plain",))
    return body.get_content() if body is not None else ""
