"""Streams of events to open pages, on a real server: who hears what, when they end, and what they cost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from aiohttp import ClientResponse

from libs.common.clock import SystemClock
from libs.common.contracts import Call, Task, TaskAccepted, encode
from libs.common.postgres import PostgresAway
from services.ingest.console import live as live_module
from services.ingest.console.live import Live, Stream
from services.ingest.console.overview import Overview
from services.ingest.creation import this_millisecond
from services.ingest.history import History
from services.ingest.maintenance import Maintenance
from services.ingest.store import Store
from services.ingest.store_overview import OverviewStore, Signs
from tests.integration.console.conftest import Rig, Visit
from tests.integration.rig import metric, until

NOW = this_millisecond(SystemClock().now())
WITHIN_S = 5.0


@pytest.fixture
def live(console: Rig) -> Live:
    [found] = [worker for worker in console.app.workers if isinstance(worker, Live)]
    return found


@pytest.fixture
async def history(console: Rig) -> History:
    store, clock = Store(console.postgres), SystemClock()
    maintenance = Maintenance(store, clock, retention_days=30)
    await maintenance.prepare()
    return History(store, maintenance, clock)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each project was looked at."""
    counted: Counter[str] = Counter()
    signs = OverviewStore.signs

    async def counting(self: OverviewStore, project: str) -> Signs:
        counted[project] += 1
        return await signs(self, project)

    monkeypatch.setattr(OverviewStore, "signs", counting)
    return counted


def accepted(project: str = "default") -> TaskAccepted:
    call, due_at = msgspec.Raw(encode(Call(url="https://api.example.com/"))), NOW + timedelta(hours=1)
    return TaskAccepted(
        task=Task(id=uuid4(), project=project, created_at=NOW, due_at=due_at, fingerprint="f", call=call)
    )


@asynccontextmanager
async def opened(visit: Visit, of: str = "") -> AsyncIterator[ClientResponse]:
    async with visit.client.get(f"/console/live?of={of}") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield response


@asynccontextmanager
async def running(live: Live) -> AsyncIterator[asyncio.Event]:
    stopping = asyncio.Event()
    work = asyncio.create_task(live.run(stopping))
    try:
        yield stopping
    finally:
        stopping.set()
        await asyncio.wait_for(work, WITHIN_S)


async def event(response: ClientResponse) -> tuple[str, str]:
    """The next one: its name ("" for content), and its data. A comment is named ":"; the end "end"."""
    name, data = "", list[str]()
    async with asyncio.timeout(WITHIN_S):
        while line := await response.content.readline():
            text = line.decode().rstrip("\n")
            if not text:
                return name, "\n".join(data)
            if text.startswith("event: "):
                name = text.removeprefix("event: ")
            elif text.startswith(":"):
                name = ":"
            else:
                data.append(text.removeprefix("data:").removeprefix(" "))
    return "end", ""


async def streams(console: Rig, live: Live, count: int) -> None:
    await until(f"{count} streams", lambda: metric("carillon_ingest_console_streams") == count)


async def test_a_page_hears_that_something_of_its_project_has_changed(
    console: Rig, live: Live, history: History
) -> None:
    visit = await console.login("viewer", projects=["default"])
    async with opened(visit) as response:
        await live.one_pass()
        assert await event(response) == ("changed", "")  # what happened while it was loaded, nobody knows
        await live.one_pass()
        await history.handle([accepted("other")])
        await live.one_pass()
        await history.handle([accepted()])
        await live.one_pass()
        assert await event(response) == ("changed", "")
        nothing = asyncio.create_task(event(response))
        await live.one_pass()
        assert await asyncio.wait({nothing}, timeout=0.1) == (set(), {nothing}), "nothing of its project has changed"
        nothing.cancel()


