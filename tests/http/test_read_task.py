import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import msgspec
import pytest

from libs.common.contracts import Call, encode
from libs.common.postgres import PostgresAway
from services.ingest import lookup
from services.ingest.stored import StoredAttempt, StoredTask
from tests.http.conftest import Client, FakeHistory

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ID = UUID(int=7)


def stored(project: str = "default") -> StoredTask:
    call = msgspec.Raw(encode(Call(url="http://example.com/", body=b"x")))
    return StoredTask(ID, project, NOW, NOW, None, "f", {"order": "42"}, call, state="retrying", state_at=NOW)


def attempt(number: int, body: bytes) -> StoredAttempt:
    started_at = NOW + timedelta(milliseconds=3)
    return StoredAttempt(
        1, number, NOW, started_at, 12, 503, "server_error", None, NOW, b'[["Set-Cookie","a"],["Set-Cookie","b"]]', body
    )


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MISS_PAUSES_S", (0.01, 0.01, 0.01))


async def test_a_task_can_be_read_again(client: Client, history: FakeHistory) -> None:
    history.tasks[ID] = stored()
    answer = await (await client.get(f"/v1/tasks/{ID}")).json()
    assert (answer["id"], answer["status"], answer["labels"]) == (str(ID), "retrying", {"order": "42"})
    assert answer["next_attempt_at"] == "2026-11-21T12:00:00.000Z"


async def test_a_read_right_after_the_201_waits_for_the_projection(client: Client, history: FakeHistory) -> None:
    reading = asyncio.create_task(client.get(f"/v1/tasks/{ID}"))
    await history.missed.wait()
    history.tasks[ID] = stored()
    assert (await reading).status == 200


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("path", [f"/v1/tasks/{uuid4()}", f"/v1/tasks/{uuid4()}/attempts", "/v1/tasks/no-uuid", "/v2"])
async def test_what_is_not_there_is_a_404(client: Client, path: str) -> None:
    response = await client.get(path)
    assert (response.status, (await response.json())["code"]) == (404, "not_found")


@pytest.mark.usefixtures("short_pauses")
async def test_another_projects_task_is_not_there(client: Client, history: FakeHistory) -> None:
    history.tasks[ID] = stored("other")
    assert (await client.get(f"/v1/tasks/{ID}")).status == 404


async def test_without_postgres_a_read_is_a_503(client: Client, history: FakeHistory) -> None:
    history.error = PostgresAway("down")
    response = await client.get(f"/v1/tasks/{ID}")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert (await response.json())["code"] == "history_unavailable"


async def test_attempts_come_with_what_was_answered_and_a_command(client: Client, history: FakeHistory) -> None:
    history.tasks[ID] = stored()
    history.calls[ID] = [attempt(1, "é".encode()), attempt(2, b"\xff")]
    answer = await (await client.get(f"/v1/tasks/{ID}/attempts")).json()
    first, second = answer["data"]
    assert answer["next_cursor"] is None
    assert (first["number"], first["lateness_ms"], first["duration_ms"], first["status_code"]) == (1, 3, 12, 503)
    assert first["response_headers"] == [["Set-Cookie", "a"], ["Set-Cookie", "b"]]
    assert (first["response_body"], second["response_body_base64"]) == ("é", "/w==")
    assert first["curl"].startswith("curl ")
    assert first["curl"].endswith("http://example.com/")


@pytest.mark.parametrize("path", [f"/v1/tasks/{ID}", f"/v1/tasks/{ID}/attempts"])
async def test_reading_needs_the_key(anonymous: Client, path: str) -> None:
    assert (await anonymous.get(path)).status == 401
