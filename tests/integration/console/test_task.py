"""The page of one task, and what can be done there."""

import asyncio
import base64
import random
import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from libs.common.clock import format_utc
from libs.common.contracts import Call, CancelTask, CreateTask, RescheduleTask, Task, Timing, decode_call
from libs.common.ids import callback_id
from libs.common.postgres import PostgresAway
from libs.common.publisher import PublishUnknown
from services.ingest import lookup, store_attempts
from services.ingest.inquiry import Inquiry
from services.ingest.store import Store
from services.ingest.store_attempts import ANSWERS_MAX, AttemptStore
from services.ingest.store_obstacles import ObstacleStore
from services.ingest.store_purge import PurgeStore
from tests.http.services import dispatcher, nothing, scheduler
from tests.integration.console.conftest import Answer, Rig, Visit
from tests.integration.console.task_events import URL, accepted, at, called, one, told

MS, TEN_MINUTES = timedelta(milliseconds=1), timedelta(minutes=10)

# What the page offers in each state, of what an admin may.
OFFERED = {
    "scheduled": {"run", "reschedule", "cancel", "clone"},
    "due": {"cancel", "clone"},
    "retrying": {"cancel", "clone"},
    "succeeded": {"clone", "purge"},
    "failed": {"redrive", "clone", "purge"},
    "cancelled": {"clone", "purge"},
    "expired": {"redrive", "clone", "purge"},
    "parked": {"redrive", "cancel", "clone"},
}
SECRETS = (("Authorization", "Bearer hunter2"), ("X-Api-Key", "hunter3"), ("X-Order", "42"))
HOSTILE = "</pre></textarea><script>alert(1)</script><b onclick=x>\"'&amp;\0\x1b[31m\u202eevil\u2066"
PURGE = "/tasks/{id}/purge"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MISS_PAUSES_S", (0.02, 0.02, 0.02))


class Elements(HTMLParser):
    """Every tag with its attributes, and the text that is shown."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def offered(html: str) -> set[str]:
    """Forms and links that do something to the task."""
    found = set(re.findall(r'action="/console/tasks/[0-9a-f-]{36}/(\w+)"', html))
    found |= set(re.findall(r'role="button"[^>]* href="/console/tasks/[0-9a-f-]{36}/(\w+)"', html))
    return found | ({"clone"} if "/console/tasks/new?from=" in html else set())


def created(console: Rig) -> list[Task]:
    """What was given to the scheduler."""
    messages = [message for _route, message in console.broker.published]
    assert all(isinstance(message, CreateTask) for message in messages)
    return [message.task for message in messages if isinstance(message, CreateTask)]


async def done(visit: Visit, id_: UUID, action: str, fields: dict[str, str] | None = None) -> tuple[str, str]:
    """The kind and the text of what the task's page tells then."""
    answer = await visit.post(f"/tasks/{id_}/{action}", fields or {})
    assert (answer.status, answer.location) == (303, f"/console/tasks/{id_}")
    page = await visit.follow(answer)
    [(kind, text)] = re.findall(r'<p class="flash (\w+)">([^<]*)</p>', page.text)
    return kind, text


