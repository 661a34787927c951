"""The overview with a real history: what it counts, what it says needs attention, and where it leads."""

import html
import re
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from libs.common.clock import SystemClock
from libs.common.contracts import (
    AttemptFinished,
    Call,
    Event,
    ServiceSeen,
    TargetChanged,
    Task,
    TaskAccepted,
    encode,
)
from services.ingest.creation import this_millisecond
from services.ingest.history import History
from services.ingest.maintenance import Maintenance
from services.ingest.store import Store
from services.ingest.store_replicas import ReplicaStore
from tests.integration.console.conftest import Rig

_TILE = re.compile(r'class="tile[^"]*" href="([^"]+)"><span class="value">([^<]+)</span> <span class="name">([^<]+)')
CALL = msgspec.Raw(encode(Call(url="https://api.example.com/")))


def now() -> datetime:
    return this_millisecond(SystemClock().now())


def accepted(due_s: float = 3_600, project: str = "default") -> TaskAccepted:
    due_at = now() + timedelta(seconds=due_s)
    return TaskAccepted(
        task=Task(id=uuid4(), project=project, created_at=now(), due_at=due_at, fingerprint="f", call=CALL)
    )


def attempted(outcome: str, ago: timedelta = timedelta(seconds=5), late_ms: int = 100, **others: Any) -> list[Event]:
    task = accepted(-60, others.get("project", "default"))
    at: datetime = now() - ago
    event = AttemptFinished(
        id=task.task.id, project=task.task.project, generation=1, attempt=1, hop=1,
        due_at=at - timedelta(milliseconds=late_ms), started_at=at, duration_ms=20, outcome=outcome,  # type: ignore[arg-type]
        next_attempt_at=now() if outcome == "retry" else None, host="api.example.com",
    )  # fmt: skip
    return [task, event]


async def seen(console: Rig, *services: str, **vitals: float) -> None:
    for service in services:
        told = ServiceSeen(
            service=service, replica=f"{service}-1", version="1.2.3", started_at=now(), at=now(), vitals=vitals
        )
        await ReplicaStore(console.postgres).keep(told)


def tiles(page: str) -> dict[str, tuple[str, str]]:
    """By name: the value, and where it leads."""
    found = re.findall(
        r'class="tile[^"]*" href="([^"]+)"><span class="value">([^<]+)</span> <span class="name">([^<]+)', page
    )
    return {name: (value, html.unescape(to).removeprefix("/console")) for to, value, name in found}


def concerns(page: str) -> list[str]:
    part = page.partition('class="concerns"')[2].partition("</ul>")[0]
    return [html.unescape(text).strip() for text in re.findall(r"<span>(.+?)(?:<time|</span>)", part)]


@pytest.fixture
async def history(console: Rig) -> History:
    store, clock = Store(console.postgres), SystemClock()
    maintenance = Maintenance(store, clock, retention_days=30)
    await maintenance.prepare()
    return History(store, maintenance, clock)


async def test_it_counts_what_waits_and_what_ended_and_each_leads_to_the_tasks(console: Rig, history: History) -> None:
    outcomes = [*attempted("succeeded"), *attempted("succeeded"), *attempted("failed"), *attempted("retry")]
    old = attempted("failed", timedelta(hours=2))
    elsewhere = [accepted(project="other"), *attempted("failed", project="other")]
    await history.handle([accepted(), accepted(), accepted(-40), *outcomes, *old, *elsewhere])
    await seen(console, "dispatcher", in_flight=7)
    visit = await console.login("viewer")
    page = (await visit.get("/")).text
    assert tiles(page) == {
        "scheduled": ("2", "/tasks?q=status:scheduled"),
        "overdue": ("1", "/tasks?q=status:due"),
        "in flight": ("7", "/targets"),
        "retrying": ("1", "/tasks?q=status:retrying"),
        "succeeded": ("2", "/tasks?q=status:succeeded+ended-after:1h"),
        "failed": ("1", "/tasks?q=status:failed+ended-after:1h"),
        "lateness p50": ("98 ms", "?span=1h#lateness"),
        "lateness p99": ("98 ms", "?span=1h#lateness"),
    }


async def test_where_its_tiles_lead_the_search_understands(console: Rig, history: History) -> None:
    await history.handle([*attempted("failed"), accepted()])
    visit = await console.login("viewer")
    for name, (_value, to) in tiles((await visit.get("/")).text).items():
        if to.startswith("/tasks"):
            answer = await visit.get(to)
            assert answer.status == 200, name
            assert 'class="fault"' not in answer.text, name


