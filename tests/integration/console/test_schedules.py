"""The pages of schedules: what is shown, typed in and done, with the scheduler's own handlers behind them."""

import html
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from libs.common.contracts import Call, ChangeSchedule, HeldSchedule, PutSchedule, Schedule, decode_call, encode
from services.ingest.console.schedule_form import is_same
from services.ingest.console.schedules import LIMIT
from services.ingest.console.template_form import HIDDEN
from tests.integration.console.a_scheduler import Scheduler, a_scheduler
from tests.integration.console.conftest import Answer, Rig, Visit
from tests.integration.console.task_events import one
from tests.integration.scheduler.schedules import a_change

SECRET = "Bearer sesame"
CALL = Call(
    url="https://example.com/report",
    headers=(("Authorization", SECRET), ("X-Kind", "nightly"), ("Content-Type", "application/json")),
    body=b'{"a": 1}',
)
NIGHTLY = Schedule(
    cron="30 2 * * *", timezone="Europe/Berlin", labels={"team": "billing"}, call=msgspec.Raw(encode(CALL))
)
# As a browser sends the form of a new schedule, filled in.
TYPED = {
    "name": "nightly",
    "revision": "0",
    "since": "",
    "cron": "30 2 * * *",
    "every": "",
    "timezone": "Europe/Berlin",
    "start_at": "",
    "end_at": "",
    "catch_up": "all",
    "expires_after_s": "3600",
    "url": "https://example.com/report",
    "method": "PUT",
    "headers": "X-Kind: nightly\r\nAuthorization: Bearer sesame\r\n",
    "body_kind": "json",
    "body": '{\r\n  "a": 1\r\n}',
    "content_type": "",
    "timeout_s": "3.5",
    "schedule_s": "5, 15",
    "respect_retry_after": "on",
    "expect_status": "200, 204",
    "body_contains": "",
    "labels": "team=billing\r\norder=4=2",
    "callback_success": "",
    "callback_failure": "https://example.com/failed",
}


@pytest.fixture
async def scheduler(
    console: Rig, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scheduler]:
    async with a_scheduler(migrated_postgres_url) as scheduler:
        monkeypatch.setattr(console.services, "ask", scheduler.ask)
        yield scheduler


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, f"no field {name}"
    return html.unescape(found[1])


def field_of(page: str, name: str) -> str:
    """What a browser would send back of an input, a textarea or a select."""
    if found := re.search(rf'<input id="{name}"[^>]* value="([^"]*)"', page):
        return html.unescape(found[1])
    if found := re.search(rf'<textarea id="{name}"[^>]*>\n(.*?)</textarea>', page, re.DOTALL):
        return html.unescape(found[1])
    found = re.search(rf'<select id="{name}".*?<option value="([^"]*)" selected>', page, re.DOTALL)
    assert found, f"no field {name}"
    return html.unescape(found[1])


def form_of(page: str) -> dict[str, str]:
    """What the form of the page would send, were nothing typed."""
    fields = {
        name: field_of(page, name) for name in TYPED if name not in {"name", "revision", "since", "respect_retry_after"}
    }
    fields |= {name: hidden(page, name) for name in ("revision", "since", "name")}
    return fields | ({"respect_retry_after": "on"} if " checked" in page else {})


def fault_of(page: str, name: str) -> str:
    found = re.search(rf'id="{name}-fault" class="fault"[^>]*>([^<]*)<', page)
    assert found, f"no place for the fault of {name}"
    return html.unescape(found[1])