class TestThePage:
    async def test_says_the_state_the_sentence_of_the_api_and_offers_what_the_state_allows(self, console: Rig) -> None:
        visit = await console.login("admin")
        for state in OFFERED:
            await self.look_at(console, visit, state)

    async def look_at(self, console: Rig, visit: Visit, state: str) -> None:
        id_ = await one(console.postgres, state)
        answer = await visit.get(f"/tasks/{id_}")
        assert answer.status == 200
        assert f'<span class="status {state}">{state}</span>' in answer.text
        task = await Store(console.postgres).task("default", id_)
        assert task is not None
        attempts = await Store(console.postgres).attempts(id_)
        inquiry = Inquiry(ObstacleStore(console.postgres), console.parts.clock)
        explanation = await inquiry.explanation(task, attempts[-1] if attempts else None)
        # Up to what depends on the second in which it is asked.
        sentence = re.split(r"[0-9]+ (?:s|min)\b", explanation.sentence)[0]
        assert sentence in " ".join(Elements(answer.text).text), state
        assert all(cause.detail in answer.text for cause in explanation.because if not re.search("[0-9]", cause.detail))
        assert offered(answer.text) == OFFERED[state], state

    async def test_offers_a_viewer_nothing_and_an_operator_no_purge(self, console: Rig) -> None:
        viewer, operator = await console.login("viewer"), await console.login("operator")
        for state, may in OFFERED.items():
            id_ = await one(console.postgres, state)
            assert offered((await viewer.get(f"/tasks/{id_}")).text) == set(), state
            assert offered((await operator.get(f"/tasks/{id_}")).text) == may - {"purge"}, state

    async def test_follows_the_task_until_it_has_ended(self, console: Rig) -> None:
        visit = await console.login("viewer")
        for state in OFFERED:
            answer = await visit.get(f"/tasks/{await one(console.postgres, state)}")
            is_live = 'hx-trigger="changed from:body' in answer.text
            assert is_live == (state in {"scheduled", "due", "retrying", "parked"}), state

    async def test_tells_the_whole_story(self, console: Rig) -> None:
        call = Call(
            url=URL, headers=SECRETS, body=b'{"order":42}', schedule_s=(5, 180), expect_status=("2xx", "404"),
            expect_body_contains="ok", timeout_s=7.5, callback_failure="https://example.com/failed",
        )  # fmt: skip
        task = accepted(call, due=-30.0, labels={"order": "42 a"}, schedule="nightly", expires_at=at(7200))
        id_ = task.task.id
        answered: dict[str, Any] = {
            "response_headers": (("content-type", "application/json"), ("set-cookie", "s=hunter4")),
            "response_body": b'{"error":"out of stock"}',
        }
        await told(console.postgres, [
            task,
            called(task, 1, status_code=None, error="dns", error_detail="no such name", timing=Timing(dns_ms=250)),
            called(task, 2, next_attempt_at=at(160), **answered), called(task, 3, "failed", **answered),
        ])  # fmt: skip
        page = (await (await console.login("viewer")).get(f"/tasks/{id_}")).text
        assert "hunter" not in page
        order = [page.index(f'id="attempt-1-{number}"') for number in (3, 2, 1)]
        assert order == sorted(order)
        for text in (
            "attempt 3 of 3", "the receiver failed", "the name of the host could not be resolved", "no such name",
            "dispatcher-1", "out of stock", "content-type", "status 2xx or 404", "a body that contains", "7.5 s",
            "after 5 s, 180 s", "nightly", "/console/schedules/nightly", "/console/targets/api.example.com",
            "resolving the name", "TLS handshake", "until the first byte of the answer", "https://example.com/failed",
            'q=label.order%3A%2242+a%22"', f"/console/tasks/{callback_id('default', id_, 1, 'failed')}",
            '  &#34;order&#34;: 42', "Waits", format_utc(at(7200)),
        ):  # fmt: skip
            assert text in page, text
        assert len(re.findall('<svg class="phases"', page)) == 3
        assert "style=" not in page

    async def test_of_many_answers_the_latest_are_there_and_others_can_be_asked_for(self, console: Rig) -> None:
        task = accepted(due=-20.0)
        id_ = task.task.id
        calls = [called(task, number, response_body=b"body %d." % number) for number in range(1, ANSWERS_MAX + 3)]
        await told(console.postgres, [task, *calls])
        visit = await console.login("viewer")
        page = (await visit.get(f"/tasks/{id_}")).text
        assert "body 3." in page
        assert "body 2." not in page
        assert f"/console/tasks/{id_}?attempt=1.2#attempt-1-2" in page
        named = (await visit.get(f"/tasks/{id_}?attempt=1.2")).text
        assert "body 2." in named
        assert "body 1." not in named
        assert re.search(r'<details id="answer-of-attempt-1-2" open>', named)
        for nonsense in ("1", "1.99999999", "-1.2", "1.2.3", "%D9%A1.%D9%A2", "1.2%00"):
            assert "body 2." not in (await visit.get(f"/tasks/{id_}?attempt={nonsense}")).text

    async def test_of_more_calls_than_it_shows_it_shows_the_latest_and_says_so(
        self, console: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_attempts, "CALLS_MAX", 3)
        visit, task = await console.login("viewer"), accepted(due=-20.0)
        await told(console.postgres, [task, *(called(task, number) for number in (1, 2, 3))])
        assert "are shown;" not in (await visit.get(f"/tasks/{task.task.id}")).text
        await told(console.postgres, [called(task, 4)])
        page = (await visit.get(f"/tasks/{task.task.id}")).text
        assert "Only the latest 3 are shown;" in page
        assert re.findall(r'<li id="attempt-1-(\d)"', page) == ["4", "3", "2"]

    async def test_a_call_that_was_made_twice_around_midnight_is_one(self, console: Rig) -> None:
        task = accepted(due=-86_400.0, created_at=at(-86_400))
        await told(console.postgres, [task, called(task, started_at=at(-86_400))])
        await told(console.postgres, [called(task, started_at=at(-5))])
        page = (await (await console.login("viewer")).get(f"/tasks/{task.task.id}")).text
        assert page.count('<li id="attempt-1-1"') == 1

    async def test_earlier_generations_are_folded_away_but_there(self, console: Rig) -> None:
        task = accepted(due=-600.0)
        again = accepted(id=task.task.id, generation=2, due=-20.0)
        first = [called(task, 1, response_body=b"of old"), called(task, 2, "failed", response_body=b"of old too")]
        await told(console.postgres, [task, *first, again, called(again, 1, response_body=b"of now")])
        page = (await (await console.login("viewer")).get(f"/tasks/{task.task.id}")).text
        assert page.index("of now") < page.index('<details id="generation-1">') < page.index("of old too")
        assert "in generation 2" in page
        assert "2 attempts, the last: HTTP 503, the receiver failed" in page

    async def test_a_purged_task_says_so(self, console: Rig) -> None:
        id_ = await one(console.postgres, "failed", Call(url=URL, body=b"hunter2"))
        await PurgeStore(console.postgres).purge("default", [id_])
        answer = await (await console.login("admin")).get(f"/tasks/{id_}")
        assert answer.status == 200
        assert "Purged: what the task sent" in answer.text
        assert "api.example.com" not in answer.text
        assert offered(answer.text) == set()

    async def test_waits_for_a_task_that_the_history_does_not_have_yet(
        self, console: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lookup, "MISS_PAUSES_S", (0.05,) * 400)
        visit, task = await console.login("viewer"), accepted()
        showing = asyncio.create_task(visit.get(f"/tasks/{task.task.id}"))
        await asyncio.wait([showing], timeout=0.2)
        assert not showing.done()
        await told(console.postgres, [task])
        assert (await showing).status == 200

    async def test_what_is_no_task_is_a_page_that_says_so(self, console: Rig) -> None:
        visit = await console.login("admin")
        for id_ in ("x", "0", str(uuid4()), f"{uuid4()}x", "%00", "..%2f..", "<b>", "new%00"):
            await self.find_none(console, visit, id_)

    async def find_none(self, console: Rig, visit: Visit, id_: str) -> None:
        for path in (f"/tasks/{id_}", f"/tasks/{id_}/reschedule", f"/tasks/{id_}/purge", f"/tasks/new?from={id_}"):
            answer = await visit.get(path)
            assert answer.status == 404, path
            assert "<h1>Not found</h1>" in answer.text
        console.services.says = [scheduler("unknown")] * 4
        for action in ("run", "cancel", "redrive", "reschedule", "purge"):
            assert (await visit.post(f"/tasks/{id_}/{action}", {"when": "in 5 m"})).status == 404

    @pytest.mark.parametrize("state", ["scheduled", "failed"])
    async def test_a_task_of_another_project_is_none(self, console: Rig, state: str) -> None:
        id_ = await one(console.postgres, state, project="other")
        visit = await console.login("admin")
        for path in ("", "/reschedule", "/purge"):
            assert (await visit.get(f"/tasks/{id_}{path}")).status == 404
        assert (await visit.get(f"/tasks/new?from={id_}")).status == 404
        console.services.says = [scheduler("unknown")] * 4
        for action in ("run", "cancel", "redrive", "reschedule", "purge"):
            assert (await visit.post(f"/tasks/{id_}/{action}", {"when": "in 5 m"})).status == 404
        assert all(command.project == "default" for command in console.services.commands)
        assert console.broker.published == []
        task = await Store(console.postgres).task("other", id_)
        assert task is not None
        assert (task.state, task.has_payload) == (state, True)

    async def test_without_postgres_it_is_a_page_that_says_so(
        self, console: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        id_, visit = await one(console.postgres), await console.login("admin")

        async def away(*_args: object) -> None:
            raise PostgresAway

        monkeypatch.setattr(Store, "task", away)
        for path in (f"/tasks/{id_}", f"/tasks/{id_}/reschedule", f"/tasks/{id_}/purge", f"/tasks/new?from={id_}"):
            answer = await visit.get(path)
            assert answer.status == 503
            assert "The task history cannot be read now." in answer.text
        monkeypatch.undo()
        monkeypatch.setattr(AttemptStore, "timeline", away)
        assert (await visit.get(f"/tasks/{id_}")).status == 503


class TestHostileContent:
    async def test_never_breaks_out(self, console: Rig) -> None:
        hostile = HOSTILE.encode()
        call = Call(
            url=f"https://api.example.com/{HOSTILE[:40]}", headers=(("X-Evil", HOSTILE),), body=hostile,
            expect_body_contains=HOSTILE, callback_failure=f"https://x/{HOSTILE}",
        )  # fmt: skip
        task = accepted(call, due=-20.0, labels={"evil": HOSTILE.replace("\0", "")}, schedule='"><script>x')
        met = called(
            task, 1, response_headers=((HOSTILE, HOSTILE),), response_body=hostile, replica=HOSTILE, error=HOSTILE,
            error_detail=HOSTILE,
        )  # fmt: skip
        await told(console.postgres, [task, met])
        answer = await (await console.login("admin")).get(f"/tasks/{task.task.id}")
        self.assert_tame(answer)

    async def test_nor_does_the_form_of_a_clone(self, console: Rig) -> None:
        call = Call(
            url=f"https://x/{HOSTILE[:40]}", headers=(("X-Evil", HOSTILE.replace("\0", "")),), body=HOSTILE.encode()
        )
        id_ = await one(console.postgres, "failed", call, labels={"evil": "</textarea><script>x"})
        answer = await (await console.login("admin")).get(f"/tasks/new?from={id_}")
        assert answer.status == 200
        tags = Elements(answer.text).tags
        assert not [tag for tag, attributes in tags if tag == "script" and "src" not in attributes]

    async def test_nor_what_was_typed_wrong(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres)
        self.assert_tame(
            await visit.post(f"/tasks/{id_}/reschedule", {"when": HOSTILE, "timezone": '"><script>x'}), 422
        )
        typed = dict.fromkeys(("url", "headers", "body", "labels", "when", "expires_at", "content_type"), HOSTILE)
        answer = await visit.post("/tasks/new", typed | {"key": '"><script>'})
        assert answer.status == 422
        assert "<script>alert" not in answer.text
        assert not [tag for tag, attributes in Elements(answer.text).tags if tag == "b"]

    async def test_eight_kib_of_anything_is_shown_in_hex(self, console: Rig) -> None:
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        body = random.Random(seed).randbytes(8192)
        task = accepted(Call(url=URL, body=body), due=-20.0)
        await told(console.postgres, [task, called(task, response_body=body)])
        answer = await (await console.login("viewer")).get(f"/tasks/{task.task.id}")
        self.assert_tame(answer)
        assert f"000000  {body[:16].hex(' ')}" in answer.text
        assert len(answer.text) < 60_000

    def assert_tame(self, answer: Answer, status: int = 200) -> None:
        assert answer.status == status
        elements = Elements(answer.text)
        assert not [tag for tag, attributes in elements.tags if tag == "script" and "src" not in attributes]
        assert not [
            tag for tag, attributes in elements.tags if tag == "b" or any(name.startswith("on") for name in attributes)
        ]
        assert not set("\0\x1b\u202e\u2066") & set("".join(elements.text))


class TestRunNow:
    async def test_it_is_called_now(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres)
        console.services.says = [scheduler("rescheduled", generation=2, due_at=at(0))]
        assert await done(visit, id_, "run") == ("done", "Due now: it is called in a moment.")
        [command] = console.services.commands
        assert isinstance(command, RescheduleTask)
        assert (command.id, command.project, command.due_at) == (id_, "default", None)
        [row] = await console.audit()
        assert (row["action"], row["object"], row["outcome"]) == ("task.run", str(id_), "done")

    async def test_a_second_click_changes_nothing(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "due")
        console.services.says = [scheduler("left")]
        kind, text = await done(visit, id_, "run")
        assert (kind, text) == ("failed", "The task is due: only one that waits for its first call can be moved.")
        assert [row["outcome"] for row in await console.audit()] == ["not_scheduled"]

    async def test_silence_is_told_as_what_it_is(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres)
        console.services.says = [nothing]
        kind, text = await done(visit, id_, "run")
        assert kind == "failed"
        assert "its result is not known yet" in text

    async def test_so_is_a_broker_that_is_away(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres)
        console.services.says = [PublishUnknown("gone")]
        kind, text = await done(visit, id_, "run")
        assert kind == "failed"
        assert "The message broker did not confirm in time." in text


class TestCancel:
    async def test_no_call_of_it_follows(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres)
        console.services.says = [scheduler("cancelled", generation=1)]
        assert await done(visit, id_, "cancel") == ("done", "Cancelled: no call of it follows.")
        [command] = console.services.commands
        assert isinstance(command, CancelTask)
        assert (await console.audit())[0]["action"] == "task.cancel"

    async def test_a_call_under_way_is_told(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "due")
        console.services.says = [scheduler("left"), dispatcher("in-flight")]
        kind, text = await done(visit, id_, "cancel")
        assert (kind, text.partition(":")[0]) == ("done", "In flight")
        assert msgspec.json.decode((await console.audit())[0]["detail"])["is_certain"] is False

    async def test_it_may_be_too_late(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "succeeded")
        kind, text = await done(visit, id_, "cancel")
        assert (kind, text) == ("failed", "The task is succeeded: there is nothing to cancel.")

    async def test_a_second_click_says_the_same(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "cancelled")
        assert await done(visit, id_, "cancel") == ("done", "Cancelled: no call of it follows.")
        assert console.services.commands == []


class TestRedrive:
    @pytest.mark.parametrize("state", ["failed", "expired", "parked"])
    async def test_it_starts_again(self, console: Rig, state: str) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, state)
        assert await done(visit, id_, "redrive") == ("done", "Redriven: it starts again now, with a fresh ladder.")
        [task] = created(console)
        assert (task.id, task.generation, task.attempt) == (id_, 2, 1)

    async def test_a_double_click_is_one_new_generation(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "failed")
        answers = await asyncio.gather(*(visit.post(f"/tasks/{id_}/redrive") for _ in range(3)))
        assert [answer.status for answer in answers] == [303] * 3
        assert {task.generation for task in created(console)} == {2}

    async def test_what_has_not_failed_is_left_alone(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "succeeded")
        kind, text = await done(visit, id_, "redrive")
        assert (kind, text) == ("failed", "The task is succeeded; only failed, expired and parked ones start again.")
        assert console.broker.published == []

    async def test_what_was_purged_cannot(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "failed")
        await PurgeStore(console.postgres).purge("default", [id_])
        kind, text = await done(visit, id_, "redrive")
        assert (kind, text) == ("failed", "What the task sends has been purged. Create a new task.")


