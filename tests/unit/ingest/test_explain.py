"""Every place a task can be in, as it is told to who asks."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from libs.common.contracts import Call, encode
from services.ingest.explain import GRACE, explain, span
from services.ingest.explanation import Explanation, Facts, OpenBreaker, Rule
from services.ingest.stored import LastAttempt, StoredAttempt, StoredTask

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOON = "2026-11-21T12:00:00.000Z"
PAUSED = Rule(is_paused=True, per_s=None, changed_at=NOW - timedelta(days=1))
LIMITED = Rule(is_paused=False, per_s=2.5, changed_at=NOW)
OPEN = OpenBreaker("dispatcher-1", NOW + timedelta(seconds=20))


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def ahead(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def facts(
    state: str, at: datetime | None = None, *, call: Call | None = None, task: dict[str, Any] | None = None, **more: Any
) -> Facts:
    call = call or Call(url="http://example.com/")
    at = at or NOW
    values: dict[str, Any] = {"due_at": at, "expires_at": None, "reason": "", "call": msgspec.Raw(encode(call))}
    stored = StoredTask(
        id=UUID(int=7), project="p", created_at=ago(9000), fingerprint="f", labels={}, state=state, state_at=at,  # type: ignore[arg-type]
        **(values | (task or {})),
    )  # fmt: skip
    return Facts(stored, call, "example.com", **more)


def attempt(
    number: int, status: int | None = 503, error: str | None = "server_error", detail: str | None = "HTTP 503",
    next_at: datetime | None = None, ended_at: datetime = NOW,
) -> dict[str, Any]:  # fmt: skip
    """The last call, as the task's row and as its own."""
    stored = StoredAttempt(
        1, number, ago(60), ended_at - timedelta(milliseconds=250), 250, status, error, detail, next_at, b"[]", b""
    )
    return {"task": {"last_attempt": LastAttempt(number, status, error, 250)}, "last": stored}


def retrying(
    wait_s: float, left_s: float, number: int = 2, steps: tuple[float, ...] | None = (5, 180), **more: Any
) -> Facts:
    """After the attempt `number`, `left_s` before the next."""
    next_at = ahead(left_s)
    made = attempt(number, next_at=next_at, ended_at=next_at - timedelta(seconds=wait_s))
    made["task"] |= more.pop("task", {})
    return facts("retrying", next_at, call=Call(url="http://example.com/", schedule_s=steps), **made, **more)


def ended(state: str, number: int, status: int | None, error: str | None, detail: str | None, **task: Any) -> Facts:
    made = attempt(number, status, error, detail)
    made["task"] |= {"reason": error or "", **task}
    return facts(state, NOW, **made)


def codes(told: Explanation) -> tuple[list[str], list[str]]:
    return [cause.code for cause in told.because], [move.code for move in told.what_would_move_it]


