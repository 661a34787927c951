"""Cancel, move, run and redrive one task: what is asked of whom, and what the answers mean to a client."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from aiohttp import ClientResponse

from libs.common.asking import ANSWER_S
from libs.common.clock import format_utc
from libs.common.contracts import CANCELLED_WHEN_DUE, Call, CancelTask, CreateTask, RescheduleTask, encode
from libs.common.ids import new_id
from libs.common.publisher import PublishUnknown
from libs.common.topology import CREATE, DISPATCHER_COMMAND, SCHEDULER_COMMAND
from services.ingest import lookup
from services.ingest.creation import this_millisecond
from services.ingest.stored import LastAttempt, StoredTask
from tests.http.conftest import Client, FakeBroker, FakeHistory
from tests.http.services import FakeServices, dispatcher, nothing, scheduler

ID = UUID(int=7)
PATH = f"/v1/tasks/{ID}"
NOW = datetime.now(UTC).replace(microsecond=0)
DUE = NOW + timedelta(hours=1)
CALL = msgspec.Raw(encode(Call(url="http://example.com/", body=b"\x00\xff")))
AHEAD = UUID(int=new_id().int + (3_600_000 << 80))
"""The id of a command that was sent by a process whose clock is an hour ahead."""
COMMANDS = [("DELETE", PATH), ("PATCH", PATH), ("POST", f"{PATH}/run"), ("POST", f"{PATH}/redrive")]


def task(state: str = "scheduled", project: str = "default", **fields: Any) -> StoredTask:
    values: dict[str, Any] = {
        "state": state,
        "state_at": DUE,
        "due_at": DUE,
        "expires_at": None,
        "call": CALL,
        **fields,
    }
    if state in ("succeeded", "failed", "expired", "cancelled"):
        values |= {"state_at": NOW, "finished_at": NOW}
    return StoredTask(id=ID, project=project, created_at=NOW, fingerprint="f", labels={"order": "42"}, **values)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MISS_PAUSES_S", (0.01, 0.01, 0.01))


def a_moment() -> datetime:
    return this_millisecond(datetime.now(UTC))


async def asked(client: Client, method: str, path: str = PATH, json: object = None) -> tuple[int, dict[str, Any]]:
    response: ClientResponse = await client.request(method, path, json=json)
    return response.status, await response.json()


async def code(client: Client, method: str, path: str = PATH, json: object = None) -> tuple[int, str]:
    status, body = await asked(client, method, path, json)
    return status, body["code"]


class TestEachCommand:
    @pytest.mark.parametrize(("method", "path"), COMMANDS)
    async def test_finds_no_task_of_another_project(
        self, client: Client, history: FakeHistory, services: FakeServices, broker: FakeBroker, method: str, path: str
    ) -> None:
        history.tasks[ID] = task("failed", project="other")
        services.says = [scheduler("unknown")]
        assert await code(client, method, path, {"delay": 5}) == (404, "not_found")
        # The scheduler looks at the project itself. The dispatcher does not: it must not hear of it.
        assert {route for route, _command in services.asked} <= {SCHEDULER_COMMAND}
        assert all(command.project == "default" for command in services.commands)
        assert broker.published == []

    @pytest.mark.parametrize(("method", "path"), COMMANDS)
    async def test_says_404_to_what_is_no_id(
        self, client: Client, services: FakeServices, method: str, path: str
    ) -> None:
        assert await code(client, method, path.replace(str(ID), "seven"), {"delay": 5}) == (404, "not_found")
        assert services.asked == []

    @pytest.mark.parametrize(("method", "path"), COMMANDS[:3])
    async def test_says_503_when_the_broker_does_not_confirm(
        self, client: Client, history: FakeHistory, services: FakeServices, method: str, path: str
    ) -> None:
        history.tasks[ID] = task()
        services.says = [PublishUnknown("no confirm")]
        assert await code(client, method, path, {"delay": 5}) == (503, "not_confirmed")


class TestCancel:
    async def test_of_a_waiting_task_is_certain_by_the_schedulers_word(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task(generation=3)
        services.says = [scheduler("cancelled", generation=3)]
        status, body = await asked(client, "DELETE")
        assert (status, body["status"], body["next_attempt_at"]) == (200, "cancelled", None)
        assert body["finished_at"] >= format_utc(NOW)
        [(route, command)] = services.asked
        assert isinstance(command, CancelTask)
        assert (route, command.id, command.project, command.generation) == (SCHEDULER_COMMAND, ID, "default", 3)

    @pytest.mark.parametrize(("known", "told", "meant"), [(1, 2, 2), (2, 1, 2), (1, None, 1)])
    async def test_of_one_that_has_left_the_scheduler_is_up_to_the_dispatcher(
        self, client: Client, history: FakeHistory, services: FakeServices, known: int, told: int | None, meant: int
    ) -> None:
        history.tasks[ID] = task("retrying", generation=known)
        services.says = [scheduler("left", generation=told), dispatcher("cancelled")]
        status, body = await asked(client, "DELETE")
        assert (status, body["status"]) == (200, "cancelled")
        (first, _), (second, command) = services.asked
        assert (first, second) == (SCHEDULER_COMMAND, DISPATCHER_COMMAND)
        assert (command.id, command.project, command.generation) == (ID, "default", meant)

    async def test_while_a_call_is_under_way_is_a_202(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task(due_at=NOW - timedelta(seconds=9))
        services.says = [scheduler("left"), dispatcher("in-flight")]
        status, body = await asked(client, "DELETE")
        assert (status, body["status"]) == (202, "due")

    @pytest.mark.parametrize("says", [[nothing], [scheduler("left"), nothing]])
    async def test_is_a_202_when_nobody_answers_in_time(
        self, client: Client, history: FakeHistory, services: FakeServices, says: list[Any]
    ) -> None:
        history.tasks[ID] = task()
        services.says = says
        status, body = await asked(client, "DELETE")
        assert (status, body["id"], body["status"]) == (202, str(ID), "scheduled")

    async def test_waits_no_longer_for_both_than_for_one(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task("retrying")
        services.says = [scheduler("left"), nothing]
        original = history.task

        async def late(project: str, id_: UUID) -> StoredTask | None:
            await asyncio.sleep(0.2)
            return await original(project, id_)

        history.task = late  # type: ignore[method-assign]
        await client.delete(PATH)
        first, second = services.patience_s
        assert first + second < 2 * ANSWER_S - 0.2
        assert second <= ANSWER_S - 0.2

    @pytest.mark.parametrize("state", ["succeeded", "failed", "expired"])
    async def test_of_an_ended_one_is_a_409_that_names_its_state(
        self, client: Client, history: FakeHistory, services: FakeServices, state: str
    ) -> None:
        history.tasks[ID] = task(state)
        status, body = await asked(client, "DELETE")
        assert (status, body["code"], services.asked) == (409, "already_final", [])
        assert state in body["detail"]

    async def test_repeated_is_a_200_again(self, client: Client, history: FakeHistory, services: FakeServices) -> None:
        history.tasks[ID] = task("cancelled")
        status, body = await asked(client, "DELETE")
        assert (status, body["status"], body["finished_at"]) == (200, "cancelled", format_utc(NOW))

    @pytest.mark.parametrize(("says", "answer"), [("cancelled", 200), ("in-flight", 202), ("ended", 202), (None, 202)])
    async def test_repeated_after_one_that_came_when_it_was_due_is_up_to_the_dispatcher(
        self, client: Client, history: FakeHistory, services: FakeServices, says: Any, answer: int
    ) -> None:
        """Who asked for that one may have gone before the dispatcher was asked."""
        history.tasks[ID] = task("cancelled", reason=CANCELLED_WHEN_DUE)
        services.says = [nothing if says is None else dispatcher(says)]
        status, body = await asked(client, "DELETE")
        assert (status, body["status"]) == (answer, "cancelled")
        assert [route for route, _command in services.asked] == [DISPATCHER_COMMAND]

    @pytest.mark.parametrize(("ends_as", "answer"), [("succeeded", 409), ("cancelled", 200)])
    async def test_of_one_that_ends_meanwhile_says_how(
        self, client: Client, history: FakeHistory, services: FakeServices, ends_as: str, answer: int
    ) -> None:
        def ended(command: Any) -> Any:
            asyncio.get_running_loop().call_later(0.02, history.tasks.__setitem__, ID, task(ends_as))
            return dispatcher("ended")(command)

        history.tasks[ID] = task("retrying")
        services.says = [scheduler("left"), ended]
        status, _body = await asked(client, "DELETE")
        assert status == answer

    async def test_of_an_ended_one_of_which_the_history_does_not_know_yet_is_a_202(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task("retrying")
        services.says = [scheduler("left"), dispatcher("ended")]
        status, body = await asked(client, "DELETE")
        assert (status, body["status"]) == (202, "retrying")

    async def test_that_overtakes_its_create_is_certain(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        def unknown(command: Any) -> Any:
            asyncio.get_running_loop().call_later(0.02, history.tasks.__setitem__, ID, task())
            return scheduler("unknown")(command)

        services.says = [unknown]
        status, body = await asked(client, "DELETE")
        assert (status, body["status"]) == (200, "cancelled")
        assert [route for route, _command in services.asked] == [SCHEDULER_COMMAND]

    async def test_of_one_whose_tombstone_is_gone_is_up_to_the_dispatcher(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task("retrying")
        services.says = [scheduler("unknown"), dispatcher("in-flight")]
        assert (await asked(client, "DELETE"))[0] == 202

    @pytest.mark.parametrize("say", [nothing, scheduler("cancelled"), scheduler("left")])
    async def test_of_what_the_history_has_not_heard_of_yet_is_to_be_repeated(
        self, client: Client, services: FakeServices, say: Any
    ) -> None:
        services.says = [say]
        assert await code(client, "DELETE") == (503, "not_answered")
        assert len(services.asked) == 1

    async def test_is_said_again_with_a_greater_id_where_a_command_of_a_greater_one_has_been(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task()
        services.says = [scheduler("rescheduled", overtaken_by=AHEAD), scheduler("cancelled")]
        assert (await asked(client, "DELETE"))[0] == 200
        first, second = services.commands
        assert second.command_id > AHEAD > first.command_id
        assert services.patience_s[1] <= services.patience_s[0], "the second spends what the first has left"

    async def test_gives_up_where_somebody_keeps_moving_it(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task()
        services.says = [scheduler("rescheduled", overtaken_by=AHEAD)] * 2
        assert await code(client, "DELETE") == (409, "superseded")


class TestMove:
    async def test_by_a_replica_whose_clock_is_behind_the_last_ones_is_done_all_the_same(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task()
        services.says = [
            scheduler("rescheduled", generation=2, due_at=NOW, overtaken_by=AHEAD),
            scheduler("rescheduled", generation=3, due_at=DUE),
        ]
        status, answer = await asked(client, "PATCH", json={"due_at": format_utc(DUE)})
        assert (status, answer["due_at"]) == (200, format_utc(DUE))
        first, second = services.commands
        assert second.command_id > AHEAD > first.command_id
        assert (second.id, second.due_at) == (first.id, first.due_at)

    async def test_takes_an_id_of_its_own_where_another_was_told_of_the_same_command(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task()
        overtaken = scheduler("rescheduled", generation=2, due_at=NOW, overtaken_by=AHEAD)
        services.says = [overtaken, scheduler("rescheduled", generation=3, due_at=DUE)] * 2
        for _ in range(2):
            assert (await asked(client, "PATCH", json={"due_at": format_utc(DUE)}))[0] == 200
        _, one, _, other = services.commands
        assert one.command_id != other.command_id

    @pytest.mark.parametrize("body", [{"due_at": format_utc(DUE)}, {"delay": "1h"}])
    async def test_shows_the_time_that_the_scheduler_has_set(
        self, client: Client, history: FakeHistory, services: FakeServices, body: dict[str, str]
    ) -> None:
        before = a_moment()
        later = NOW + timedelta(hours=2)
        history.tasks[ID] = task(due_at=NOW + timedelta(minutes=90))
        services.says = [scheduler("rescheduled", generation=2, due_at=later)]
        status, answer = await asked(client, "PATCH", json=body)
        shown = (answer["status"], answer["due_at"], answer["next_attempt_at"])
        assert (status, shown) == (200, ("scheduled", format_utc(later), format_utc(later)))
        [(route, command)] = services.asked
        assert isinstance(command, RescheduleTask)
        assert (route, command.project) == (SCHEDULER_COMMAND, "default")
        assert command.due_at is not None
        if "due_at" in body:
            assert command.due_at == DUE
        else:
            assert before <= command.due_at - timedelta(hours=1) <= a_moment()

    async def test_to_a_local_time_is_to_the_instant_that_clocks_show_it(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task()
        services.says = [scheduler("rescheduled", generation=2, due_at=DUE)]
        local = {"at": DUE.replace(tzinfo=None).isoformat(), "timezone": "America/Bogota"}
        assert (await asked(client, "PATCH", json={"local_time": local}))[0] == 200
        assert services.commands[0].due_at == DUE + timedelta(hours=5)

    @pytest.mark.parametrize(
        ("body", "pointer", "error"),
        [
            ({}, "", "required"),
            ({"delay": 5, "due_at": 7}, "/delay", "conflict"),
            ({"due_at": "2027-03-01T09:00:00"}, "/due_at", "naive_time"),
            ({"delay": "soon"}, "/delay", "not_a_delay"),
            ({"local_time": {"at": "2027-03-01T09:00:00", "timezone": "Mars"}}, "/local_time/timezone", "unknown_zone"),
            ({"local_time": {"at": "x", "timezone": "UTC", "fold": 1}}, "/local_time/fold", "unknown_field"),
            ({"due": 5}, "/due", "unknown_field"),
            ({"delay": "2h"}, "/delay", "too_late"),
            ({"delay": "90m"}, "/delay", "too_late"),
        ],
    )
    async def test_says_what_is_wrong_with_the_time(
        self, client: Client, history: FakeHistory, services: FakeServices, body: object, pointer: str, error: str
    ) -> None:
        history.tasks[ID] = task(expires_at=NOW + timedelta(minutes=90))
        status, answer = await asked(client, "PATCH", json=body)
        assert (status, services.asked) == (422, [])
        assert [(each["pointer"], each["code"]) for each in answer["errors"]] == [(pointer, error)]

    async def test_to_just_before_it_expires_is_possible(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        expires_at = a_moment() + timedelta(minutes=90)
        history.tasks[ID] = task(expires_at=expires_at)
        services.says = [scheduler("rescheduled", generation=2, due_at=DUE)]
        moved = {"due_at": format_utc(expires_at - timedelta(milliseconds=1))}
        assert (await asked(client, "PATCH", json=moved))[0] == 200

    @pytest.mark.parametrize("result", ["left", "unknown"])
    async def test_of_one_that_is_due_is_a_409(
        self, client: Client, history: FakeHistory, services: FakeServices, result: str
    ) -> None:
        history.tasks[ID] = task("retrying")
        services.says = [scheduler(result)]
        status, body = await asked(client, "PATCH", json={"delay": 5})
        assert (status, body["code"]) == (409, "not_scheduled")
        assert "retrying" in body["detail"]

    async def test_says_that_it_may_have_happened_when_nobody_answers(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task()
        services.says = [nothing]
        response = await client.patch(PATH, json={"delay": 5})
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert (await response.json())["code"] == "not_answered"


class TestRun:
    async def test_asks_for_now(self, client: Client, history: FakeHistory, services: FakeServices) -> None:
        history.tasks[ID] = task()
        services.says = [scheduler("rescheduled", generation=2, due_at=NOW)]
        status, body = await asked(client, "POST", f"{PATH}/run")
        assert (status, body["status"], body["due_at"]) == (200, "scheduled", format_utc(NOW))
        [command] = services.commands
        assert (type(command), command.due_at) == (RescheduleTask, None)

    async def test_of_one_that_is_due_already_is_a_409(
        self, client: Client, history: FakeHistory, services: FakeServices
    ) -> None:
        history.tasks[ID] = task(due_at=DUE)
        services.says = [scheduler("left")]
        status, body = await asked(client, "POST", f"{PATH}/run")
        assert (status, body["code"]) == (409, "not_scheduled")
        assert "due by now" in body["detail"]


class TestRedrive:
    @pytest.mark.parametrize("state", ["failed", "expired", "parked"])
    async def test_sends_the_same_task_again_in_its_next_generation(
        self, client: Client, history: FakeHistory, broker: FakeBroker, state: str
    ) -> None:
        last, before = LastAttempt(7, 503, "server_error", 12), a_moment()
        history.tasks[ID] = task(
            state,
            generation=2,
            last_attempt=last,
            first_attempt_at=NOW,
            lateness_ms=3,
            reason="server_error",
            schedule="nightly",
        )
        status, body = await asked(client, "POST", f"{PATH}/redrive")
        assert (status, body["status"], body["attempt_count"], body["last_attempt"]) == (200, "scheduled", 0, None)
        assert (body["finished_at"], body["first_attempt_at"], body["lateness_ms"]) == (None, None, None)
        [(route, create)] = broker.published
        assert isinstance(create, CreateTask)
        again = create.task
        assert (route, again.id, again.order, again.project) == (CREATE, ID, (3, 1, 0), "default")
        assert (again.call, again.fingerprint, again.labels) == (CALL, "f", {"order": "42"})
        assert again.schedule == "nightly"
        assert (again.created_at, format_utc(again.due_at)) == (NOW, body["due_at"])
        assert before <= again.due_at <= a_moment()

    @pytest.mark.parametrize("state", ["scheduled", "retrying", "succeeded", "cancelled"])
    async def test_of_what_has_not_failed_is_a_409(
        self, client: Client, history: FakeHistory, broker: FakeBroker, state: str
    ) -> None:
        history.tasks[ID] = task(state)
        status, body = await asked(client, "POST", f"{PATH}/redrive")
        assert (status, body["code"], broker.published) == (409, "not_failed", [])
        assert state in body["detail"]

    async def test_of_what_has_been_purged_is_a_409(
        self, client: Client, history: FakeHistory, broker: FakeBroker
    ) -> None:
        history.tasks[ID] = task("failed", call=msgspec.Raw(b""))
        assert await code(client, "POST", f"{PATH}/redrive") == (409, "payload_gone")
        assert broker.published == []

    @pytest.mark.parametrize(("minutes", "is_kept"), [(-1, False), (60, True)])
    async def test_lets_go_of_a_moment_of_expiry_that_has_passed(
        self, client: Client, history: FakeHistory, broker: FakeBroker, minutes: int, is_kept: bool
    ) -> None:
        expires_at = NOW + timedelta(minutes=minutes)
        history.tasks[ID] = task("failed", expires_at=expires_at)
        assert (await asked(client, "POST", f"{PATH}/redrive"))[0] == 200
        assert broker.created.task.expires_at == (expires_at if is_kept else None)

    async def test_answers_when_the_history_shows_it(
        self, client: Client, history: FakeHistory, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lookup, "MISS_PAUSES_S", (0.01,) * 500)
        history.tasks[ID] = task("failed")
        request = asyncio.create_task(client.post(f"{PATH}/redrive"))
        await asyncio.wait_for(broker.asked.wait(), 5)
        done, _pending = await asyncio.wait({request}, timeout=0.1)
        assert not done
        history.tasks[ID] = task(generation=2)
        assert (await asyncio.wait_for(request, 5)).status == 200