class TestReschedule:
    async def test_it_is_called_at_another_time(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres)
        form = await visit.get(f"/tasks/{id_}/reschedule")
        assert '<input id="when"' in form.text
        console.services.says = [scheduler("rescheduled", generation=2, due_at=at(7200))]
        kind, text = await done(visit, id_, "reschedule", {"when": "2027-03-01 09:00", "timezone": "Europe/Paris"})
        assert (kind, text) == ("done", f"Rescheduled: it is called at {format_utc(at(7200))}.")
        [command] = console.services.commands
        assert format_utc(command.due_at) == "2027-03-01T08:00:00.000Z"

    async def test_a_delay_counts_from_now(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres)
        console.services.says = [scheduler("rescheduled", generation=2, due_at=at(600))]
        before = console.parts.clock.now()
        await done(visit, id_, "reschedule", {"when": "in 10 m"})
        [command] = console.services.commands
        assert before + TEN_MINUTES <= command.due_at <= console.parts.clock.now() + TEN_MINUTES + MS

    async def test_a_time_that_is_none_comes_back_with_the_form(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres)
        for when, timezone, fault in (
            ("soon", "", "is no RFC 3339 time"),
            ("2027-03-01 09:00", "", "has no offset from UTC"),
            ("2027-03-01 09:00", "Mars/Olympus", "is no IANA time zone"),
            ("", "", "says no time"),
            ("in 99999 d", "", "is more than 10 years"),
        ):
            answer = await visit.post(f"/tasks/{id_}/reschedule", {"when": when, "timezone": timezone})
            assert answer.status == 422
            [told_] = re.findall(r'<span id="\w+-fault" class="fault">([^<]*)</span>', answer.text)
            assert fault in told_
            assert f'value="{when}"' in answer.text
            assert f'value="{timezone}"' in answer.text
        assert console.services.commands == []

    async def test_a_time_after_it_expires_is_refused(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, expires_at=at(3600))
        answer = await visit.post(f"/tasks/{id_}/reschedule", {"when": "in 2 h"})
        assert (answer.status, "is not before the task expires" in answer.text) == (422, True)

    async def test_too_late_is_told_on_the_page_of_the_task(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "failed")
        assert (await visit.get(f"/tasks/{id_}/reschedule")).status == 409
        console.services.says = [scheduler("left")]
        kind, text = await done(visit, id_, "reschedule", {"when": "in 2 h"})
        assert (kind, text) == ("failed", "The task is failed: only one that waits for its first call can be moved.")


