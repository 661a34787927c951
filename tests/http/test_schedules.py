"""`/v1/schedules`: what the scheduler is asked, what a client is told of its answer, and what is refused before."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from yarl import URL

from libs.common.clock import format_utc
from libs.common.contracts import (
    Call,
    ChangeSchedule,
    HeldSchedule,
    ListSchedules,
    PutSchedule,
    Schedule,
    ScheduleAnswer,
    ScheduleList,
    decode_call,
    encode,
)
from libs.common.ids import new_id
from libs.common.publisher import PublishUnknown
from libs.common.topology import SCHEDULER_COMMAND
from tests.http.conftest import Client
from tests.http.services import FakeServices, Say, nothing

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TASK = {"url": "http://example.com/", "body": {"a": 1}, "labels": {"team": "x"}, "timeout_s": 3}
BODY = {"cron": "30 2 * * *", "timezone": "Europe/Paris", "task": TASK}
CALL = Call(url="http://example.com/", body=b'{"a": 1}', headers=(("Content-Type", "application/json"),), timeout_s=3)
SCHEDULE = Schedule(
    cron="30 2 * * *", timezone="Europe/Paris", labels={"team": "x"}, call=msgspec.Raw(encode(CALL)),
    expires_after_s=60, start_at=NOW,
)  # fmt: skip
HELD = HeldSchedule(
    id=UUID(int=9), project="default", name="nightly", revision=4, status="active", created_at=NOW, changed_at=NOW,
    next_at=datetime(2027, 3, 28, 1, 0, tzinfo=UTC), schedule=SCHEDULE,
)  # fmt: skip
PATH = "/v1/schedules/nightly"


def answered(result: str = "done", held: HeldSchedule | None = HELD, **fields: Any) -> Say:
    return lambda command: ScheduleAnswer(
        command_id=getattr(command, "command_id", UUID(int=1)), result=result, held=held, **fields  # type: ignore[arg-type]
    )  # fmt: skip


def kept(command: Any) -> ScheduleAnswer:
    """A put that the scheduler has taken."""
    held = msgspec.structs.replace(HELD, schedule=command.schedule)
    return ScheduleAnswer(command_id=command.command_id, result="done", held=held)


unknown = answered("unknown", None)


class TestPut:
    @pytest.mark.parametrize(("earlier", "status"), [(unknown, 201), (answered(), 200)])
    async def test_creates_or_replaces_and_shows_the_schedule_in_full(
        self, client: Client, services: FakeServices, earlier: Say, status: int
    ) -> None:
        services.says = [earlier, kept]
        response = await client.put(PATH, json=BODY)
        shown = await response.json()
        assert response.status == status
        assert (shown["name"], shown["revision"], shown["status"], shown["cron"]) == (
            "nightly",
            4,
            "active",
            "30 2 * * *",
        )
        assert (shown["next_at"], shown["next_local"]) == ("2027-03-28T01:00:00.000Z", "2027-03-28T03:00:00.000+02:00")
        assert shown["words"] == "At 02:30 every day"
        assert (shown["task"]["url"], shown["task"]["body"], shown["task"]["labels"]) == (
            "http://example.com/", {"a": 1}, {"team": "x"},
        )  # fmt: skip

    async def test_sends_the_template_as_a_call_without_a_trace(self, client: Client, services: FakeServices) -> None:
        services.says = [unknown, kept]
        body = BODY | {
            "start_at": "2027-01-01T00:00:00Z",
            "end_at": 1830000000,
            "catch_up": "all",
            "expires_after_s": 90,
        }
        assert (
            await client.put(PATH, json=body, headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
        ).status == 201
        [(_, show), (route, put)] = services.asked
        assert isinstance(show, ChangeSchedule)
        assert (show.action, show.project, show.name) == ("show", "default", "nightly")
        assert isinstance(put, PutSchedule)
        assert (route, put.project, put.name) == (SCHEDULER_COMMAND, "default", "nightly")
        schedule = put.schedule
        assert decode_call(schedule.call) == msgspec.structs.replace(CALL, body=b'{"a": 1}')
        assert (schedule.catch_up, schedule.expires_after_s, schedule.labels) == ("all", 90, {"team": "x"})
        assert schedule.start_at == datetime(2027, 1, 1, tzinfo=UTC)
        assert schedule.end_at == datetime.fromtimestamp(1830000000, UTC)

    @pytest.mark.parametrize(
        ("every", "sent", "words"), [("15m", "15m", "Every 15 minutes"), (90, "90s", "Every 90 seconds")]
    )
    async def test_takes_an_interval_as_text_or_seconds(
        self, client: Client, services: FakeServices, every: object, sent: str, words: str
    ) -> None:
        services.says = [unknown, kept]
        response = await client.put(PATH, json={"every": every, "task": TASK})
        assert (response.status, (await response.json())["words"]) == (201, words)
        assert services.commands[1].schedule.every == sent

    @pytest.mark.parametrize(
        ("change", "faults"),
        [
            ({"cron": None}, [("/cron", "required")]),
            ({"every": "5m"}, [("/every", "conflict")]),
            ({"cron": "61 * * * *"}, [("/cron", "bad_cron")]),
            ({"cron": "0 0 30 2 *"}, [("/cron", "bad_cron")]),
            ({"cron": None, "every": "0.5s"}, [("/every", "bad_interval")]),
            ({"cron": None, "every": 1e300}, [("/every", "bad_interval")]),
            ({"cron": None, "every": "often"}, [("/every", "bad_interval")]),
            ({"timezone": "Europe/Pariss"}, [("/timezone", "unknown_zone")]),
            ({"timezone": "../../etc/passwd"}, [("/timezone", "unknown_zone")]),
            ({"start_at": "2027-01-01T00:00:00"}, [("/start_at", "naive_time")]),
            ({"end_at": 10**12}, [("/end_at", "too_far")]),
            ({"start_at": 2000000000, "end_at": 1999999999}, [("/end_at", "too_early")]),
            ({"expires_after_s": 0.5}, [("/expires_after_s", "out_of_range")]),
            ({"expires_after_s": 1e300}, [("/expires_after_s", "out_of_range")]),
            ({"catch_up": "some"}, [("/catch_up", "wrong_type")]),
            ({"task": {}}, [("/task/url", "required")]),
            ({"task": TASK | {"due_at": 5}}, [("/task/due_at", "unknown_field")]),
            ({"task": TASK | {"retry": {"x": 5}}}, [("/task/retry/x", "unknown_field")]),
            ({"task": TASK | {"url": "http://10.0.0.1/"}}, [("/task/url", "blocked_address")]),
            ({"task": TASK | {"headers": {"Host": "x"}}}, [("/task/headers/Host", "reserved")]),
            ({"task": TASK | {"body_text": "x"}}, [("/task/body_text", "conflict")]),
            ({"zone": "UTC"}, [("/zone", "unknown_field")]),
            (
                {"cron": "x", "timezone": "y", "expires_after_s": 0, "task": TASK | {"timeout_s": 999}},
                [("/timezone", "unknown_zone"), ("/cron", "bad_cron"), ("/task/timeout_s", "out_of_range"),
                 ("/expires_after_s", "out_of_range")],
            ),
        ],
    )  # fmt: skip
    async def test_names_everything_that_is_wrong(
        self, client: Client, services: FakeServices, change: dict[str, Any], faults: list[tuple[str, str]]
    ) -> None:
        body = {name: value for name, value in (BODY | change).items() if value is not None}
        response = await client.put(PATH, json=body)
        errors = (await response.json())["errors"]
        assert (response.status, services.asked) == (422, [])
        assert [(each["pointer"], each["code"]) for each in errors] == faults

    @pytest.mark.parametrize("name", [".hidden", "a%20b", "a%2Fb", "x" * 129, "%00", "-x", "\u00e9"])
    async def test_refuses_a_name_that_is_none(self, client: Client, services: FakeServices, name: str) -> None:
        response = await client.put(f"/v1/schedules/{name}", json=BODY)
        assert (response.status, services.asked) == (422, [])
        assert (await response.json())["code"] == "bad_schedule_name"

    @pytest.mark.parametrize(
        ("detail", "pointer"),
        [("is no IANA time zone such as Europe/Paris", "/timezone"), ("is no cron expression", "/cron")],
    )
    async def test_says_what_the_scheduler_refuses(
        self, client: Client, services: FakeServices, detail: str, pointer: str
    ) -> None:
        services.says = [unknown, answered("invalid", None, detail=detail)]
        response = await client.put(PATH, json=BODY)
        errors = (await response.json())["errors"]
        assert (response.status, errors[0]["pointer"], errors[0]["detail"]) == (422, pointer, detail)

    @pytest.mark.parametrize("says", [[nothing], [unknown, nothing]])
    async def test_is_to_be_repeated_when_nobody_answers(
        self, client: Client, services: FakeServices, says: list[Any]
    ) -> None:
        services.says = says
        response = await client.put(PATH, json=BODY)
        assert (response.status, (await response.json())["code"]) == (503, "not_answered")


class TestOne:
    async def test_is_shown(self, client: Client, services: FakeServices) -> None:
        services.says = [answered()]
        response = await client.get(PATH)
        shown = await response.json()
        assert (response.status, shown["expires_after_s"], shown["catch_up"]) == (200, 60, "latest")
        assert (shown["start_at"], shown["end_at"], shown["every"]) == ("2026-11-21T12:00:00.000Z", None, None)
        assert [(command.action, command.name) for command in services.commands] == [("show", "nightly")]

    async def test_is_shown_too_when_its_zone_has_gone(self, client: Client, services: FakeServices) -> None:
        gone = msgspec.structs.replace(SCHEDULE, timezone="US/Pacific-New")
        services.says = [answered(held=msgspec.structs.replace(HELD, schedule=gone))]
        response = await client.get(PATH)
        shown = await response.json()
        assert (response.status, shown["words"], shown["next_local"]) == (200, None, None)

    @pytest.mark.parametrize("action", ["pause", "resume"])
    async def test_can_be_paused_and_resumed(self, client: Client, services: FakeServices, action: str) -> None:
        services.says = [answered(held=msgspec.structs.replace(HELD, status="paused", next_at=None))]
        response = await client.post(f"{PATH}/{action}")
        shown = await response.json()
        assert (response.status, shown["status"], shown["next_at"], shown["next_local"]) == (200, "paused", None, None)
        assert [command.action for command in services.commands] == [action]

    async def test_that_cannot_be_read_any_more_cannot_be_resumed(self, client: Client, services: FakeServices) -> None:
        services.says = [answered("invalid", None, detail="is no IANA time zone")]
        response = await client.post(f"{PATH}/resume")
        assert (response.status, (await response.json())["errors"][0]["code"]) == (422, "invalid_schedule")

    async def test_can_be_deleted(self, client: Client, services: FakeServices) -> None:
        services.says = [answered(held=msgspec.structs.replace(HELD, status="deleted", next_at=None, schedule=None))]
        response = await client.delete(PATH)
        assert (response.status, await response.read()) == (204, b"")
        assert [command.action for command in services.commands] == ["delete"]

    @pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
    async def test_is_changed_too_when_a_command_of_a_greater_id_has_been(
        self, client: Client, services: FakeServices, method: str
    ) -> None:
        """From a process whose clock is ahead, perhaps, and sent long before."""
        ahead = UUID(int=new_id().int + (3_600_000 << 80))
        services.says = [answered(overtaken_by=ahead), kept if method == "PUT" else answered()]
        if method == "PUT":  # which asks first whether there is one
            services.says.insert(0, answered())
        response = await client.request(method, f"{PATH}/pause" if method == "POST" else PATH, json=BODY)
        assert response.status == (204 if method == "DELETE" else 200)
        first, second = services.commands[-2:]
        assert second.command_id > ahead > first.command_id
        assert msgspec.structs.replace(second, command_id=first.command_id) == first

    async def test_can_be_run_once_per_key(self, client: Client, services: FakeServices) -> None:
        services.says = [answered(task_id=UUID(int=5))] * 4
        for headers in ({"Idempotency-Key": "k"}, {"Idempotency-Key": "k"}, {}, {}):
            response = await client.post(f"{PATH}/run", headers=headers)
            assert (response.status, await response.json()) == (201, {"task_id": str(UUID(int=5))})
            assert response.headers["Location"] == f"/v1/tasks/{UUID(int=5)}"
        first, second, third, fourth = (command.command_id for command in services.commands)
        assert first == second
        assert len({first, third, fourth}) == 3
        assert {command.action for command in services.commands} == {"run"}

    async def test_that_may_have_been_run_is_repeated_with_its_key(
        self, client: Client, services: FakeServices
    ) -> None:
        services.says = [nothing]
        response = await client.post(f"{PATH}/run")
        assert response.status == 503
        assert "Idempotency-Key" in (await response.json())["detail"]

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/run")],
    )
    async def test_that_there_is_not_is_a_404(
        self, client: Client, services: FakeServices, method: str, path: str
    ) -> None:
        services.says = [unknown]
        response = await client.request(method, PATH + path)
        assert (response.status, (await response.json())["code"]) == (404, "not_found")
        response = await client.request(method, f"/v1/schedules/a%00b{path}")
        assert response.status == 404
        assert len(services.asked) == 1  # no name that can be

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/run")],
    )
    async def test_cannot_be_asked_about_without_the_broker(
        self, client: Client, services: FakeServices, method: str, path: str
    ) -> None:
        services.says = [PublishUnknown("no confirm"), nothing]
        for code in ("not_confirmed", "not_answered"):
            response = await client.request(method, PATH + path)
            assert (response.status, (await response.json())["code"]) == (503, code)


class TestList:
    async def test_goes_on_where_it_ended(self, client: Client, services: FakeServices) -> None:
        lines = [msgspec.structs.replace(HELD, name=name, schedule=None) for name in ("a", "b", "c")]
        services.says = [lambda _c: ScheduleList(held=tuple(lines)), lambda _c: ScheduleList(held=tuple(lines[2:]))]
        response = await client.get("/v1/schedules?limit=2")
        page = await response.json()
        assert [line["name"] for line in page["data"]] == ["a", "b"]
        assert response.headers["Link"] == f'</v1/schedules?limit=2&cursor={page["next_cursor"]}>; rel="next"'
        response = await client.get(URL(response.links["next"]["url"]).relative())
        page = await response.json()
        assert ([line["name"] for line in page["data"]], page["next_cursor"]) == (["c"], None)
        assert "Link" not in response.headers
        first, second = services.commands
        assert isinstance(first, ListSchedules)
        assert (first.project, first.after, first.limit) == ("default", "", 3)
        assert (second.after, second.limit) == ("b", 3)

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=251", "limit=x", "cursor=%21", "cursor=a", "after=b",
                  "cursor=" + base64.b64encode(b"a\0b").decode().replace("=", "")],
    )  # fmt: skip
    async def test_refuses_a_query_that_is_none(self, client: Client, services: FakeServices, query: str) -> None:
        response = await client.get(f"/v1/schedules?{query}")
        assert (response.status, (await response.json())["code"]) == (400, "bad_query")
        assert services.asked == []


class TestPreview:
    async def previewed(self, client: Client, **body: Any) -> dict[str, Any]:
        response = await client.post("/v1/schedules/preview", json=body)
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer

    async def test_shows_each_time_in_utc_and_as_clocks_do(self, client: Client) -> None:
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        times = {"timezone": "America/Bogota", "start_at": format_utc(start), "end_at": start.timestamp() + 7200}
        shown = await self.previewed(client, every="1h", **times)
        assert (shown["words"], shown["timezone"]) == ("Every hour", "America/Bogota")
        hours = [start + timedelta(hours=number) for number in range(3)]
        assert [fire["at"] for fire in shown["data"]] == [format_utc(hour) for hour in hours]
        local = [(hour - timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%S.000-05:00") for hour in hours]
        assert [(fire["local"], fire["dst"], fire["meant"]) for fire in shown["data"]] == [
            (at, None, None) for at in local
        ]

    async def test_of_one_that_has_ended_is_empty(self, client: Client) -> None:
        assert (await self.previewed(client, cron="@daily", end_at="2020-01-01T00:00:00Z"))["data"] == []

    @pytest.mark.parametrize(("count", "shown"), [(None, 10), (1, 1), (100, 100)])
    async def test_shows_as_many_as_asked_for(self, client: Client, count: int | None, shown: int) -> None:
        before = datetime.now(UTC)
        fires = await self.previewed(client, cron="* * * * * *", **({} if count is None else {"count": count}))
        assert len(fires["data"]) == shown
        assert format_utc(before) < fires["data"][0]["at"] <= format_utc(datetime.now(UTC) + timedelta(seconds=1))

    @pytest.mark.parametrize(
        ("body", "fault"),
        [
            ({"cron": "* * * * *", "count": 101}, ("/count", "out_of_range")),
            ({"cron": "* * * * *", "count": 0}, ("/count", "out_of_range")),
            ({"cron": "* * *"}, ("/cron", "bad_cron")),
            ({}, ("/cron", "required")),
            ({"cron": "* * * * *", "task": {}}, ("/task", "unknown_field")),
        ],
    )
    async def test_says_what_is_wrong(self, client: Client, body: object, fault: tuple[str, str]) -> None:
        response = await client.post("/v1/schedules/preview", json=body)
        errors = (await response.json())["errors"]
        assert (response.status, [(each["pointer"], each["code"]) for each in errors]) == (422, [fault])
