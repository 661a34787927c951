"""Targets: who may do what, what is shown of a host, and counts before anything is started."""

from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import pytest

from libs.common.clock import SystemClock, ceil_to_ms
from libs.common.contracts import (
    AttemptFinished,
    Call,
    ControlAnswer,
    Event,
    SetControl,
    TargetChanged,
    Task,
    TaskAccepted,
    encode,
)
from libs.common.postgres import Postgres
from libs.common.publisher import NotPublished
from libs.common.signing import secret, whsec
from services.ingest.console.page import Role
from services.ingest.history import History
from services.ingest.maintenance import Maintenance
from services.ingest.store import Store
from services.ingest.store_bulk import BulkStore
from services.ingest.store_control import Change, ControlStore
from tests.integration.console.conftest import Answer, Rig, Visit

NOW = ceil_to_ms(SystemClock().now())
HOST = "api.example.com"
REASON = "20 of the last 20 calls got no answer"


def confirmed(command: SetControl) -> ControlAnswer:
    return ControlAnswer(command_id=command.command_id)


def unheard(_command: SetControl) -> None:
    """Nobody says in time."""


async def happened(postgres: Postgres, *events: Event) -> None:
    store = Store(postgres)
    maintenance = Maintenance(store, SystemClock(), retention_days=30)
    await maintenance.prepare()
    await History(store, maintenance, SystemClock()).handle(list(events))


def called(
    outcome: str = "failed",
    *,
    host: str = HOST,
    project: str = "default",
    minutes_ago: float = 1,
    duration_ms: int = 100,
    id_: UUID | None = None,
) -> list[Event]:
    """A task and its only call."""
    id_, at = id_ or uuid4(), NOW - timedelta(minutes=minutes_ago)
    call = msgspec.Raw(encode(Call(url=f"https://{host}/")))
    task = Task(
        id=id_, project=project, generation=1, created_at=NOW - timedelta(days=2), due_at=at, fingerprint="f", call=call
    )
    ended = AttemptFinished(
        id=id_, project=project, generation=1, attempt=1, hop=1, due_at=at, started_at=at, duration_ms=duration_ms,
        outcome=outcome, status_code=200 if outcome == "succeeded" else 500, host=host,  # type: ignore[arg-type]
    )  # fmt: skip
    return [TaskAccepted(task=task), ended]


def opened(
    host: str = HOST, *, for_s: float = 3600, reason: str | None = "20 of the last 20 calls got no answer"
) -> Event:
    now = ceil_to_ms(SystemClock().now())  # not that of the module: what opened long ago is forgotten
    until = now + timedelta(seconds=for_s)
    return TargetChanged(host=host, state="open", changed_at=now, until=until, replica="d1", reason=reason)


def in_order(text: str, *parts: str) -> bool:
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


async def rule_of(console: Rig, host: str = HOST, project: str = "default") -> tuple[bool, float | None, int] | None:
    held = await ControlStore(console.postgres).target(project, host)
    return held and (held.rule.is_paused, held.rule.per_s, held.rule.burst)


async def test_the_worst_host_stands_first_with_its_reason(console: Rig) -> None:
    fine = [event for _ in range(20) for event in called("succeeded", host="fine.example")]
    shaky = [*called("succeeded", host="shaky.example"), *called("retry", host="shaky.example")]
    await happened(console.postgres, *fine, *shaky, *called("retry", host=HOST), opened())
    await ControlStore(console.postgres).pause(Change("default", "user:ann", NOW), "quiet.example", is_paused=True)

    page = (await (await console.login("viewer")).get("/targets")).text

    assert in_order(page, f">{HOST}<", ">quiet.example<", ">shaky.example<", ">fine.example<")
    assert "20 of the last 20 calls got no answer" in page
    assert "by ann" in page
    assert "50 %" in page
    assert "100 %" in page