class TestPurge:
    async def test_it_is_asked_first_and_then_erased(self, console: Rig) -> None:
        visit, id_ = await console.login("admin"), await one(console.postgres, "failed")
        page = await visit.get(f"/tasks/{id_}/purge")
        assert f'action="/console/tasks/{id_}/purge"' in page.text
        kind, text = await done(visit, id_, "purge")
        assert (kind, text) == ("done", "Purged: what it sent and what was answered is erased.")
        task = await Store(console.postgres).task("default", id_)
        assert task is not None
        assert not task.has_payload
        assert (await console.audit())[0]["action"] == "task.purge"
        assert "It has been purged." in (await visit.get(f"/tasks/{id_}/purge")).text

    async def test_what_has_not_ended_is_left_alone(self, console: Rig) -> None:
        visit, id_ = await console.login("admin"), await one(console.postgres, "retrying")
        assert '<form method="post" action="/console/tasks/' not in (await visit.get(f"/tasks/{id_}/purge")).text
        kind, text = await done(visit, id_, "purge")
        assert (kind, text) == ("failed", "The task has not ended: only tasks that have ended are purged.")

    async def test_an_operator_may_not(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "failed")
        assert (await visit.get(f"/tasks/{id_}/purge")).status == 403
        assert (await visit.post(f"/tasks/{id_}/purge")).status == 403
        task = await Store(console.postgres).task("default", id_)
        assert task is not None
        assert task.has_payload