async def test_the_overview_gets_its_new_content_and_no_other_page_does(
    console: Rig, live: Live, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.console.overview.SNAPSHOT_S", 0.0)
    visit = await console.login("viewer")
    async with opened(visit, "overview") as overview, opened(visit, "tasks") as tasks:
        await live.one_pass()
        name, content = await event(overview)
        assert name == ""
        assert '<div id="overview-now" hx-swap-oob="outerMorph">' in content
        assert '<span class="value">0</span> <span class="name">scheduled</span>' in content
        assert await event(overview) == await event(tasks) == ("changed", "")
        await history.handle([accepted()])
        await live.one_pass()
        assert '<span class="value">1</span> <span class="name">scheduled</span>' in (await event(overview))[1]
        assert await event(tasks) == ("changed", "")


async def test_however_many_pages_are_open_each_project_is_looked_at_once(
    console: Rig, live: Live, looks: Counter[str]
) -> None:
    mine, theirs = await console.login("viewer", projects=["mine"]), await console.login("viewer", projects=["theirs"])
    async with opened(mine, "overview"), opened(mine, "overview"), opened(mine), opened(theirs, "overview"):
        await live.one_pass()
        await live.one_pass()
    assert looks == {"mine": 2, "theirs": 2}


async def test_while_nobody_watches_nothing_is_looked_at(
    console: Rig, live: Live, looks: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "EVERY_S", 0.01)
    monkeypatch.setattr(live_module, "SILENCE_S", 0.02)  # a tab that was closed is noticed when it is written to
    visit = await console.login("viewer")
    async with running(live):
        async with opened(visit):
            await until("a look", lambda: looks["default"] > 2)
        await streams(console, live, 0)
        await asyncio.sleep(0.02)
        before = looks["default"]
        await asyncio.sleep(0.2)
        assert looks["default"] == before


async def test_a_stream_that_has_nothing_to_say_says_that_it_lives(
    console: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "SILENCE_S", 0.02)
    async with opened(await console.login("viewer")) as response:
        assert [await event(response) for _ in range(3)] == [(":", "")] * 3


@pytest.mark.parametrize("how", ["logged out", "disabled", "other projects"])
async def test_a_stream_ends_with_its_session(console: Rig, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(live_module, "CHECK_S", 0.05)
    monkeypatch.setattr(live_module, "SILENCE_S", 0.02)
    visit = await console.login("viewer", projects=["mine"])
    async with opened(visit) as response:
        for _ in range(5):
            assert await event(response) == (":", "")  # past two checks of a good session
        if how == "logged out":
            await visit.post("/logout")
        else:
            change = "disabled_at = now()" if how == "disabled" else "projects = '{other}'"
            async with console.postgres.acquire() as connection:
                await connection.execute(f"UPDATE console_user SET {change} WHERE id = $1", visit.user_id)
        told = []
        while (each := await event(response))[0] != "end":
            told.append(each[0])
        assert told[-1] == "ended"


async def test_watching_is_no_use_of_the_session(console: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    visitor = console.app.guard.visitor

    async def noting(request: Any, *, is_use: bool = True) -> Any:
        asked.append(is_use)
        return await visitor(request, is_use=is_use)

    monkeypatch.setattr(console.app.guard, "visitor", noting)
    monkeypatch.setattr(live_module, "CHECK_S", 0.02)
    async with opened(await console.login("viewer")) as response:
        await event(response)
        await event(response)
    assert asked[0] is True
    assert set(asked[1:]) == {False}


async def test_streams_hold_up_no_drain_and_none_begins_in_it(console: Rig, live: Live) -> None:
    visit = await console.login("viewer")
    async with running(live) as stopping, opened(visit) as one, opened(visit, "overview") as two:
        await streams(console, live, 2)
        stopping.set()
        for response in (one, two):
            while (await event(response))[0] != "end":
                pass
        await streams(console, live, 0)
        answer = await visit.get("/live")
        assert answer.status == 503
        assert answer.headers["Retry-After"]


async def test_there_is_room_for_so_many_and_the_rest_load_their_pages(
    console: Rig, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "STREAMS_MAX", 2)
    monkeypatch.setattr(live_module, "SILENCE_S", 0.02)
    visit = await console.login("viewer")
    async with opened(visit):
        async with opened(visit):
            await streams(console, live, 2)
            assert (await visit.get("/live")).status == 503
            assert (await visit.get("/")).status == 200
        await streams(console, live, 1)
        async with opened(visit):
            await streams(console, live, 2)


async def test_who_reads_nothing_is_kept_the_newest_only_and_not_for_ever(
    console: Rig, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "WRITE_S", 0.1)
    async with opened(await console.login("viewer")):
        await streams(console, live, 1)
        [stream] = live._all()
        for number in range(40):  # more than what the sockets and aiohttp hold between them
            stream.show(f"<p>{number}</p>" + "x" * 1_000_000)
            await asyncio.sleep(0.01)
        await streams(console, live, 0)


async def test_of_what_was_not_taken_only_the_newest_is_kept() -> None:
    stream = Stream("default", "overview")
    for number in range(1_000):
        stream.show(f"<p>{number}</p>")
        stream.tell_changed()
    assert await stream.next(1) == b"data: <p>999</p>\n\nevent: changed\ndata:\n\n"
    stream.show("<p>999</p>")
    assert await stream.next(0.01) == b"", "the same content is not sent again"


async def test_who_is_not_logged_in_gets_no_stream(console: Rig) -> None:
    visit = await console.visit()
    assert (await visit.get("/live")).status == 303
    assert (await visit.get("/live", headers={"HX-Request": "true"})).status == 401


async def test_a_question_for_the_head_alone_ends(console: Rig) -> None:
    visit = await console.login("viewer")
    async with asyncio.timeout(WITHIN_S), visit.client.head("/console/live") as response:
        assert response.status == 200


async def test_postgres_away_ends_no_poller(console: Rig, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    away = True
    signs = OverviewStore.signs

    async def sometimes(self: OverviewStore, project: str) -> Signs:
        if away:
            raise PostgresAway("gone")
        return await signs(self, project)

    monkeypatch.setattr(OverviewStore, "signs", sometimes)
    async with opened(await console.login("viewer")) as response:
        await live.one_pass()
        away = False
        await live.one_pass()
        assert await event(response) == ("changed", "")


async def test_a_page_that_cannot_be_drawn_ends_no_poller(
    console: Rig, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Overview, app: object, project: str) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(Overview, "pushed", broken)
    monkeypatch.setattr(live_module, "EVERY_S", 0.01)
    theirs, mine = await console.login("viewer", projects=["broken"]), await console.login("viewer", projects=["mine"])
    async with running(live), opened(theirs, "overview"), opened(mine) as response:
        assert await event(response) == ("changed", "")


async def test_a_tab_that_closes_while_it_is_looked_up_leaves_nothing_behind(
    console: Rig, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "SILENCE_S", 0.02)
    signs, closed = OverviewStore.signs, asyncio.Event()

    async def slow(self: OverviewStore, project: str) -> Signs:
        await closed.wait()
        return await signs(self, project)

    monkeypatch.setattr(OverviewStore, "signs", slow)
    visit = await console.login("viewer")
    async with opened(visit):
        await streams(console, live, 1)
        looking = asyncio.create_task(live.one_pass())
    await streams(console, live, 0)
    closed.set()
    await looking
    async with opened(visit) as response:  # the first again: what has changed since, nobody knows
        await live.one_pass()
        while (told := await event(response))[0] == ":":
            pass
        assert told == ("changed", "")