def text_of(page: str) -> str:
    """What is read, without the tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


async def held(scheduler: Scheduler, name: str = "nightly", project: str = "default") -> Any:
    return (await scheduler.answer(a_change("show", name, project=project))).held


async def outcomes(console: Rig) -> list[tuple[str, str, str]]:
    return [(row["action"], row["object"], row["outcome"]) for row in await console.audit()]


class TestList:
    async def test_says_in_words_when_each_comes_and_what_became_of_the_latest(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        await scheduler.put("nightly", NIGHTLY)
        await scheduler.put("beat", Schedule(every="15m", catch_up="none", call=NIGHTLY.call))
        await scheduler.answer(a_change("pause", "beat", project="default"))
        good = await one(console.postgres, "succeeded", schedule="nightly", created_at=datetime(2026, 1, 1, tzinfo=UTC))
        bad = await one(console.postgres, "failed", schedule="nightly", created_at=datetime(2026, 1, 2, tzinfo=UTC))
        await one(console.postgres, "failed", schedule="nightly", project="other")

        page = (await (await console.login("viewer")).get("/schedules")).text

        read = text_of(page)
        assert "At 02:30 every day, Europe/Berlin" in read
        assert "Every 15 minutes, UTC" in read
        assert "when it is resumed" in read
        assert "the latest one that was missed" in read
        assert "none that was missed" in read
        assert re.findall(r'<a class="mark (\w+)" href="/console/tasks/([^"]+)"', page) == [
            ("succeeded", str(good)),
            ("failed", str(bad)),
        ]
        assert SECRET not in page
        assert "New schedule" not in page  # of a viewer

    async def test_pages_through_many(self, console: Rig, scheduler: Scheduler) -> None:
        names = [f"s{number:03d}" for number in range(LIMIT * 2 + 1)]
        for name in names:
            await scheduler.put(name, Schedule(every="1h", call=NIGHTLY.call))
        await scheduler.put("s-of-another", NIGHTLY, "other")
        visit = await console.login("viewer")

        seen, path, pages = [], "/schedules", 0
        while path:
            page = (await visit.get(path)).text
            seen += re.findall(r'<th scope="row"><a href="/console/schedules/([^"]+)"', page)
            pages += 1
            onward = re.search(r'href="/console(/schedules\?after=[^"]+)">Next page', page)
            path = html.unescape(onward[1]) if onward else ""

        assert (seen, pages) == (names, 3)
        assert "No more schedules" in (await visit.get("/schedules?after=zzz")).text
        assert "s000" in (await visit.get("/schedules?after=%3Cscript%3E")).text  # no name: from the first

    async def test_one_question_is_asked_for_a_page(self, console: Rig, scheduler: Scheduler) -> None:
        for number in range(5):
            await scheduler.put(f"s{number}", NIGHTLY)
        await (await console.login("viewer")).get("/schedules")
        assert len(scheduler.asked) == 1

    async def test_without_any_it_says_so(self, console: Rig, scheduler: Scheduler) -> None:
        page = (await (await console.login("operator")).get("/schedules")).text
        assert "No schedules in default" in page
        assert "New schedule" in page

    async def test_a_scheduler_of_the_release_before_tells_no_times(self, console: Rig, scheduler: Scheduler) -> None:
        await scheduler.put("nightly", NIGHTLY)
        real = scheduler.answer

        async def older(command: Any) -> Any:
            return await real(msgspec.structs.replace(command, with_times=False))

        scheduler.answer = older  # type: ignore[method-assign]
        answer = await (await console.login("viewer")).get("/schedules")
        assert answer.status == 200
        assert "see there" in answer.text


class TestShow:
    async def test_shows_when_it_comes_what_came_of_it_and_the_request_without_its_secrets(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        await scheduler.put("nightly", msgspec.structs.replace(NIGHTLY, expires_after_s=90.0))
        task = await one(console.postgres, "failed", schedule="nightly")

        page = (await (await console.login("viewer")).get("/schedules/nightly")).text

        read = text_of(page)
        for words in (
            "nightly active", "At 02:30 every day, Europe/Berlin", "30 2 * * *", "the latest one that was missed",
            "1 min 30 s after their time", "team: billing", "revision 1", "The next ten times",
            "POST https://example.com/report", "X-Kind nightly", "Authorization hidden",
        ):  # fmt: skip
            assert words in read
        assert SECRET not in page
        assert len(re.findall(r"<td class=\"nowrap\">\w{3} \d\d \w{3} \d{4} 0\d:[03]0:00 \+0[12]:00</td>", page)) == 10
        assert f'href="/console/tasks/{task}"' in page
        assert 'href="/console/tasks?q=schedule%3Anightly"' in page
        assert (
            "<button" not in page.partition('<dl class="facts">')[0].partition("<main")[2]
        )  # nothing to do for a viewer

    async def test_what_clocks_do_to_its_times_is_marked(self, console: Rig, scheduler: Scheduler) -> None:
        schedule = msgspec.structs.replace(NIGHTLY, start_at=datetime(2027, 3, 26, tzinfo=UTC))
        await scheduler.put("nightly", schedule)
        read = text_of((await (await console.login("viewer")).get("/schedules/nightly")).text)
        assert (
            "Sun 28 Mar 2027 03:00:00 +02:00 2027-03-28 01:00:00 moved"
            " Clocks skip 02:30 that day: it comes at the first instant after."
            " Mon 29 Mar 2027 02:30:00 +02:00 2027-03-29 00:30:00"
        ) in read

    async def test_one_that_has_ended_comes_never_again(self, console: Rig, scheduler: Scheduler) -> None:
        await scheduler.put("nightly", msgspec.structs.replace(NIGHTLY, end_at=datetime(2026, 1, 1, tzinfo=UTC)))
        read = text_of((await (await console.login("viewer")).get("/schedules/nightly")).text)
        assert "never again" in read
        assert "None: it has ended." in read

    async def test_of_another_project_it_is_not_there(self, console: Rig, scheduler: Scheduler) -> None:
        await scheduler.put("nightly", NIGHTLY, "other")
        visit = await console.login("operator", projects=["default"])
        for path in ("/schedules/nightly", "/schedules/nightly/edit", "/schedules/nightly/delete"):
            answer = await visit.get(path)
            assert answer.status == 404
            assert "no schedule &#39;nightly&#39; in the project default" in answer.text
        for action in ("pause", "resume", "run", "delete"):
            assert (await visit.post(f"/schedules/nightly/{action}")).status == 404
        assert (await held(scheduler, project="other")).status == "active"
        assert scheduler.creates() == []

    @pytest.mark.parametrize("name", ["%3Cscript%3Ealert(1)%3C%2Fscript%3E", "-", "a%00b", "a" * 129, "%F0%9F%92%A9"])
    async def test_a_name_that_none_can_have_is_not_asked_for(
        self, console: Rig, scheduler: Scheduler, name: str
    ) -> None:
        visit = await console.login("operator")
        for path in (f"/schedules/{name}", f"/schedules/{name}/edit"):
            answer = await visit.get(path)
            assert answer.status == 404
            assert "<script>alert" not in answer.text
        assert scheduler.asked == []

    async def test_hostile_content_is_only_text(self, console: Rig, scheduler: Scheduler) -> None:
        evil = "</textarea><script>alert(1)</script>"
        call = Call(
            url=f"https://example.com/?{evil}", headers=(("X-A", f'"{evil}'),), body=evil.encode(),
            expect_body_contains=evil, callback_failure=f"https://example.com/{evil}",
        )  # fmt: skip
        schedule = Schedule(every="1h", labels={"a": evil}, timezone="UTC", call=msgspec.Raw(encode(call)))
        await scheduler.put("nightly", schedule)
        visit = await console.login("operator")
        for path in ("/schedules/nightly", "/schedules/nightly/edit"):
            page = (await visit.get(path)).text
            assert "<script>alert" not in page
            assert "alert(1)" in page

    async def test_one_that_cannot_be_read_any_more_can_be_looked_at_and_edited(
        self, console: Rig, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await scheduler.put("nightly", NIGHTLY)
        real = scheduler.answer

        async def gone(command: Any) -> Any:
            answer = await real(command)
            if getattr(answer, "held", None) is None or isinstance(answer.held, tuple):
                return answer
            schedule = msgspec.structs.replace(answer.held.schedule, timezone="Gone/Zone")
            return msgspec.structs.replace(answer, held=msgspec.structs.replace(answer.held, schedule=schedule))

        scheduler.answer = gone  # type: ignore[method-assign]
        visit = await console.login("operator")
        assert "It cannot be read any more" in (await visit.get("/schedules/nightly")).text
        assert "is no IANA time zone" in fault_of((await visit.get("/schedules/nightly/edit")).text, "timezone")


class TestAway:
    @pytest.mark.parametrize("way", ["is_away", "no_broker"])
    async def test_the_pages_say_so_and_tell_what_is_known(self, console: Rig, scheduler: Scheduler, way: str) -> None:
        for name, state in (("b", "failed"), ("a", "succeeded"), ("a", "failed"), ("c", "retrying")):
            await one(console.postgres, state, schedule=name)
        await one(console.postgres, "failed", schedule="of-another", project="other")
        await one(console.postgres, "failed")
        setattr(scheduler, way, True)
        visit = await console.login("operator")

        listed, shown = await visit.get("/schedules"), await visit.get("/schedules/a")

        reason = "The scheduler does not answer" if way == "is_away" else "The message broker does not answer"
        assert (listed.status, shown.status) == (503, 503)
        assert reason in listed.text
        assert reason in shown.text
        assert re.findall(r'<th scope="row"><a href="/console/schedules/([^"]+)"', listed.text) == ["a", "b", "c"]
        assert sorted(re.findall(r'class="mark (\w+)"', shown.text)) == ["failed", "succeeded"]

    async def test_a_change_says_that_its_result_is_not_known(self, console: Rig, scheduler: Scheduler) -> None:
        scheduler.is_away = True
        visit = await console.login("operator")
        answer = await visit.post("/schedules/nightly/pause")
        assert "its result is not known yet" in (await visit.follow(answer)).text
        assert (await outcomes(console))[0] == ("schedule.pause", "nightly", "not_answered")

    @pytest.mark.parametrize("path", ["/schedules/-/new", "/schedules/nightly/edit"])
    async def test_what_was_typed_is_kept(self, console: Rig, scheduler: Scheduler, path: str) -> None:
        scheduler.no_broker = True
        answer = await (await console.login("operator")).post(path, TYPED)
        assert answer.status == 503
        assert "did not confirm in time" in answer.text
        assert field_of(answer.text, "url") == TYPED["url"]
        assert field_of(answer.text, "labels") == "team=billing\norder=4=2"


class TestCreate:
    async def test_becomes_the_schedule_that_the_api_would_have_made(self, console: Rig, scheduler: Scheduler) -> None:
        visit = await console.login("operator", "ada")

        answer = await visit.post("/schedules/-/new", TYPED)

        assert answer.location == "/console/schedules/nightly"
        made: HeldSchedule = await held(scheduler)
        assert made.schedule is not None
        assert msgspec.structs.replace(made.schedule, call=msgspec.Raw(b"null")) == Schedule(
            cron="30 2 * * *", timezone="Europe/Berlin", catch_up="all", expires_after_s=3600.0,
            labels={"team": "billing", "order": "4=2"}, call=msgspec.Raw(b"null"),
        )  # fmt: skip
        assert decode_call(made.schedule.call) == Call(
            url="https://example.com/report", method="PUT",
            headers=(("X-Kind", "nightly"), ("Authorization", SECRET), ("Content-Type", "application/json")),
            body=b'{\n  "a": 1\n}', timeout_s=3.5, schedule_s=(5.0, 15.0), expect_status=("200", "204"),
            callback_failure="https://example.com/failed",
        )  # fmt: skip
        assert "Created: nightly." in (await visit.follow(answer)).text
        [row] = await console.audit()
        assert (row["actor"], row["action"], row["object"], row["outcome"]) == (
            "ada", "schedule.create", "nightly", "done",
        )  # fmt: skip
        assert SECRET not in str(row)

    async def test_every_fault_stands_beside_its_field_in_the_words_of_the_api(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        wrong = TYPED | {
            "name": "-no-", "cron": "61 * * * *", "every": "5m", "timezone": "Europe/Berlim", "expires_after_s": "0",
            "url": "https://127.0.0.1/", "headers": "Host: a\nX-Ok: 1", "timeout_s": "99", "schedule_s": "5, -1",
            "expect_status": "2xx, 999", "labels": "a b=1", "callback_failure": "ftp://example.com", "body": "{",
        }  # fmt: skip

        answer = await (await console.login("operator")).post("/schedules/-/new", wrong)

        assert answer.status == 422
        page = answer.text
        assert "A schedule's name is 1 to 128 letters" in fault_of(page, "name")
        assert "cron is no cron expression: '61' is no minute" in fault_of(page, "cron")
        assert "every stands beside cron; give one of them" in fault_of(page, "every")
        assert "did you mean Europe/Berlin?" in fault_of(page, "timezone")
        assert "expires_after_s is out of range" in fault_of(page, "expires_after_s")
        assert "cannot be called" in fault_of(page, "url")
        assert "headers.Host is set by Carillon" in fault_of(page, "headers")
        assert "timeout_s is out of range; give 0.1 to 60 seconds" in fault_of(page, "timeout_s")
        assert "retry.schedule_s.1 is out of range" in fault_of(page, "schedule_s")
        assert "expect.status.1 is no status" in fault_of(page, "expect_status")
        assert "labels.a b is no label name" in fault_of(page, "labels")
        assert "only http and https" in fault_of(page, "callback_failure")
        assert "body is no JSON" in fault_of(page, "body")
        assert [field_of(page, name) for name in ("cron", "url", "labels", "body", "schedule_s")] == [
            "61 * * * *", "https://127.0.0.1/", "a b=1", "{", "5, -1",
        ]  # fmt: skip
        assert scheduler.asked == []
        assert await outcomes(console) == [("schedule.create", "-no-", "invalid_request")]

    async def test_a_name_that_is_taken_is_refused_and_nothing_replaced(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        before = await scheduler.put("nightly", NIGHTLY)
        answer = await (await console.login("operator")).post("/schedules/-/new", TYPED)
        assert answer.status == 409
        assert "There is a schedule nightly already" in fault_of(answer.text, "name")
        assert await held(scheduler) == before
        assert await outcomes(console) == [("schedule.create", "nightly", "name_taken")]

    async def test_sent_twice_it_is_one(self, console: Rig, scheduler: Scheduler) -> None:
        visit = await console.login("operator")
        await visit.post("/schedules/-/new", TYPED)
        again = await visit.post("/schedules/-/new", TYPED)
        assert again.status == 303
        assert (await held(scheduler)).revision == 1

    async def test_a_viewer_may_not(self, console: Rig, scheduler: Scheduler) -> None:
        visit = await console.login("viewer")
        assert (await visit.get("/schedules/-/new")).status == 403
        assert (await visit.post("/schedules/-/new", TYPED)).status == 403
        assert scheduler.asked == []

    async def test_a_schedule_may_be_called_new(self, console: Rig, scheduler: Scheduler) -> None:
        visit = await console.login("operator")
        answer = await visit.post("/schedules/-/new", TYPED | {"name": "new"})
        assert "At 02:30 every day" in (await visit.follow(answer)).text


class TestEdit:
    async def test_the_form_sent_back_untouched_changes_nothing(self, console: Rig, scheduler: Scheduler) -> None:
        call = msgspec.structs.replace(CALL, method="PATCH", timeout_s=2.25, schedule_s=(), respect_retry_after=False)
        schedule = Schedule(
            every="90s", timezone="Asia/Kolkata", start_at=datetime(2027, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC),
            end_at=datetime(2028, 1, 1, tzinfo=UTC), catch_up="none", labels={"a": " 1=2 ", "b": ""},
            expires_after_s=12.5, call=msgspec.Raw(encode(call)),
        )  # fmt: skip
        before = await scheduler.put("nightly", schedule)
        visit = await console.login("operator")

        page = (await visit.get("/schedules/nightly/edit")).text
        answer = await visit.post("/schedules/nightly/edit", form_of(page))

        assert SECRET not in page
        assert f"Authorization: {HIDDEN}" in page
        assert "It stands like that already." in (await visit.follow(answer)).text
        assert await held(scheduler) == before
        assert not [asked for asked in scheduler.asked if isinstance(asked, PutSchedule)]

    async def test_a_change_keeps_the_secret_that_it_never_saw(self, console: Rig, scheduler: Scheduler) -> None:
        await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("operator")
        page = (await visit.get("/schedules/nightly/edit")).text

        answer = await visit.post("/schedules/nightly/edit", form_of(page) | {"cron": "45 3 * * *"})

        assert "Saved: nightly." in (await visit.follow(answer)).text
        after = await held(scheduler)
        assert after.revision == 2
        assert is_same(after.schedule, msgspec.structs.replace(NIGHTLY, cron="45 3 * * *"))

    async def test_dots_for_a_header_that_there_is_not_are_never_sent(self, console: Rig, scheduler: Scheduler) -> None:
        before = await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("operator")
        typed = form_of((await visit.get("/schedules/nightly/edit")).text) | {"headers": f"X-Api-Key: {HIDDEN}"}
        answer = await visit.post("/schedules/nightly/edit", typed)
        assert answer.status == 422
        assert "headers.X-Api-Key has no value that is known; type its value again" in fault_of(answer.text, "headers")
        assert await held(scheduler) == before

    async def test_a_change_of_somebody_else_meanwhile_is_shown_and_not_overwritten(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("operator")
        mine = form_of((await visit.get("/schedules/nightly/edit")).text) | {"cron": "45 3 * * *"}
        theirs = await scheduler.put("nightly", msgspec.structs.replace(NIGHTLY, cron="0 5 * * *", labels={}))

        answer = await visit.post("/schedules/nightly/edit", mine)

        assert answer.status == 409
        read = text_of(answer.text)
        assert "Changed since you opened it" in read
        assert "cron 0 5 * * * 45 3 * * *" in read
        assert "labels team=billing" in read
        assert await held(scheduler) == theirs
        assert (await outcomes(console))[-1] == ("schedule.replace", "nightly", "changed_meanwhile")
        again = form_of(answer.text)
        assert again["cron"] == "45 3 * * *"
        await visit.post("/schedules/nightly/edit", again)
        after = await held(scheduler)
        assert (after.revision, after.schedule.cron, after.schedule.labels) == (3, "45 3 * * *", {"team": "billing"})

    async def test_a_change_between_our_look_and_our_put_is_not_overwritten_either(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("operator")
        mine = form_of((await visit.get("/schedules/nightly/edit")).text) | {"cron": "45 3 * * *"}
        real = scheduler.answer

        async def late(command: Any) -> Any:
            answer = await real(command)
            if isinstance(command, ChangeSchedule):  # our look; the put has an id that is newer than theirs
                scheduler.answer = real  # type: ignore[method-assign]
                await scheduler.put("nightly", msgspec.structs.replace(NIGHTLY, cron="0 5 * * *"))
            return answer

        scheduler.answer = late  # type: ignore[method-assign]
        answer = await visit.post("/schedules/nightly/edit", mine)

        assert answer.status == 409
        assert "cron 0 5 * * * 45 3 * * *" in text_of(answer.text)
        assert (await held(scheduler)).schedule.cron == "0 5 * * *"

    async def test_one_that_was_deleted_meanwhile_is_not_created_anew_unasked(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        await scheduler.put("nightly", Schedule(every="1h", call=msgspec.Raw(encode(Call(url="https://example.com/")))))
        visit = await console.login("operator")
        mine = form_of((await visit.get("/schedules/nightly/edit")).text) | {"every": "2h"}
        await scheduler.answer(a_change("delete", "nightly", project="default"))

        answer = await visit.post("/schedules/nightly/edit", mine)

        assert answer.status == 409
        assert "It has been deleted since you opened it" in answer.text
        assert await held(scheduler) is None
        assert 'action="/console/schedules/-/new"' in answer.text
        await visit.post("/schedules/-/new", form_of(answer.text) | {"name": field_of(answer.text, "name")})
        assert (await held(scheduler)).schedule.every == "2h"

    async def test_a_paused_one_stays_paused(self, console: Rig, scheduler: Scheduler) -> None:
        await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("operator")
        await visit.post("/schedules/nightly/pause")
        typed = form_of((await visit.get("/schedules/nightly/edit")).text) | {"cron": "45 3 * * *"}
        await visit.post("/schedules/nightly/edit", typed)
        assert (await held(scheduler)).status == "paused"

    async def test_a_body_that_a_form_would_change_is_edited_as_its_bytes(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        call = Call(url="https://example.com/", body=b"a\r\nb\x00", headers=(("Content-Type", "text/plain"),))
        before = await scheduler.put("nightly", Schedule(every="1h", call=msgspec.Raw(encode(call))))
        visit = await console.login("operator")
        page = (await visit.get("/schedules/nightly/edit")).text
        assert field_of(page, "body_kind") == "base64"
        await visit.post("/schedules/nightly/edit", form_of(page) | {"every": "2h"})
        after = await held(scheduler)
        assert (after.revision, decode_call(after.schedule.call)) == (2, decode_call(before.schedule.call))


class TestPreview:
    async def preview(self, console: Rig, **times: str) -> Answer:
        visit: Visit = await console.login("viewer")
        query = "&".join(f"{name}={value.replace(' ', '+').replace(':', '%3A')}" for name, value in times.items())
        return await visit.get(f"/schedules/-/preview?{query}", headers={"HX-Request": "true"})

    async def test_tells_the_next_times_over_a_clock_change(self, console: Rig, scheduler: Scheduler) -> None:
        answer = await self.preview(
            console, cron="30 2 * * *", timezone="Europe/Berlin", start_at="2027-10-30T00:00:00Z"
        )
        assert answer.status == 200
        assert "<html" not in answer.text
        assert (
            "At 02:30 every day , Europe/Berlin Clocks there show UTC Clock changes"
            " Sat 30 Oct 2027 02:30:00 +02:00 2027-10-30 00:30:00"
            " Sun 31 Oct 2027 02:30:00 +02:00 2027-10-31 00:30:00 once Clocks show 02:30 twice that day: it comes the"
            " first time only. Mon 01 Nov 2027 02:30:00 +01:00 2027-11-01 01:30:00 clocks change"
        ) in text_of(answer.text)
        assert scheduler.asked == []

    async def test_tells_what_does_not_come(self, console: Rig, scheduler: Scheduler) -> None:
        answer = await self.preview(
            console, cron="*/30 * * * *", timezone="America/New_York", start_at="2027-03-14T06:00:00Z"
        )
        assert "Sun 14 Mar 2027, 02:00, 02:30 none skipped Clocks skip these" in text_of(answer.text)

    async def test_a_fault_goes_beside_its_field(self, console: Rig, scheduler: Scheduler) -> None:
        answer = await self.preview(console, cron="30 2 * *", timezone="Nowhere", end_at="soon")
        assert answer.status == 200  # htmx puts it in place
        assert "it has 4" in fault_of(answer.text, "cron")
        assert "is no IANA time zone" in fault_of(answer.text, "timezone")
        assert "is no RFC 3339 time" in fault_of(answer.text, "end_at")
        assert fault_of(answer.text, "every") == ""
        assert answer.text.count("hx-swap-oob") == 5

    async def test_before_anything_is_typed_it_says_what_to_do(self, console: Rig, scheduler: Scheduler) -> None:
        assert "Type a cron expression" in (await self.preview(console, timezone="UTC")).text

    async def test_hostile_words_are_only_text(self, console: Rig, scheduler: Scheduler) -> None:
        evil = "%3Cscript%3Ealert(1)%3C/script%3E"
        answer = await self.preview(console, cron=evil, timezone=evil, since=evil)
        assert "<script" not in answer.text
        assert "is no cron expression" in fault_of(answer.text, "cron")

    async def test_an_interval_is_counted_from_when_the_schedule_was_created(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        answer = await self.preview(console, every="1h", timezone="UTC", since="2026-01-01T00:07:00Z")
        assert re.findall(r"\d\d:(\d\d:\d\d) \+00:00", answer.text) == ["07:00"] * 10

    async def test_without_javascript_the_form_comes_back_with_it_and_nothing_is_saved(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        visit = await console.login("operator")
        answer = await visit.post("/schedules/-/preview", TYPED)
        assert answer.status == 200
        assert "At 02:30 every day" in answer.text
        assert form_of(answer.text) | {"name": field_of(answer.text, "name")} == {
            name: text.replace("\r\n", "\n") for name, text in TYPED.items()
        }
        assert scheduler.asked == []

    async def test_of_an_edit_the_form_is_still_the_one_of_that_schedule(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("operator")
        typed = form_of((await visit.get("/schedules/nightly/edit")).text) | {"cron": "45 3 * * *"}
        page = (await visit.post("/schedules/-/preview", typed)).text
        assert 'action="/console/schedules/nightly/edit"' in page
        assert form_of(page) == typed
        await visit.post("/schedules/nightly/edit", form_of(page))
        assert (await held(scheduler)).schedule.cron == "45 3 * * *"


class TestActions:
    async def test_pause_and_resume(self, console: Rig, scheduler: Scheduler) -> None:
        await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("operator", "ada")

        paused = await visit.follow(await visit.post("/schedules/nightly/pause"))
        assert "Paused: it makes no more tasks until it is resumed." in paused.text
        assert 'action="/console/schedules/nightly/resume"' in paused.text
        assert (await held(scheduler)).status == "paused"

        resumed = await visit.follow(await visit.post("/schedules/nightly/resume"))
        assert "What the pause has missed is not made up for." in resumed.text
        assert (await held(scheduler)).status == "active"
        assert await outcomes(console) == [
            ("schedule.pause", "nightly", "done"), ("schedule.resume", "nightly", "done"),
        ]  # fmt: skip

    async def test_run_now_makes_one_task_however_often_the_button_is_pressed(
        self, console: Rig, scheduler: Scheduler
    ) -> None:
        await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("operator")
        page = (await visit.get("/schedules/nightly")).text
        once = {"once": hidden(page, "once")}

        told = await visit.follow(await visit.post("/schedules/nightly/run", once))
        await visit.post("/schedules/nightly/run", once)
        first, second = scheduler.creates()
        await visit.post("/schedules/nightly/run", {"once": hidden(told.text, "once")})
        [other] = scheduler.creates()

        assert first.task.id == second.task.id != other.task.id
        assert f"Its task {first.task.id} is made" in told.text
        assert (first.task.schedule, first.task.project) == ("nightly", "default")
        assert first.task.id.hex in str((await console.audit())[0]).replace("-", "")

    async def test_a_deletion_is_asked_twice(self, console: Rig, scheduler: Scheduler) -> None:
        await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("operator")
        asked = await visit.get("/schedules/nightly/delete")
        assert "What it has called stays in the history" in asked.text
        assert await held(scheduler) is not None

        answer = await visit.post("/schedules/nightly/delete")

        assert answer.location == "/console/schedules"
        assert "Deleted: nightly makes no more tasks." in (await visit.follow(answer)).text
        assert await held(scheduler) is None
        assert (await visit.get("/schedules/nightly")).status == 404

    async def test_a_viewer_may_do_none_of_it(self, console: Rig, scheduler: Scheduler) -> None:
        await scheduler.put("nightly", NIGHTLY)
        visit = await console.login("viewer")
        for action in ("pause", "resume", "run", "delete", "edit"):
            assert (await visit.post(f"/schedules/nightly/{action}", TYPED)).status == 403
        assert [asked for asked in scheduler.asked if not isinstance(asked, ChangeSchedule)] == []
        assert (await held(scheduler)).revision == 1