@pytest.mark.parametrize("action", ["run", "cancel", "redrive", "reschedule"])
async def test_a_viewer_may_do_nothing(console: Rig, action: str) -> None:
    visit, id_ = await console.login("viewer"), await one(console.postgres, "failed")
    assert (await visit.post(f"/tasks/{id_}/{action}", {"when": "in 5 m"})).status == 403
    assert console.services.commands == []
    assert console.broker.published == []


NEW = {
    "url": "https://api.example.com/hook", "method": "PUT", "headers": "X-Order: 42\r\nX-Empty:", "body_kind": "json",
    "body": '{"a":\r\n 1}', "content_type": "", "timeout_s": "7.5", "schedule_s": "5, 15", "expect_status": "2xx, 404",
    "body_contains": "ok", "labels": "order=42", "callback_failure": "https://example.com/failed", "when": "in 10 m",
    "key": "0" * 32,
}  # fmt: skip


class TestANewTask:
    async def test_is_what_was_typed(self, console: Rig) -> None:
        visit = await console.login("operator")
        page = await visit.get("/tasks/new")
        assert page.status == 200
        before = console.parts.clock.now()
        answer = await visit.post("/tasks/new", NEW)
        task, call = console.broker.created.task, decode_call(console.broker.created.task.call)
        assert (answer.status, answer.location) == (303, f"/console/tasks/{task.id}")
        assert before + TEN_MINUTES <= task.due_at <= console.parts.clock.now() + TEN_MINUTES + MS
        assert (task.project, task.labels) == ("default", {"order": "42"})
        assert call == Call(
            url="https://api.example.com/hook", method="PUT", body=b'{"a":\n 1}', timeout_s=7.5, schedule_s=(5.0, 15.0),
            headers=(("X-Order", "42"), ("X-Empty", ""), ("Content-Type", "application/json")),
            respect_retry_after=False, expect_status=("2xx", "404"), expect_body_contains="ok", callback_failure="https://example.com/failed",
        )  # fmt: skip
        [row] = await console.audit()
        assert (row["action"], row["object"], row["outcome"]) == ("task.create", str(task.id), "done")

    async def test_is_one_however_often_the_form_is_sent(self, console: Rig) -> None:
        visit = await console.login("operator")
        answers = await asyncio.gather(*(visit.post("/tasks/new", NEW) for _ in range(4)))
        again = await visit.post("/tasks/new", NEW)
        assert {answer.status for answer in [*answers, again]} == {303}
        assert len({answer.location for answer in [*answers, again]}) == 1
        assert len({task.id for task in created(console)}) == 1
        assert len(console.broker.published) == 1

    async def test_is_another_one_from_another_form(self, console: Rig) -> None:
        visit = await console.login("operator")
        await visit.post("/tasks/new", NEW)
        await visit.post("/tasks/new", NEW | {"key": "1" * 32})
        keys = {re.findall(r'name="key" value="([0-9a-f]{32})"', (await visit.get("/tasks/new")).text)[0] for _ in "12"}
        assert len({task.id for task in created(console)}) == 2
        assert len(keys) == 2

    async def test_is_not_lost_when_the_form_is_changed_and_sent_again(self, console: Rig) -> None:
        visit = await console.login("operator")
        await visit.post("/tasks/new", NEW)
        answer = await visit.post("/tasks/new", NEW | {"method": "POST"})
        assert (answer.status, "Send it again to make another." in answer.text) == (422, True)
        [key] = re.findall(r'name="key" value="([0-9a-f]{32})"', answer.text)
        await visit.post("/tasks/new", NEW | {"method": "POST", "key": key})
        assert len({task.id for task in created(console)}) == 2

    async def test_comes_back_with_every_fault_beside_its_field(self, console: Rig) -> None:
        visit = await console.login("operator")
        wrong = NEW | {
            "url": "ftp://x", "headers": "Host: x\nno colon", "body": "{nope", "timeout_s": "soon",
            "schedule_s": "5, -1", "expect_status": "9xx", "labels": "bad name=1",
            "callback_failure": "nowhere", "when": "2027-03-01 09:00", "expires_at": "never",
        }  # fmt: skip
        answer = await visit.post("/tasks/new", wrong)
        assert answer.status == 422
        # A type that is wrong hides what else is wrong with values: what the API says first comes first.
        assert "timeout_s" in fault(answer, "timeout_s")
        assert "no colon in line 2" in fault(answer, "headers")
        assert "no JSON" in fault(answer, "body")
        answer = await visit.post("/tasks/new", wrong | {"timeout_s": "99", "body": "{}"})
        for field, text in {
            "url": "begins with another scheme", "headers": "is set by Carillon", "timeout_s": "is out of range",
            "schedule_s": "is out of range", "expect_status": "is no status", "labels": "is no label name",
            "callback_failure": "scheme", "when": "has no offset", "expires_at": "is no RFC 3339 time",
        }.items():  # fmt: skip
            assert text in fault(answer, field), (field, fault(answer, field))
        for kept in ("ftp://x", "no colon", "9xx", "bad name=1", "nowhere", "2027-03-01 09:00", "never"):
            assert kept in answer.text
        assert f'name="key" value="{NEW["key"]}"' in answer.text
        assert console.broker.published == []

    async def test_is_refused_by_the_rules_of_the_api(self, console: Rig) -> None:
        visit = await console.login("operator")
        wrong: list[tuple[dict[str, str], str, str]] = [
            ({"timezone": "Mars/Olympus", "when": "2027-03-01 09:00"}, "timezone", "is no IANA time zone"),
            ({"when": "in a while"}, "when", "is no delay"),
            ({"when": "1" * 400}, "when", "is no RFC 3339 time"),
            ({"when": "in 2 h", "expires_at": "2026-01-01T00:00:00Z"}, "expires_at", "is not after the task is due"),
            ({"headers": "X-A: 1\nX-A: 2"}, "headers", "twice"),
            ({"headers": "X-A: 1\nx-a: 2"}, "headers", "stands twice"),
            ({"labels": "a=1\na=2"}, "labels", "twice"),
            ({"body_kind": "base64", "body": "%%%"}, "body", "is no base64"),
            ({"body_kind": "text", "body": "\x01" * 60_000}, "body", "262144 bytes"),
            ({"url": ""}, "url", "missing"),
            ({"method": "BREW"}, "method", "BREW"),
        ]
        for changed, field, text in wrong:
            answer = await visit.post("/tasks/new", NEW | changed)
            assert (answer.status, console.broker.published) == (422, [])
            assert text in fault(answer, field), (field, fault(answer, field))

    async def test_that_is_larger_than_a_request_may_be_is_refused_as_such(self, console: Rig) -> None:
        answer = await (await console.login("operator")).post("/tasks/new", NEW | {"body": "x" * 300_000})
        assert (answer.status, "The body is too large" in answer.text) == (413, True)

    async def test_is_made_by_sending_the_form_again_when_the_broker_was_away(self, console: Rig) -> None:
        visit = await console.login("operator")
        loop = asyncio.get_running_loop()
        console.broker.confirm = loop.create_future()
        console.broker.confirm.set_exception(PublishUnknown("gone"))
        answer = await visit.post("/tasks/new", NEW)
        assert answer.status == 503
        assert "The message broker did not confirm in time." in answer.text
        assert f'name="key" value="{NEW["key"]}"' in answer.text
        assert NEW["url"] in answer.text
        console.broker.confirm = None
        assert (await visit.post("/tasks/new", NEW)).status == 303
        assert len({task.id for task in created(console)}) == 1

    async def test_is_not_for_a_viewer(self, console: Rig) -> None:
        visit = await console.login("viewer")
        assert (await visit.get("/tasks/new")).status == 403
        assert (await visit.post("/tasks/new", NEW)).status == 403
        assert console.broker.published == []


