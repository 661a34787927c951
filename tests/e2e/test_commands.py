"""What a user does to a task or a schedule after the 201, seen from outside: who is called, and who is not any more."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.e2e.conftest import RETRY_SCHEDULE_S, Receiver, create, eventually, task_in

ATTEMPTS = len(RETRY_SCHEDULE_S) + 1


async def asked(api: aiohttp.ClientSession, method: str, path: str, **more: Any) -> tuple[int, dict[str, Any]]:
    async with api.request(method, path, **more) as response:
        return response.status, await response.json() if response.status != 204 else {}


async def passed(api: aiohttp.ClientSession, receiver: Receiver, name: str, delay_s: float) -> None:
    """Until a task that was created later, and is due `delay_s` from now, has been called."""
    await create(api, url=f"{receiver.url}/{name}-witness", delay=delay_s)
    await eventually("the witness's call", lambda: receiver.calls.get(f"{name}-witness"))


class TestCancel:
    async def test_right_after_the_201_there_is_no_call_however_near_it_was(
        self, api: aiohttp.ClientSession, receiver: Receiver
    ) -> None:
        async def one() -> None:
            task = await create(api, url=f"{receiver.url}/waiting", delay=2)
            for _ in range(2):  # and once more
                status, body = await asked(api, "DELETE", f"/v1/tasks/{task['id']}")
                assert (status, body["status"], body["next_attempt_at"]) == (200, "cancelled", None), body
            await task_in(api, task["id"], "cancelled")

        await asyncio.gather(*(one() for _ in range(20)))
        await passed(api, receiver, "waiting", 2.5)
        assert "waiting" not in receiver.calls

    async def test_while_it_waits_on_a_rung_there_is_no_other_call(
        self, api: aiohttp.ClientSession, receiver: Receiver
    ) -> None:
        receiver.answers["on-rung"] = [503]
        task = await create(api, url=f"{receiver.url}/on-rung")
        await task_in(api, task["id"], "retrying")
        status, body = await asked(api, "DELETE", f"/v1/tasks/{task['id']}")
        assert (status, body["status"], body["attempt_count"]) == (200, "cancelled", len(receiver.calls["on-rung"]))
        calls = len(receiver.calls["on-rung"])
        await passed(api, receiver, "on-rung", sum(RETRY_SCHEDULE_S) + 0.5)
        assert len(receiver.calls["on-rung"]) == calls
        assert (await task_in(api, task["id"], "cancelled"))["attempt_count"] == calls
        assert (await asked(api, "DELETE", f"/v1/tasks/{task['id']}"))[0] == 200

    @pytest.mark.parametrize(("answer", "ends_as"), [(503, "cancelled"), (200, "succeeded")])
    async def test_during_a_call_is_a_202_and_the_call_decides(
        self, api: aiohttp.ClientSession, receiver: Receiver, answer: int, ends_as: str
    ) -> None:
        name = f"in-flight-{answer}"
        receiver.answers[name], receiver.gates[name] = [answer], asyncio.Event()
        task = await create(api, url=f"{receiver.url}/{name}")
        await eventually("the call", lambda: receiver.calls.get(name))
        status, body = await asked(api, "DELETE", f"/v1/tasks/{task['id']}")
        assert (status, body["id"]) == (202, task["id"])
        receiver.gates[name].set()
        await task_in(api, task["id"], ends_as)
        status, body = await asked(api, "DELETE", f"/v1/tasks/{task['id']}")
        assert status == (200 if ends_as == "cancelled" else 409), body
        await passed(api, receiver, name, sum(RETRY_SCHEDULE_S) + 0.5)
        assert len(receiver.calls[name]) == 1

    async def test_of_what_has_ended_is_a_409(self, api: aiohttp.ClientSession, receiver: Receiver) -> None:
        task = await create(api, url=f"{receiver.url}/ended")
        await task_in(api, task["id"], "succeeded")
        status, body = await asked(api, "DELETE", f"/v1/tasks/{task['id']}")
        assert (status, body["code"]) == (409, "already_final")

    async def test_races_with_the_call_and_never_says_200_to_one_that_is_made_after(
        self, api: aiohttp.ClientSession, receiver: Receiver
    ) -> None:
        async def one(number: int) -> tuple[str, int]:
            name = f"race-{number}"
            task = await create(api, url=f"{receiver.url}/{name}", delay=0.5 + number / 100)
            await asyncio.sleep(0.5)  # into the moments in which they are called
            calls = len(receiver.calls.get(name, []))
            status, _body = await asked(api, "DELETE", f"/v1/tasks/{task['id']}")
            if status == 200 and calls == 0:
                await task_in(api, task["id"], "cancelled")
            return name, status

        results = await asyncio.gather(*(one(number) for number in range(40)))
        await passed(api, receiver, "race", 1.5)
        called_after_200 = [name for name, status in results if status == 200 and receiver.calls.get(name)]
        assert called_after_200 == []
        assert {status for _name, status in results} <= {200, 202, 409}


class TestMoveAndRun:
    async def test_a_task_is_called_at_its_new_time_and_not_at_its_old_one(
        self, api: aiohttp.ClientSession, receiver: Receiver
    ) -> None:
        task = await create(api, url=f"{receiver.url}/moved", delay=2)
        status, body = await asked(api, "PATCH", f"/v1/tasks/{task['id']}", json={"delay": "1h"})
        assert (status, body["status"]) == (200, "scheduled")
        assert body["due_at"] == body["next_attempt_at"] > task["due_at"]
        await passed(api, receiver, "moved", 2.5)
        assert "moved" not in receiver.calls
        status, body = await asked(api, "PATCH", f"/v1/tasks/{task['id']}", json={"delay": 0.5})
        assert status == 200
        finished = await task_in(api, task["id"], "succeeded")
        assert (finished["due_at"], len(receiver.calls["moved"])) == (body["due_at"], 1)
        status, body = await asked(api, "PATCH", f"/v1/tasks/{task['id']}", json={"delay": 5})
        assert (status, body["code"]) == (409, "not_scheduled")

    async def test_a_task_is_called_now_and_then_no_more(self, api: aiohttp.ClientSession, receiver: Receiver) -> None:
        task = await create(api, url=f"{receiver.url}/run", delay=3)
        status, body = await asked(api, "POST", f"/v1/tasks/{task['id']}/run")
        assert (status, body["status"]) == (200, "scheduled")
        assert body["due_at"] < task["due_at"]
        await task_in(api, task["id"], "succeeded")
        status, body = await asked(api, "POST", f"/v1/tasks/{task['id']}/run")
        assert (status, body["code"]) == (409, "not_scheduled")
        await passed(api, receiver, "run", 3)
        assert len(receiver.calls["run"]) == 1

    async def test_a_moved_task_can_be_cancelled(self, api: aiohttp.ClientSession, receiver: Receiver) -> None:
        task = await create(api, url=f"{receiver.url}/moved-off", delay=60)
        await asked(api, "PATCH", f"/v1/tasks/{task['id']}", json={"delay": 2})
        status, body = await asked(api, "DELETE", f"/v1/tasks/{task['id']}")
        assert (status, body["status"]) == (200, "cancelled")
        await passed(api, receiver, "moved-off", 2.5)
        assert "moved-off" not in receiver.calls


class TestRedrive:
    async def test_many_at_once_are_one_new_life_with_a_fresh_ladder(
        self, api: aiohttp.ClientSession, stack: dict[str, str], receiver: Receiver
    ) -> None:
        receiver.answers["again"] = [500] * (ATTEMPTS + 1) + [200]
        task = await create(api, url=f"{receiver.url}/again", body={"a": 1}, labels={"order": "42"})
        await task_in(api, task["id"], "failed")
        assert len(receiver.calls["again"]) == ATTEMPTS
        path = f"/v1/tasks/{task['id']}/redrive"
        first = URL(stack["CARILLON_URL"])
        second = str(first.with_port((first.port or 0) + 10)).rstrip("/")
        answers = await asyncio.gather(*(asked(api, "POST", base + path) for base in ("", second) for _ in range(10)))
        assert {status for status, _body in answers} <= {200, 409}
        [status, *_] = [body["status"] for code, body in answers if code == 200]
        assert status == "scheduled"
        finished = await task_in(api, task["id"], "succeeded")
        assert (finished["attempt_count"], finished["labels"], finished["body"]) == (2, {"order": "42"}, {"a": 1})
        calls = receiver.calls["again"][ATTEMPTS:]
        assert [call.headers["carillon-attempt"] for call in calls] == [f"1/{ATTEMPTS}", f"2/{ATTEMPTS}"]
        assert {call.headers["webhook-id"] for call in calls} == {task["id"]}
        _status, attempts = await asked(api, "GET", f"/v1/tasks/{task['id']}/attempts")
        lives = [(each["generation"], each["number"]) for each in attempts["data"]]
        assert lives == [(1, number) for number in range(1, ATTEMPTS + 1)] + [(2, 1), (2, 2)]

    async def test_an_expired_task_is_called_after_all(self, api: aiohttp.ClientSession, receiver: Receiver) -> None:
        receiver.answers["late"] = [500, 200]
        task = await create(api, url=f"{receiver.url}/late", delay=0, expires_at=_soon(4), retry={"schedule_s": [4.5]})
        await task_in(api, task["id"], "expired")
        status, body = await asked(api, "POST", f"/v1/tasks/{task['id']}/redrive")
        assert (status, body["expires_at"]) == (200, None)
        await task_in(api, task["id"], "succeeded")

    async def test_a_redriven_task_can_be_cancelled_at_once(
        self, api: aiohttp.ClientSession, receiver: Receiver
    ) -> None:
        receiver.answers["undone"] = [410, 500]
        task = await create(api, url=f"{receiver.url}/undone")
        await task_in(api, task["id"], "failed")
        assert (await asked(api, "POST", f"/v1/tasks/{task['id']}/redrive"))[0] == 200
        status, _body = await asked(api, "DELETE", f"/v1/tasks/{task['id']}")
        assert status in (200, 202)
        await task_in(api, task["id"], "cancelled")
        calls = len(receiver.calls["undone"])
        await passed(api, receiver, "undone", sum(RETRY_SCHEDULE_S) + 0.5)
        assert len(receiver.calls["undone"]) == calls <= 2


class TestSchedules:
    async def test_from_the_put_to_the_delete(self, api: aiohttp.ClientSession, receiver: Receiver) -> None:
        path, body = "/v1/schedules/every-second", {"every": "1s", "task": {"url": f"{receiver.url}/second"}}
        status, made = await asked(api, "PUT", path, json=body)
        assert (status, made["status"], made["words"]) == (201, "active", "Every second")
        await eventually("three calls", lambda: len(receiver.calls.get("second", [])) >= 3)
        status, same = await asked(api, "PUT", path, json=body)
        assert (status, same["revision"]) == (200, made["revision"])

        status, paused = await asked(api, "POST", f"{path}/pause")
        assert (status, paused["status"], paused["next_at"]) == (200, "paused", None)
        calls = len(receiver.calls["second"])
        status, run = await asked(api, "POST", f"{path}/run")
        assert status == 201
        await task_in(api, run["task_id"], "succeeded")
        await passed(api, receiver, "second", 2.5)
        assert calls + 1 <= len(receiver.calls["second"]) <= calls + 2  # one may have been under way

        assert (await asked(api, "POST", f"{path}/resume"))[1]["status"] == "active"
        seen = len(receiver.calls["second"])
        await eventually("calls again", lambda: len(receiver.calls["second"]) > seen + 1)
        hourly = body | {"every": "1h", "timezone": "Europe/Paris"}
        status, replaced = await asked(api, "PUT", path, json=hourly)
        assert (status, replaced["every"], replaced["created_at"]) == (200, "1h", made["created_at"])
        assert replaced["revision"] > made["revision"]
        _status, page = await asked(api, "GET", "/v1/schedules?limit=250")
        assert [each["next_at"] for each in page["data"] if each["name"] == "every-second"] == [replaced["next_at"]]

        assert (await asked(api, "DELETE", path))[0] == 204
        assert (await asked(api, "GET", path))[0] == (await asked(api, "DELETE", path))[0] == 404
        assert (await asked(api, "PUT", path, json=hourly))[0] == 201
        assert (await asked(api, "DELETE", path))[0] == 204

    async def test_a_preview_is_what_the_schedule_then_says(
        self, api: aiohttp.ClientSession, receiver: Receiver
    ) -> None:
        times = {"cron": "15 3 L * *", "timezone": "America/New_York"}
        _status, preview = await asked(api, "POST", "/v1/schedules/preview", json=times)
        task = {"url": f"{receiver.url}/never"}
        _status, made = await asked(api, "PUT", "/v1/schedules/monthly", json=times | {"task": task})
        assert (made["next_at"], made["next_local"]) == (preview["data"][0]["at"], preview["data"][0]["local"])
        assert made["words"] == preview["words"]
        assert (await asked(api, "DELETE", "/v1/schedules/monthly"))[0] == 204


async def test_a_task_is_explained_all_along_its_way(api: aiohttp.ClientSession, receiver: Receiver) -> None:
    async def told(task: dict[str, Any]) -> str:
        status, explanation = await asked(api, "GET", f"/v1/tasks/{task['id']}/explain")
        assert status == 200, explanation
        return str(explanation["code"])

    receiver.answers["explained"] = [503, 410]
    task = await create(api, url=f"{receiver.url}/explained", delay="1h")
    assert await told(task) == "waiting_for_time"
    await asked(api, "POST", f"/v1/tasks/{task['id']}/run")
    await task_in(api, task["id"], "retrying")
    assert await told(task) in ("waiting_for_retry", "being_called")
    await task_in(api, task["id"], "failed")
    _status, explanation = await asked(api, "GET", f"/v1/tasks/{task['id']}/explain")
    assert [cause["code"] for cause in explanation["because"]] == ["gone", "last_answer"]


async def test_a_task_of_a_paused_target_says_so_and_is_called_when_that_is_resumed(
    api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    host = URL(receiver.url).authority
    assert (await asked(api, "POST", f"/v1/targets/{host}/pause"))[0] == 200
    task = await create(api, url=f"{receiver.url}/held-back", delay=2.5)  # every dispatcher knows by then

    async def put_off() -> dict[str, Any] | None:
        _status, told = await asked(api, "GET", f"/v1/tasks/{task['id']}/explain")
        return told if told["code"] == "put_off" else None

    told: dict[str, Any] = await eventually("an explanation", put_off)
    assert [cause["code"] for cause in told["because"]] == ["target_paused"]
    assert host in told["sentence"]
    assert "held-back" not in receiver.calls
    assert (await asked(api, "POST", f"/v1/targets/{host}/resume"))[0] == 200
    await task_in(api, task["id"], "succeeded")


def _soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