CASES: dict[str, tuple[Facts, str, str | None, list[str], list[str], str]] = {
    "waits for its time": (
        facts("scheduled", ahead(7500)),
        "waiting_for_time", "2026-11-21T14:05:00.000Z", [], ["wait", "run"],
        "Waits for its time: due in 2 h 5 min, at 2026-11-21T14:05:00.000Z.",
    ),
    "waits for its time, which will find its target paused": (
        facts("scheduled", ahead(60), rule=PAUSED),
        "waiting_for_time", "2026-11-21T12:01:00.000Z", ["target_paused"], ["wait", "run", "resume_target"],
        "Waits for its time: due in 1 min, at 2026-11-21T12:01:00.000Z; calls to example.com are paused by a rule of"
        " 2026-11-20T12:00:00.000Z, until somebody resumes them.",
    ),
    "waits for its time, long after a breaker that is open": (
        facts("scheduled", ahead(60), rule=LIMITED, breakers=[OPEN]),
        "waiting_for_time", "2026-11-21T12:01:00.000Z", [], ["wait", "run"],
        "Waits for its time: due in 1 min, at 2026-11-21T12:01:00.000Z.",
    ),
    "is being called, or about to be": (
        facts("scheduled", ago(2)),
        "being_called", None, ["not_visible"], ["wait"],
        "Due since 2 s: it is on its way, or being called at this moment.",
    ),
    "is rate limited, but not late yet": (
        facts("scheduled", ago(2), rule=LIMITED),
        "being_called", None, ["not_visible"], ["wait"],
        "Due since 2 s: it is on its way, or being called at this moment.",
    ),
    "is due, and its target paused": (
        facts("scheduled", ago(2), rule=PAUSED),
        "put_off", None, ["target_paused"], ["resume_target"],
        "Due since 2 s; calls to example.com are paused by a rule of 2026-11-20T12:00:00.000Z, until somebody resumes"
        " them.",
    ),
    "is due, and a breaker open": (
        facts("scheduled", ago(200), breakers=[OPEN]),
        "put_off", "2026-11-21T12:00:20.000Z", ["breaker_open"], ["wait"],
        "Due since 3 min 20 s; the circuit breaker of dispatcher-1 for example.com is open until"
        " 2026-11-21T12:00:20.000Z, or longer.",
    ),
    "is due, and of two breakers one is open": (
        facts("scheduled", ago(200), breakers=[OpenBreaker("dispatcher-2", ago(6)), OPEN]),
        "put_off", "2026-11-21T12:00:20.000Z", ["breaker_open"], ["wait"],
        "Due since 3 min 20 s; the circuit breaker of dispatcher-1 for example.com is open until"
        " 2026-11-21T12:00:20.000Z, or longer.",
    ),
    "is due, its target paused and limited, its breaker open": (
        facts("scheduled", ago(200), rule=PAUSED._replace(per_s=9.0), breakers=[OPEN]),
        "put_off", None, ["target_paused", "breaker_open", "rate_limited"], ["resume_target", "wait", "raise_limit"],
        "Due since 3 min 20 s; calls to example.com are paused by a rule of 2026-11-20T12:00:00.000Z, until somebody"
        " resumes them; the circuit breaker of dispatcher-1 for example.com is open until"
        " 2026-11-21T12:00:20.000Z, or longer; calls to example.com are limited to 9 per second, in turn.",
    ),
    "waits for its turn": (
        facts("scheduled", ago(200), rule=LIMITED),
        "put_off", None, ["rate_limited"], ["raise_limit"],
        "Due since 3 min 20 s; calls to example.com are limited to 2.5 per second, in turn.",
    ),
    "is under way, or late": (
        facts("scheduled", ago(12)),
        "overdue", None, ["not_visible"], ["wait"],
        "Due since 12 s, and no call of it has ended yet: a call may be under way, or the services are behind with"
        " their work, which cannot be seen from here.",
    ),
    "is late, longer than a call takes": (
        facts("scheduled", ago(19)),
        "overdue", None, ["not_visible"], ["wait"],
        "Due since 19 s, and no call of it has ended yet: longer than a call of it may take, or the services are behind"
        " with their work, which cannot be seen from here.",
    ),
    "waits on a rung": (
        retrying(180, 90),
        "waiting_for_retry", "2026-11-21T12:01:30.000Z", ["last_answer"], ["wait", "fix_receiver"],
        "Attempt 2 of 3 failed with HTTP 503; it waits 180 s for attempt 3, until 2026-11-21T12:01:30.000Z,"
        " 1 min 30 s from now.",
    ),
    "waits on a rung of the installation's own ladder": (
        retrying(180, 90, steps=None),
        "waiting_for_retry", "2026-11-21T12:01:30.000Z", ["last_answer"], ["wait", "fix_receiver"],
        "Attempt 2 failed with HTTP 503; it waits 180 s for attempt 3, until 2026-11-21T12:01:30.000Z,"
        " 1 min 30 s from now.",
    ),
    "waits as long as its receiver has asked": (
        retrying(600, 90),
        "waiting_for_retry", "2026-11-21T12:01:30.000Z", ["last_answer", "retry_after"], ["wait", "fix_receiver"],
        "Attempt 2 of 3 failed with HTTP 503; it waits 600 s for attempt 3, until 2026-11-21T12:01:30.000Z,"
        " 1 min 30 s from now; its receiver asked for more than its step of 180 s.",
    ),
    "waits for a retry that comes after its expiry": (
        retrying(180, 90, task={"expires_at": ahead(30)}),
        "waiting_for_retry", "2026-11-21T12:01:30.000Z", ["last_answer", "expires_first"], ["wait", "fix_receiver"],
        "Attempt 2 of 3 failed with HTTP 503; it waits 180 s for attempt 3, until 2026-11-21T12:01:30.000Z,"
        " 1 min 30 s from now; it expires before that, at 2026-11-21T12:00:30.000Z, and is then not called again.",
    ),
    "waits for a retry that will find its target paused": (
        retrying(180, 90, rule=PAUSED),
        "waiting_for_retry", "2026-11-21T12:01:30.000Z", ["last_answer", "target_paused"],
        ["wait", "fix_receiver", "resume_target"],
        "Attempt 2 of 3 failed with HTTP 503; it waits 180 s for attempt 3, until 2026-11-21T12:01:30.000Z,"
        " 1 min 30 s from now; calls to example.com are paused by a rule of 2026-11-20T12:00:00.000Z, until somebody"
        " resumes them.",
    ),
    "waits for a retry, its last call no longer kept": (
        retrying(180, 90)._replace(last=None),
        "waiting_for_retry", "2026-11-21T12:01:30.000Z", ["last_answer"], ["wait", "fix_receiver"],
        "Attempt 2 of 3 failed with HTTP 503; it waits until 2026-11-21T12:01:30.000Z, 1 min 30 s from now.",
    ),
    "is being called again": (
        retrying(180, -1),
        "being_called", None, ["not_visible"], ["wait"],
        "Attempt 2 of 3 failed with HTTP 503; the next was due 1 s ago: it is on its way, or being called at this"
        " moment.",
    ),
    "is put off instead of retried": (
        retrying(180, -60, rule=PAUSED),
        "put_off", None, ["target_paused"], ["resume_target"],
        "Attempt 2 of 3 failed with HTTP 503; the next was due 1 min ago; calls to example.com are paused by a rule of"
        " 2026-11-20T12:00:00.000Z, until somebody resumes them.",
    ),
    "is late with a retry": (
        retrying(180, -60),
        "overdue", None, ["not_visible"], ["wait"],
        "Attempt 2 of 3 failed with HTTP 503; the next was due 1 min ago, and that has not ended yet: longer than a"
        " call of it may take, or the services are behind with their work, which cannot be seen from here.",
    ),
    "succeeded": (
        ended("succeeded", 2, 200, None, None),
        "succeeded", None, ["last_answer"], ["none"],
        f"Succeeded at {NOON}: attempt 2 was answered with HTTP 200.",
    ),
    "failed, its ladder used up": (
        ended("failed", 7, None, "timeout", "no answer within 15 s"),
        "failed", None, ["ladder_used_up", "last_answer"], ["fix_receiver", "redrive"],
        f"Failed at {NOON}: attempt 7 failed with timeout (no answer within 15 s), and that was the last attempt of"
        " its ladder.",
    ),
    "failed by what was expected": (
        ended("failed", 7, 200, "expectation", "HTTP 200, but the body lacks the expected text"),
        "failed", None, ["ladder_used_up", "last_answer"], ["fix_receiver", "redrive"],
        f"Failed at {NOON}: attempt 7 failed with HTTP 200, but the body lacks the expected text, and that was the"
        " last attempt of its ladder.",
    ),
    "failed by a 410": (
        ended("failed", 1, 410, "gone", "HTTP 410"),
        "failed", None, ["gone", "last_answer"], ["fix_receiver", "redrive"],
        f"Failed at {NOON}: attempt 1 failed with HTTP 410, and 410 means that there is no use in another attempt.",
    ),
    "failed because its receiver said so": (
        ended("failed", 1, 422, "refused_retry", "HTTP 422 with Carillon-No-Retry: true"),
        "failed", None, ["refused_retry", "last_answer"], ["fix_receiver", "redrive"],
        f"Failed at {NOON}: attempt 1 failed with HTTP 422 with Carillon-No-Retry: true, and the receiver asked for no"
        " other attempt.",
    ),
    "failed because its address is refused": (
        ended("failed", 1, None, "blocked_address", "10.0.0.1 is private"),
        "failed", None, ["blocked_address", "last_answer"], ["fix_receiver", "redrive"],
        f"Failed at {NOON}: attempt 1 failed with blocked_address (10.0.0.1 is private), and its address is one that"
        " may not be called.",
    ),
    "failed, and was purged since": (
        ended("failed", 7, 500, "server_error", "HTTP 500", call=msgspec.Raw(b"")),
        "failed", None, ["ladder_used_up", "last_answer"], ["create_again"],
        f"Failed at {NOON}: attempt 7 failed with HTTP 500, and that was the last attempt of its ladder.",
    ),
    "was cancelled": (
        facts("cancelled"),
        "cancelled", None, ["cancelled"], ["create_again"],
        f"Cancelled at {NOON}: no call of it follows.",
    ),
    "expired": (
        facts("expired", task={"expires_at": ago(5)}),
        "expired", None, ["expires_at_passed"], ["redrive"],
        f"Expired at {NOON}: its expires_at, 2026-11-21T11:59:55.000Z, passed before it was called with success.",
    ),
    "expired, and its new generation has none": (
        facts("expired"),
        "expired", None, ["expires_at_passed"], ["redrive"],
        f"Expired at {NOON}: its expires_at passed before it was called with success.",
    ),
    "is parked": (
        facts("parked", task={"reason": "dispatcher.due: crashed 5 times"}),
        "parked", None, ["unprocessable"], ["redrive_message", "redrive"],
        f"Parked at {NOON}: a message about it could not be processed (dispatcher.due: crashed 5 times), and waits for"
        " a person.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("known", "code", "next_at", "because", "moves", "sentence"), CASES.values(), ids=CASES)
def test_a_task_that(
    known: Facts, code: str, next_at: str | None, because: list[str], moves: list[str], sentence: str
) -> None:
    told = explain(known, NOW)
    assert told.sentence == sentence
    assert (told.code, told.next_at) == (code, next_at)
    assert codes(told) == (because, moves)


@pytest.mark.parametrize("seconds", [GRACE.total_seconds(), GRACE.total_seconds() + 0.001])
def test_a_task_is_late_from_one_moment_on(seconds: float) -> None:
    told = explain(facts("scheduled", ago(seconds)), NOW)
    assert told.code == ("overdue" if seconds > GRACE.total_seconds() else "being_called")


def test_the_status_is_the_tasks() -> None:
    assert explain(facts("scheduled", ago(1)), NOW).status == "due"
    assert explain(facts("parked"), NOW).status == "parked"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (3601, "1 h"),
     (7384, "2 h 3 min"), (86_400, "1 d"), (90_000, "1 d 1 h"), (90_060, "1 d 1 h"), (86_460, "1 d")],
)  # fmt: skip
def test_a_span_has_two_units_at_most(seconds: float, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text
