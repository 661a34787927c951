"""The calls of a task as its page tells them."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, get_args

import msgspec

from libs.common.contracts import Timing
from services.dispatcher.outcome import ErrorClass
from services.dispatcher.retry import RESPONSE_BODY_KEPT
from services.ingest.console.timeline import BAR, BAR_PART_MIN, BODY_KEPT, PLAIN, latest, phases, timeline
from services.ingest.store_attempts import KeptCall
from services.ingest.stored import StoredAttempt

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)


def call(number: int = 1, generation: int = 1, *, is_read: bool = True, **more: Any) -> KeptCall:
    values: dict[str, Any] = {
        "due_at": NOW, "started_at": NOW + timedelta(milliseconds=40), "duration_ms": 250, "status_code": 503,
        "error": "server_error", "error_detail": "HTTP 503", "next_attempt_at": NOW + timedelta(milliseconds=5290),
        "response_headers": b"[]", "response_body": b"", "timing": None,
    }  # fmt: skip
    return KeptCall(StoredAttempt(generation=generation, number=number, **values | more), "dispatcher-1", is_read)


def timed(**more: Any) -> bytes:
    return msgspec.json.encode(Timing(**more))


def test_every_class_of_error_has_plain_words() -> None:
    assert set(PLAIN) == set(get_args(ErrorClass))


def test_as_much_is_taken_for_cut_as_the_dispatcher_keeps() -> None:
    assert BODY_KEPT == RESPONSE_BODY_KEPT


def test_a_call_says_how_late_it_was_and_how_long_it_waits_for_the_next() -> None:
    [view] = timeline([call()], 1).now
    assert (view.lateness_ms, view.duration_ms, view.wait_ms) == (40, 250, 5000)
    assert (view.ended, view.plain, view.detail) == ("retry", "the receiver failed", "HTTP 503")
    assert view.brief == "HTTP 503, the receiver failed"


def test_the_last_call_waits_for_none() -> None:
    [view] = timeline([call(next_attempt_at=None)], 1).now
    assert (view.ended, view.wait_ms) == ("failed", None)


def test_a_success_has_no_error() -> None:
    [view] = timeline([call(error=None, error_detail=None, next_attempt_at=None, status_code=204)], 1).now
    assert (view.ended, view.plain, view.brief) == ("succeeded", "", "HTTP 204")


def test_an_error_of_a_later_release_is_told_by_its_name() -> None:
    [view] = timeline([call(error="new_kind", status_code=None)], 1).now
    assert view.plain == "new_kind"
    assert view.answer is None


def test_earlier_generations_stand_apart_latest_first() -> None:
    told = timeline([call(1, 3), call(2, 2), call(1, 2), call(4, 1)], 3, (2, 1))
    assert [each.number for each in told.now] == [1]
    assert [(each.number, [view.number for view in each.calls]) for each in told.before] == [(2, [2, 1]), (1, [4])]
    assert [view.is_named for view in told.before[0].calls] == [False, True]
    assert (told.named, told.shown) == (2, 4)


def test_a_task_that_was_redriven_just_now_has_no_call_of_its_generation() -> None:
    calls = [call(2, 1), call(1, 1)]
    told = timeline(calls, 2)
    assert told.now == ()
    assert len(told.before[0].calls) == 2
    assert latest(calls, 2) is None
    assert latest(calls, 1) is calls[0].attempt


def test_an_answer_that_was_not_read_is_not_taken_for_none() -> None:
    [view] = timeline([call(is_read=False)], 1).now
    assert (view.answer, view.is_read) == (None, False)


def test_secret_headers_of_an_answer_are_hidden() -> None:
    [view] = timeline([call(response_headers=b'[["set-cookie","a=hunter2"],["server","x"]]')], 1).now
    assert view.answer is not None
    assert [tuple(line) for line in view.answer.headers] == [("set-cookie", None), ("server", "x")]


def test_the_phases_fill_the_bar_and_name_the_rest() -> None:
    timing = timed(queue_ms=40, dns_ms=5, connect_ms=20, tls_ms=25, first_byte_ms=150)
    told = phases(call(timing=timing).attempt)
    assert [(phase.name, phase.ms) for phase in told] == [
        ("queue", 40), ("dns", 5), ("connect", 20), ("tls", 25), ("first-byte", 150), ("rest", 50)
    ]  # fmt: skip
    assert told[0].x == 0
    assert all(after.x == before.x + before.width for before, after in pairwise(told))
    assert BAR - len(told) <= told[-1].x + told[-1].width <= BAR
    widths = [phase.width for phase in sorted(told, key=lambda phase: phase.ms)]
    assert widths == sorted(widths)


def test_a_long_queue_does_not_hide_the_call() -> None:
    told = phases(call(timing=timed(queue_ms=3_600_000, first_byte_ms=1)).attempt)
    assert min(phase.width for phase in told) == BAR_PART_MIN


def test_phases_that_were_not_needed_are_left_out() -> None:
    told = phases(call(timing=timed(queue_ms=0, first_byte_ms=250)).attempt)
    assert [phase.name for phase in told] == ["first-byte"]


def test_a_call_without_an_answer_says_how_long_it_was_waited_for() -> None:
    told = phases(call(timing=timed(connect_ms=10), status_code=None).attempt)
    assert told[-1].text == "until it was given up"
    assert told[-1].ms == 240


def test_clocks_that_disagree_break_no_bar() -> None:
    told = phases(call(timing=timed(queue_ms=-5, first_byte_ms=900)).attempt)
    assert [(phase.name, phase.width) for phase in told] == [("first-byte", BAR)]
    assert phases(call(timing=None).attempt) == []
    assert phases(call(timing=timed(queue_ms=0), duration_ms=0).attempt) == []