async def test_a_host_is_found_by_a_part_of_its_name(console: Rig) -> None:
    await happened(console.postgres, *called(host="one.example"), *called(host="two.example"))

    page = (await (await console.login("viewer")).get("/targets?host=TWO")).text

    assert "two.example" in page
    assert "one.example" not in page


async def test_hosts_of_another_project_are_not_shown_nor_that_their_breaker_is_open(console: Rig) -> None:
    await happened(console.postgres, *called(project="other"), opened())
    visit = await console.login("viewer", projects=["default"])

    assert HOST not in (await visit.get("/targets")).text
    assert "20 of the last 20" not in (await visit.get(f"/targets/{HOST}")).text


async def test_the_page_of_a_host_says_what_was_counted_and_when_the_breaker_tries_again(console: Rig) -> None:
    calls = [event for _ in range(19) for event in called("succeeded", duration_ms=100)]
    await happened(console.postgres, *calls, *called("retry", duration_ms=100), opened())

    page = (await (await console.login("viewer")).get(f"/targets/{HOST}")).text

    assert "95 %" in page
    assert "breaker open" in page
    assert "It lets one call through, to try," in page
    assert 'class="retried"' in page
    assert "d1" in page


async def test_a_breaker_whose_time_is_over_is_said_to_try(console: Rig) -> None:
    await happened(console.postgres, *called("retry"), opened(for_s=-5, reason=None))

    page = (await (await console.login("viewer")).get(f"/targets/{HOST}")).text

    assert "breaker tries" in page
    assert "nearly no call was answered" in page


async def test_a_viewer_is_offered_nothing_that_changes_anything(console: Rig) -> None:
    page = (await (await console.login("viewer")).get(f"/targets/{HOST}")).text

    for text in ("Pause calls", "Set the limit", "Count them"):
        assert text not in page


async def test_pausing_holds_calls_back_and_says_who_did_it(console: Rig) -> None:
    visit = await console.login("operator", name="ann")
    console.services.says += [confirmed]

    page = await visit.follow(await visit.post(f"/targets/{HOST}/pause"))

    [command] = console.services.commands
    assert command.targets[0].is_paused
    assert await rule_of(console) == (True, None, 1)
    assert "Paused: no call to" in page.text
    assert "by ann" in page.text
    assert "Resume calls" in page.text
    [row] = await console.audit()
    assert (row["action"], row["object"], row["outcome"]) == ("target.pause", HOST, "done")


@pytest.mark.parametrize("silent", [unheard, NotPublished("a test")])
async def test_a_pause_that_no_dispatcher_confirms_is_kept_and_said_to_come(console: Rig, silent: NotPublished) -> None:
    visit = await console.login("operator")
    console.services.says += [silent]

    page = await visit.follow(await visit.post(f"/targets/{HOST}/pause"))

    assert await rule_of(console) == (True, None, 1)
    assert "in force within 30 seconds" in page.text


async def test_resuming_lets_calls_through_again_and_keeps_the_limit(console: Rig) -> None:
    control = ControlStore(console.postgres)
    await control.limit(Change("default", "user:ann", NOW), HOST, 5.0, 2)
    await control.pause(Change("default", "user:ann", NOW), HOST, is_paused=True)
    visit = await console.login("operator")
    console.services.says += [confirmed]

    await visit.follow(await visit.post(f"/targets/{HOST}/resume"))

    assert await rule_of(console) == (False, 5.0, 2)


async def test_an_admin_limits_a_host_and_takes_the_limit_off(console: Rig) -> None:
    visit = await console.login("admin")
    console.services.says += [confirmed, confirmed]

    page = await visit.follow(await visit.post(f"/targets/{HOST}/limit", {"per_s": "0.5", "burst": "3"}))
    assert await rule_of(console) == (False, 0.5, 3)
    assert 'value="0.5"' in page.text

    await visit.follow(await visit.post(f"/targets/{HOST}/limit", {"per_s": "", "burst": ""}))
    assert await rule_of(console) == (False, None, 1)