class TestAClone:
    async def test_has_all_but_the_secrets(self, console: Rig) -> None:
        call = Call(
            url=URL, method="PUT", headers=(*SECRETS, ("Content-Type", "application/json")), body=b'{"order":42}',
            schedule_s=(5.0, 15.0), expect_status=("204",), timeout_s=7.5, callback_success="https://example.com/ok",
        )  # fmt: skip
        id_ = await one(console.postgres, "failed", call, labels={"order": "42"})
        visit = await console.login("operator")
        page = await visit.get(f"/tasks/new?from={id_}")
        assert "hunter" not in page.text
        assert "type Authorization, X-Api-Key again" in page.text
        fields = fields_of(page)
        refused = await visit.post(f"/tasks/new?from={id_}", fields)
        assert refused.status == 422
        assert "type its value again" in fault(refused, "headers")
        assert console.broker.published == []
        fields["headers"] = re.sub(r"(Authorization|X-Api-Key): .*", r"\1: typed", fields["headers"])
        answer = await visit.post(f"/tasks/new?from={id_}", fields)
        assert answer.status == 303, answer.text
        made = console.broker.created.task
        assert made.id != id_
        typed = tuple((name, value if name == "X-Order" else "typed") for name, value in SECRETS)
        assert decode_call(made.call) == msgspec.structs.replace(
            call, headers=(*typed, ("Content-Type", "application/json"))
        )
        assert made.labels == {"order": "42"}

    async def test_sends_the_same_bytes(self, console: Rig) -> None:
        visit = await console.login("operator")
        bodies = [
            b"",
            b"\0\xff\1binary",
            b"text\r\nin lines\r\n",
            b"\nfirst line empty",
            b" x ",
            b'{"a": [1,\n 2]}',
            b"a\0b",
        ]
        for body in bodies:
            id_ = await one(console.postgres, "succeeded", Call(url=URL, body=body))
            answer = await visit.post("/tasks/new", fields_of(await visit.get(f"/tasks/new?from={id_}")))
            assert answer.status == 303, answer.text
            assert decode_call(created(console)[-1].call).body == body

    async def test_of_a_purged_task_cannot_be(self, console: Rig) -> None:
        visit, id_ = await console.login("operator"), await one(console.postgres, "failed")
        await PurgeStore(console.postgres).purge("default", [id_])
        answer = await visit.get(f"/tasks/new?from={id_}")
        assert (answer.status, "has been purged" in answer.text) == (409, True)