async def test_what_needs_attention_is_told_with_its_place(console: Rig, history: History) -> None:
    until = now() + timedelta(minutes=1)
    opened = TargetChanged(host="api.example.com", state="open", changed_at=now(), until=until, replica="d")
    other = TargetChanged(host="not-ours.example.com", state="open", changed_at=now(), until=until, replica="d")
    await history.handle([*attempted("failed"), accepted(-40), opened, other])
    async with console.postgres.acquire() as connection:
        await connection.execute(
            "INSERT INTO target_rule (project, host, is_paused, burst, command_id, changed_at, changed_by)"
            " VALUES ('default', 'slow.example.com', true, 1, gen_random_uuid(), now(), 'someone')"
        )
        await connection.execute(
            "INSERT INTO parked (message_id, parked_at, origin, cause, crashes, headers, body, project)"
            " VALUES ('1', now(), 'q', 'c', 0, '', '', 'default'), ('2', now(), 'q', 'c', 0, '', '', NULL),"
            " ('3', now(), 'q', 'c', 0, '', '', 'other')"
        )
    await seen(console, "ingest", "dispatcher", waiting=0)
    await seen(console, "mailer", waiting=12, waiting_since=now().timestamp())
    page = (await (await console.login("viewer")).get("/")).text
    assert concerns(page) == [
        "No scheduler has been heard of for 30 s: no task comes due.",
        "Due and not called yet: 1, the oldest since",
        "api.example.com is not called: its circuit breaker is open, since",
        "Messages that no service could process: 2",
        "Messages of failures that wait for the next digest: 12, since",
        "slow.example.com is paused and its tasks wait, since",
    ]
    assert 'href="/console/targets/api.example.com"' in page
    assert "not-ours" not in page, "the breaker of a host that this project does not call"


async def test_the_places_it_sends_to_are_there(console: Rig, history: History) -> None:
    await history.handle(attempted("failed"))
    visit = await console.login("admin")
    for path in ("/dead-letters", "/targets", "/targets/api.example.com"):
        assert (await visit.get(path)).status == 200, path
    assert "/digest" in {page.path for page in console.app.pages}  # it asks the mailer


async def test_when_all_is_well_it_says_so(console: Rig) -> None:
    await seen(console, "ingest", "scheduler", "dispatcher", "mailer")
    page = (await (await console.login("viewer")).get("/")).text
    assert concerns(page) == []
    assert "Nothing." in page
    for service in ("ingest", "scheduler", "dispatcher", "mailer"):
        assert re.search(rf">{service}</th>\s*<td class=\"break\">{service}-1</td>\s*<td>1\.2\.3</td>", page)
    assert "not heard of" not in page


@pytest.mark.parametrize(("span", "steps", "made"), [("1h", 60, 2), ("24h", 96, 3), ("7d", 168, 4), ("odd", 60, 2)])
async def test_charts_and_their_table_have_the_same_numbers(
    console: Rig, history: History, span: str, steps: int, made: int
) -> None:
    agos = [timedelta(seconds=5), timedelta(seconds=5), timedelta(hours=5), timedelta(days=3)]
    await history.handle([event for ago in agos for event in attempted("succeeded", ago)])
    page = (await (await console.login("viewer")).get(f"?span={span}")).text
    match = re.search(r'data-series="([^"]+)"', page)
    assert match, page
    series = msgspec.json.decode(html.unescape(match[1]))
    assert {len(column) for column in series.values()} == {steps}
    assert sum(series["succeeded"]) == made
    assert [value for value in series["p99"] if value is not None] != []
    table = page.partition('id="chart-data"')[2].partition("</table>")[0]
    rows = re.findall(r'</th><td class="number">(\d+)</td>', table)
    assert sum(map(int, rows)) == made


async def test_names_from_outside_cannot_bring_markup(console: Rig, history: History) -> None:
    await history.handle(attempted("failed"))
    bad = ServiceSeen(
        service="mailer", replica='<script>x</script>"', version="<b>", started_at=now(), at=now(), vitals={"<i>": 1.0}
    )  # fmt: skip
    await ReplicaStore(console.postgres).keep(bad)
    page = (await (await console.login("viewer")).get("/")).text
    assert "<script>x" not in page
    assert "<b>" not in page
    assert "<i>" not in page


async def test_it_shows_no_numbers_of_another_project(console: Rig, history: History) -> None:
    await history.handle([accepted(project="other"), *attempted("failed", project="other")])
    page = (await (await console.login("viewer", projects=["mine"])).get("/")).text
    assert tiles(page)["scheduled"][0] == tiles(page)["failed"][0] == "0"
    assert "parked" not in concerns(page)