@pytest.mark.parametrize(
    ("typed", "fault"),
    [
        ({"per_s": "0", "burst": "1"}, "give 0.001 to 100000 calls a second"),
        ({"per_s": "nan", "burst": "1"}, "give 0.001 to 100000 calls a second"),
        ({"per_s": "5", "burst": "0"}, "give 1 to 100000"),
        ({"per_s": "five", "burst": "1"}, "is no number"),
        ({"per_s": "5", "burst": "1.5"}, "is no whole number"),
        ({"per_s": '"><script>', "burst": "1"}, "is no number"),
        ({"per_s": "5\0", "burst": "1"}, "is no number"),
    ],
)
async def test_a_limit_that_cannot_be_is_refused_beside_its_field_and_kept(
    console: Rig, typed: dict[str, str], fault: str
) -> None:
    answer = await (await console.login("admin")).post(f"/targets/{HOST}/limit", typed)

    assert answer.status == 422
    assert fault in answer.text
    assert "<script>" not in answer.text
    assert typed["burst"] in answer.text
    assert await rule_of(console) is None
    assert [row["outcome"] for row in await console.audit()] == ["refused"]


@pytest.mark.parametrize(
    ("role", "path"),
    [("viewer", "pause"), ("viewer", "resume"), ("viewer", "redrive"), ("operator", "limit")],
)
async def test_who_may_not_is_refused(console: Rig, role: Role, path: str) -> None:
    assert (await (await console.login(role)).post(f"/targets/{HOST}/{path}", {"per_s": "1"})).status == 403
    assert await rule_of(console) is None


async def test_a_rule_is_of_the_visitors_project(console: Rig) -> None:
    visit = await console.login("operator", projects=["shop"])
    console.services.says += [confirmed]

    await visit.post(f"/targets/{HOST}/pause")

    assert await rule_of(console, project="shop") == (True, None, 1)
    assert await rule_of(console) is None


@pytest.mark.parametrize("host", ["%20", "a b", "a%2Fb", "user@host", "a%00b"])
async def test_what_is_no_host_has_no_page(console: Rig, host: str) -> None:
    visit = await console.login("operator")

    assert (await visit.get(f"/targets/{host}")).status == 404
    assert (await visit.post(f"/targets/{host}/pause")).status == 404


@pytest.mark.parametrize("host", ["api.example.com:8080", "[2001:db8::1]:443", "bücher.example"])
async def test_a_host_as_urls_have_it_has_a_page_whose_forms_lead_back_to_it(console: Rig, host: str) -> None:
    visit = await console.login("operator")
    console.services.says += [confirmed]
    await visit.get(f"/targets/{host}")

    page = await visit.follow(await visit.post(f"/targets/{host}/pause"))

    assert page.status == 200
    assert host in page.text
    assert await rule_of(console, host) == (True, None, 1)


async def test_a_host_of_markup_is_shown_without_harm(console: Rig) -> None:
    host = "<script>alert(1)<script>"
    await happened(console.postgres, *called(host=host))
    visit = await console.login("operator")

    pages = [await visit.get(path) for path in ("/targets", "/targets/%3Cscript%3Ealert(1)%3Cscript%3E")]

    assert [page.status for page in pages] == [200, 200]
    assert all("<script>" not in page.text and "&lt;script&gt;alert(1)" in page.text for page in pages)


async def count_page(visit: Visit, since: str) -> Answer:
    return await visit.get(f"/targets/{HOST}/redrive?since={since}")


async def test_a_redrive_is_counted_before_it_is_started(console: Rig) -> None:
    now, before = called("failed"), called("failed", minutes_ago=90)
    others = [*called("succeeded"), *called("failed", host="other.example"), *called("failed", project="other")]
    await happened(console.postgres, *now, *before, *others)
    visit = await console.login("operator", name="ann")

    assert "Redrive 1<" in (await count_page(visit, "1h")).text
    page = await count_page(visit, "24h")
    assert "Redrive 2<" in page.text
    async with console.postgres.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM bulk") == 0


