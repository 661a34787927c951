"""`GET /v1/tasks/{id}/explain`: from where it gathers what it says. What it says: tests/unit/ingest/test_explain.py."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from libs.common.contracts import Call, encode
from libs.common.postgres import PostgresAway
from services.ingest import lookup
from services.ingest.explanation import OpenBreaker, Rule
from services.ingest.stored import LastAttempt, StoredAttempt, StoredTask
from tests.http.conftest import Client, FakeHistory
from tests.http.services import FakeTargets

ID = UUID(int=7)
PATH = f"/v1/tasks/{ID}/explain"
NOW = datetime.now(UTC).replace(microsecond=0)
CALL = msgspec.Raw(encode(Call(url="http://Example.com:8080/a@b?c")))


def task(state: str = "scheduled", project: str = "default", **fields: Any) -> StoredTask:
    late = NOW - timedelta(minutes=1)
    values = {"expires_at": None, "call": CALL, "due_at": late, "state_at": late} | fields
    return StoredTask(id=ID, project=project, created_at=NOW, fingerprint="f", labels={}, state=state, **values)  # type: ignore[arg-type]


def attempt(generation: int, number: int, detail: str) -> StoredAttempt:
    return StoredAttempt(generation, number, NOW, NOW, 10, 503, "server_error", detail, NOW, b"[]", b"")


async def told(client: Client) -> dict[str, Any]:
    response = await client.get(PATH)
    assert response.status == 200, await response.text()
    answer: dict[str, Any] = await response.json()
    return answer


async def test_it_asks_for_the_rules_of_the_tasks_own_target(
    client: Client, history: FakeHistory, targets: FakeTargets
) -> None:
    history.tasks[ID] = task()
    targets.rule = Rule(is_paused=True, per_s=None, changed_at=NOW)
    targets.breakers = [OpenBreaker("dispatcher-1", NOW + timedelta(hours=1))]
    answer = await told(client)
    assert targets.asked == [("default", "example.com:8080")]
    assert answer["status"] == "due"
    assert [cause["code"] for cause in answer["because"]] == ["target_paused", "breaker_open"]


async def test_it_tells_of_the_latest_call_of_the_latest_generation(client: Client, history: FakeHistory) -> None:
    history.tasks[ID] = task("retrying", generation=2, last_attempt=LastAttempt(2, 503, "server_error", 10))
    history.calls[ID] = [
        attempt(1, 7, "of before"),
        attempt(2, 1, "first"),
        attempt(2, 2, "second"),
        attempt(3, 1, "later"),
    ]
    assert (await told(client))["sentence"].startswith("Attempt 2 failed with second;")


async def test_it_asks_nobody_about_a_task_that_has_ended(
    client: Client, history: FakeHistory, targets: FakeTargets
) -> None:
    history.tasks[ID] = task("cancelled")
    assert (await told(client))["code"] == "cancelled"
    assert targets.asked == []


async def test_it_explains_what_was_purged_too(client: Client, history: FakeHistory) -> None:
    history.tasks[ID] = task("failed", call=msgspec.Raw(b""), last_attempt=LastAttempt(7, 500, "server_error", 9))
    assert [move["code"] for move in (await told(client))["what_would_move_it"]] == ["create_again"]


async def test_it_knows_no_task_of_another_project(
    client: Client, history: FakeHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "MISS_PAUSES_S", (0.01,))
    history.tasks[ID] = task(project="other")
    assert (await client.get(PATH)).status == 404


async def test_it_cannot_tell_without_the_history(client: Client, history: FakeHistory) -> None:
    history.error = PostgresAway("gone")
    assert (await client.get(PATH)).status == 503
