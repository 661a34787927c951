"""The next digest, over HTTP: from the history and the mailer's answers, both played."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_aiohttp.plugin import AiohttpClient

from libs.common.clock import SystemClock
from libs.common.contracts import AskDigest, DigestAnswer, FailedTask
from libs.common.topology import MAILER_COMMAND, Route
from services.ingest.auth import Caller, Keys
from services.ingest.commands import Commands
from services.ingest.digest_desk import SINCE_UNKNOWN
from services.ingest.digest_door import DigestDoor
from services.ingest.http import build_app
from tests.http.conftest import BODY_BYTES_MAX, KEY, Client
from tests.unit.mailer.samples import failed

LAST_AT = datetime(2027, 3, 1, 8, 0, tzinfo=UTC)
NEXT_AT = datetime(2027, 3, 2, 8, 0, tzinfo=UTC)


class FakeMailer:
    """Answers `answers` in turn; None is silence."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: dict[str, Any] | None = {"result": "status", "waiting": 3, "next_at": NEXT_AT, "last_at": LAST_AT}

    async def ask(self, route: Route, command: Any, *, timeout_s: float = 5) -> Any:
        assert route == MAILER_COMMAND
        assert isinstance(command, AskDigest)
        assert timeout_s > 0
        self.asked.append(command.action)
        return self.answer and DigestAnswer(command_id=command.command_id, **self.answer)


class FakeHistory:
    def __init__(self) -> None:
        self.tasks: list[FailedTask] = []
        self.asked: list[tuple[str, datetime]] = []

    async def failed_since(self, project: str, since: datetime) -> list[FailedTask]:
        self.asked.append((project, since))
        return self.tasks


@pytest.fixture
def mailer() -> FakeMailer:
    return FakeMailer()


@pytest.fixture
def failures() -> FakeHistory:
    return FakeHistory()


@pytest.fixture
async def door(aiohttp_client: AiohttpClient, mailer: FakeMailer, failures: FakeHistory) -> Client:
    made = DigestDoor(Commands(mailer), failures, SystemClock())
    client = await aiohttp_client(build_app([made], Keys(KEY), version="1", body_bytes_max=BODY_BYTES_MAX))
    client.session.headers["Authorization"] = f"Bearer {KEY}"
    return client


async def test_the_preview_is_the_mail_as_it_would_be(door: Client, mailer: FakeMailer, failures: FakeHistory) -> None:
    failures.tasks = [failed(1), failed(2), failed(3, url="https://other.example/")]
    shown = await (await door.get("/v1/digest/preview")).json()
    assert shown["subject"] == "Carillon: 3 tasks failed"
    assert shown["failed"] == 3
    assert (shown["since"], shown["next_at"]) == ("2027-03-01T08:00:00.000Z", "2027-03-02T08:00:00.000Z")
    assert "2 x failed: shop.example.com: HTTP 503" in shown["text"]
    assert "other.example" in shown["html"]
    assert failures.asked == [("default", LAST_AT)]
    assert mailer.asked == ["status"], "a look, and nothing is sent"


async def test_without_the_mailers_word_it_shows_a_day(door: Client, mailer: FakeMailer, failures: FakeHistory) -> None:
    mailer.answer = None
    response = await door.get("/v1/digest/preview")
    assert response.status == 200
    shown = await response.json()
    assert (shown["subject"], shown["next_at"]) == ("Carillon: nothing failed", None)
    [(_project, since)] = failures.asked
    assert abs(SystemClock().now() - since - SINCE_UNKNOWN) < timedelta(seconds=5)


async def test_a_digest_is_sent_now(door: Client, mailer: FakeMailer) -> None:
    mailer.answer = {"result": "collected", "waiting": 3, "pages": 1, "next_at": NEXT_AT}
    response = await door.post("/v1/digest/send")
    assert response.status == 200
    assert await response.json() == {"pages": 1, "next_at": "2027-03-02T08:00:00.000Z"}
    assert mailer.asked == ["now"]


async def test_one_that_is_under_way_is_told_apart_from_silence(door: Client, mailer: FakeMailer) -> None:
    mailer.answer = {"result": "busy", "waiting": 3, "next_at": NEXT_AT}
    response = await door.post("/v1/digest/send")
    assert (response.status, (await response.json())["code"]) == (409, "digest_under_way")
    mailer.answer = None
    response = await door.post("/v1/digest/send")
    assert (response.status, (await response.json())["code"]) == (503, "not_answered")


async def test_who_is_no_operator_sends_nothing(
    aiohttp_client: AiohttpClient, mailer: FakeMailer, failures: FakeHistory
) -> None:
    class OthersKeys(Keys):
        async def caller(self, authorization: str | None) -> Caller:
            return (await super().caller(authorization))._replace(project="shop")

    made = DigestDoor(Commands(mailer), failures, SystemClock())
    client = await aiohttp_client(build_app([made], OthersKeys(KEY), version="1", body_bytes_max=BODY_BYTES_MAX))
    response = await client.post("/v1/digest/send", headers={"Authorization": f"Bearer {KEY}"})
    assert (response.status, mailer.asked) == (403, [])