async def test_a_redrive_is_started_once_however_often_its_form_is_sent(console: Rig) -> None:
    await happened(console.postgres, *called("failed"), *called("failed", minutes_ago=90))
    visit = await console.login("operator", name="ann")
    page = await count_page(visit, "24h")
    form = {name: _hidden(page.text, name) for name in ("id", "since")}

    answers = [await visit.post(f"/targets/{HOST}/redrive", form) for _ in range(2)]

    assert {answer.location for answer in answers} == {f"/console/bulk/{form['id']}"}
    bulk = await BulkStore(console.postgres).show("default", UUID(form["id"]))
    assert bulk is not None
    assert (bulk.action, bulk.matched, bulk.submitted_by) == ("redrive", 2, "user:ann")
    assert (bulk.filter.status, bulk.filter.host) == (("failed",), HOST)
    assert bulk.filter.ended_from is not None
    async with console.postgres.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM bulk") == 1


def _hidden(page: str, name: str) -> str:
    return page.partition(f'type="hidden" name="{name}" value="')[2].partition('"')[0]


@pytest.mark.parametrize("since", ["soon", "", "1h status:parked", '"', "1h%20host:x", "<b>"])
async def test_a_since_that_means_nothing_starts_nothing(console: Rig, since: str) -> None:
    await happened(console.postgres, *called("failed"))
    visit = await console.login("operator")

    page = await count_page(visit, since)

    assert page.status == 422
    assert "Redrive 1" not in page.text
    assert "<b>" not in page.text.replace("<p><b>", "")
    answer = await visit.post(f"/targets/{HOST}/redrive", {"id": str(uuid4()), "since": since})
    assert answer.location == f"/console/targets/{HOST}/redrive"
    assert [row["outcome"] for row in await console.audit()] == ["failed"]


async def test_the_signing_secret_is_shown_on_demand_only_and_that_is_kept(console: Rig) -> None:
    visit = await console.login("admin")
    key = console.parts.settings.signing_master_key
    assert key is not None
    text = whsec(secret(key.get_secret_value(), "default", 1))

    assert text not in (await visit.get("/signing-secret")).text
    assert await console.audit() == []
    answer = await visit.post("/signing-secret/show")

    assert text in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert [row["action"] for row in await console.audit()] == ["secret.show"]
    assert text not in str(await console.audit())


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_the_signing_secret_is_the_admins(console: Rig, role: Role) -> None:
    visit = await console.login(role)

    assert (await visit.get("/signing-secret")).status == 403
    assert (await visit.post("/signing-secret/show")).status == 403
    assert (await visit.post("/signing-secret/rotate")).status == 403


async def test_a_rotation_that_is_not_over_must_be_insisted_on(console: Rig) -> None:
    visit = await console.login("admin")
    console.services.says += [confirmed, confirmed]

    first = await visit.follow(await visit.post("/signing-secret/rotate", {"overlap_h": "24"}))
    second = await visit.post("/signing-secret/rotate", {"overlap_h": "1"})
    third = await visit.follow(await visit.post("/signing-secret/rotate", {"overlap_h": "1", "force": "yes"}))

    assert "Version 2 signs from now on" in first.text
    assert (second.status, "Rotate all the same" in second.text) == (409, True)
    assert "Version 3 signs from now on" in third.text
    assert [row["outcome"] for row in await console.audit()] == ["done", "refused", "done"]


@pytest.mark.parametrize("overlap", ["-1", "721", "soon", "nan"])
async def test_an_overlap_that_cannot_be_is_refused_beside_its_field(console: Rig, overlap: str) -> None:
    answer = await (await console.login("admin")).post("/signing-secret/rotate", {"overlap_h": overlap})

    assert answer.status == 422
    assert f'value="{overlap}"' in answer.text
    assert (await ControlStore(console.postgres).signing("default")).version == 1