class Fields(HTMLParser):
    """What a browser would send of a form that nobody has touched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._area: str | None = None
        self._select = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "textarea":
            self._area = given["name"]
            self.fields[self._area] = ""
        elif tag == "select":
            self._select = given.get("name", "")
        elif tag == "option" and "selected" in given:
            self.fields[self._select] = given.get("value", "")
        elif tag == "input" and given.get("type") == "checkbox":
            self.fields |= {given["name"]: "on"} if "checked" in given else {}
        elif tag == "input" and "name" in given:
            self.fields[given["name"]] = given.get("value", "")

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            self.fields[self._area] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._area is not None:
            text = self.fields[self._area].removeprefix("\n")
            self.fields[self._area] = text.replace("\r\n", "\n").replace("\n", "\r\n")
            self._area = None


def fields_of(answer: Answer) -> dict[str, str]:
    [form] = re.findall(r'(?s)<form method="post" enctype="multipart/form-data".*?</form>', answer.text)
    return {name: text for name, text in Fields(form).fields.items() if name not in {"csrf", "of_project"}}


def fault(answer: Answer, field: str) -> str:
    """What stands beside the field."""
    found = re.findall(rf'id="{field}-fault"[^>]*>([^<]*)<', answer.text)
    return found[0] if found else ""


async def test_the_line_to_copy_is_what_it_says(console: Rig) -> None:
    """What cannot be shown as it is goes in base64, so that nobody runs what they do not see."""
    body = "a\u202eb'; rm -rf /".encode()
    id_ = await one(console.postgres, "failed", Call(url=URL, headers=SECRETS, body=body))
    page = (await (await console.login("viewer")).get(f"/tasks/{id_}")).text
    [line] = re.findall(r'(?s)<pre id="curl"[^>]*>(.*?)</pre>', page)
    assert base64.b64encode(body).decode() in line
    assert "&lt;your Authorization&gt;" in line
    assert f"/v1/tasks/{id_}/redrive" in page
