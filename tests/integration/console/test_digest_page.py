"""The digest's page: what waits and for whom, the mail in a frame of its own, sending it, and a mailer that is away."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from libs.common.contracts import AskDigest, DigestAnswer
from libs.common.publisher import NotPublished
from services.ingest.console.page import Role
from tests.integration.console.conftest import Rig
from tests.integration.console.test_targets import called, happened, unheard

NEXT_AT = datetime(2027, 3, 2, 8, 0, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"


def says(**fields: Any) -> Callable[[AskDigest], DigestAnswer]:
    told: dict[str, Any] = {"result": "status", "waiting": 3, "next_at": NEXT_AT, "to": ("ops@example.com",), **fields}
    return lambda command: DigestAnswer(command_id=command.command_id, **told)


async def test_it_says_what_waits_when_the_next_comes_and_who_gets_it(console: Rig) -> None:
    await happened(console.postgres, *called("failed"), *called("failed", project="other"))
    console.services.says += [says()]

    page = (await (await console.login("viewer")).get("/digest")).text

    assert "3 messages in the fallback queue" in page
    assert "2027-03-02 08:00:00 UTC" in page
    assert "ops@example.com" in page
    assert "Carillon: 1 task failed" in page
    assert "1 x failed: api.example.com" in page
    assert "Send the digest now" not in page


async def test_a_project_with_readers_of_its_own_is_shown_these_and_no_others(console: Rig) -> None:
    routes = {"bank": ("bank@example.com",), "shop": ("shop@example.com",)}
    console.services.says += [says(to_projects=routes)]

    page = (await (await console.login("operator", projects=["bank"])).get("/digest")).text

    assert "bank@example.com, who get this project" in page
    for other in ("shop@example.com", "ops@example.com"):
        assert other not in page


async def test_a_mailer_of_the_release_before_says_no_readers(console: Rig) -> None:
    console.services.says += [says(to=())]

    assert "it is of an earlier release" in (await (await console.login("viewer")).get("/digest")).text


@pytest.mark.parametrize("silence", [unheard, NotPublished("a test")])
async def test_a_mailer_that_is_away_is_said_and_the_preview_is_there(console: Rig, silence: NotPublished) -> None:
    await happened(console.postgres, *called("failed"))
    console.services.says += [silence, silence]
    visit = await console.login("operator")

    page, mail = await visit.get("/digest"), await visit.get("/digest/mail")

    assert (page.status, mail.status) == (200, 200)
    assert "No mailer answers" in page.text
    assert "Carillon: 1 task failed" in page.text
    assert "Send the digest now" not in page.text
    assert "Carillon: 1 task failed" in mail.text


async def test_the_mail_is_a_document_that_can_do_nothing(console: Rig) -> None:
    await happened(console.postgres, *called("failed", host=f"a.example/{HOSTILE}"))
    console.services.says += [says(), says()]
    visit = await console.login("viewer")

    page, mail = await visit.get("/digest"), await visit.get("/digest/mail")

    policy = mail.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "sandbox", "form-action 'none'", "frame-ancestors 'self'"} <= set(policy)
    assert not any("script-src" in each or "allow-" in each for each in policy)
    assert mail.headers["X-Content-Type-Options"] == "nosniff"
    assert '<iframe class="mail" src="/console/digest/mail" sandbox title=' in page.text
    for answer in (page, mail):
        assert "<script>alert" not in answer.text
        assert "&lt;script&gt;alert(1)" in answer.text


async def test_sending_says_how_many_mails_are_on_their_way_and_is_kept(console: Rig) -> None:
    console.services.says += [says(result="collected", pages=2), says()]
    visit = await console.login("operator")

    page = await visit.follow(await visit.post("/digest/send"))

    assert [command.action for command in console.services.commands] == ["now", "status"]
    assert "2 mails are on their way." in page.text
    [row] = await console.audit()
    assert (row["action"], row["outcome"], msgspec.json.decode(row["detail"])) == ("digest.send", "done", {"pages": 2})


async def test_nothing_to_send_is_said(console: Rig) -> None:
    console.services.says += [says(result="collected", pages=0), says()]
    visit = await console.login("operator")

    assert "Nothing waited" in (await visit.follow(await visit.post("/digest/send"))).text


@pytest.mark.parametrize(
    ("answer", "told", "outcome"),
    [
        (says(result="busy"), "A digest is being collected just now", "digest_under_way"),
        (unheard, "A digest may be on its way", "not_answered"),
    ],
)
async def test_a_digest_that_cannot_be_sent_now_is_said_and_kept(
    console: Rig, answer: Any, told: str, outcome: str
) -> None:
    console.services.says += [answer, says()]
    visit = await console.login("operator")

    assert told in (await visit.follow(await visit.post("/digest/send"))).text
    assert [row["outcome"] for row in await console.audit()] == [outcome]


async def test_a_broker_that_takes_no_command_is_said(console: Rig) -> None:
    console.services.says += [NotPublished("a test")]

    answer = await (await console.login("operator")).post("/digest/send")

    assert answer.status == 503
    assert "did not confirm" in answer.text


@pytest.mark.parametrize(("role", "projects"), [("viewer", []), ("operator", ["bank"])])
async def test_only_an_operator_of_the_bootstrap_project_sends(console: Rig, role: Role, projects: list[str]) -> None:
    console.services.says += [says(), says()]
    visit = await console.login(role, projects=projects)

    answer = await visit.post("/digest/send")

    assert console.services.commands == []
    if role == "viewer":
        assert answer.status == 403
    else:
        assert "everybody" in (await visit.follow(answer)).text
    assert "Send the digest now" not in (await visit.get("/digest")).text
