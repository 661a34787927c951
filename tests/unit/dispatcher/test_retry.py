"""From an outcome to a verdict: which step, which rung, when, and when no more."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts import Call, Timing, encode
from services.dispatcher.outcome import Answer
from services.dispatcher.retry import RESPONSE_HEADERS_KEPT, Done, Fail, Judged, Ladder, Retry, Verdict, retry_after_s
from tests.unit.dispatcher.samples import NOW, a_call, a_task, an_answer

SCHEDULE_S = (5.0, 15.0, 30.0, 180.0, 3600.0, 7200.0)


def decided(
    answer: Answer, call: Call | None = None, *, attempt: int = 1, dice: float = 0.5, now: datetime = NOW
) -> Judged:
    call = call or a_call()
    ladder = Ladder(SCHEDULE_S, lambda: dice)
    return ladder.decide(a_task(call, attempt=attempt, hop=7), call, answer, NOW, now, "here")


def retried(answer: Answer, call: Call | None = None, **how: Any) -> Retry:
    verdict = decided(answer, call, **how)
    assert isinstance(verdict, Retry)
    return verdict


@pytest.mark.parametrize(("attempt", "step_s"), list(enumerate(SCHEDULE_S, start=1)))
def test_each_attempt_waits_on_its_own_rung_without_jitter(attempt: int, step_s: float) -> None:
    for dice in (0.0, 0.999):
        verdict = retried(an_answer(503), attempt=attempt, dice=dice)
        assert verdict.wait_ms == step_s * 1000
        assert verdict.not_before == NOW + timedelta(seconds=step_s)
        assert verdict.event.next_attempt_at == verdict.not_before


def test_the_last_rung_is_followed_by_a_failure_that_keeps_the_last_error() -> None:
    verdict = decided(an_answer(503), attempt=len(SCHEDULE_S) + 1)
    assert isinstance(verdict, Fail)
    assert (verdict.event.outcome, verdict.event.error) == ("failed", "server_error")
    assert verdict.event.next_attempt_at is None


def test_a_task_past_its_ladder_is_exhausted_too() -> None:
    assert isinstance(decided(an_answer(None, error="timeout"), attempt=99), Fail)


def test_a_success_on_the_last_attempt_is_a_success() -> None:
    assert isinstance(decided(an_answer(204), attempt=99), Done)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (an_answer(410), "gone"),
        (an_answer(410, retry_after="5"), "gone"),
        (an_answer(404, carillon_no_retry="true"), "refused_retry"),
        (an_answer(None, error="blocked_address"), "blocked_address"),
    ],
)
def test_what_must_not_be_retried_fails_on_the_first_attempt(answer: Answer, error: str) -> None:
    verdict = decided(answer)
    assert isinstance(verdict, Fail)
    assert (verdict.event.outcome, verdict.event.error) == ("failed", error)


def test_a_tasks_own_schedule_takes_the_place_of_ours() -> None:
    call = a_call(schedule_s=(7.0, 15.0))
    assert retried(an_answer(503), call, attempt=1).wait_ms is None
    assert retried(an_answer(503), call, attempt=2).wait_ms == 15_000  # a rung is a rung, whoever asks for it
    assert isinstance(decided(an_answer(503), call, attempt=3), Fail)


def test_an_empty_schedule_means_one_attempt() -> None:
    call = a_call(schedule_s=())
    assert isinstance(decided(an_answer(503), call), Fail)
    assert Ladder(SCHEDULE_S, lambda: 0.0).attempts_max(call) == 1


def test_a_step_of_zero_is_at_once_by_the_scheduler() -> None:
    verdict = retried(an_answer(503), a_call(schedule_s=(0.0,)))
    assert (verdict.wait_ms, verdict.not_before) == (None, NOW)


@given(
    dice=st.floats(0, 1, exclude_max=True),
    step_s=st.floats(0.1, 86_400).filter(lambda step_s: step_s not in SCHEDULE_S),
)
def test_jitter_off_the_rungs_lengthens_by_at_most_a_tenth(dice: float, step_s: float) -> None:
    verdict = retried(an_answer(503), a_call(schedule_s=(step_s,)), dice=dice)
    if verdict.wait_ms is None:
        waits_s = (verdict.not_before - NOW).total_seconds()
        assert step_s - 1e-6 <= waits_s <= step_s * 1.1 + 0.001
    else:
        assert verdict.wait_ms == round(step_s * 1000)


def test_jitter_is_as_wide_as_it_is_said_to_be() -> None:
    call = a_call(schedule_s=(100.0,))
    assert retried(an_answer(503), call, dice=0.0).not_before == NOW + timedelta(seconds=100)
    assert retried(an_answer(503), call, dice=0.99).not_before > NOW + timedelta(seconds=109.8)


@pytest.mark.parametrize("microsecond", [1, 999, 1000, 1001, 500_000, 999_000, 999_001, 999_999])
def test_no_retry_is_planned_for_before_its_time_nor_in_fractions_of_a_ms(microsecond: int) -> None:
    now = NOW.replace(microsecond=microsecond)
    not_before = retried(an_answer(503), now=now).not_before
    assert timedelta(0) <= not_before - (now + timedelta(seconds=5)) < timedelta(milliseconds=1)
    assert not_before.microsecond % 1000 == 0


# --- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7), (" 7 ", 7), ("007", 7), ("0", 0), ("86400", 86_400), ("86401", 86_400), ("9" * 400, 86_400),
        ("Mon, 01 Mar 2027 09:00:20 GMT", 20), ("Monday, 01-Mar-27 09:00:20 GMT", 20), ("Mon Mar  1 09:00:20 2027", 20),
        ("Mon, 01 Mar 2027 10:00:20 +0100", 20), ("Mon, 01 Mar 2027 09:00:20 -0000", 20),
        ("Mon, 01 Mar 2027 08:59:00 GMT", 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("", 0), ("-5", 0), ("5.5", 0), ("+7", 0), ("1e3", 0), ("soon", 0), ("\u0663", 0), ("²", 0), ("0x10", 0),
        ("5, 6", 0),
        ("2027-03-01T09:00:20Z", 0), ("nan", 0), ("inf", 0), ("Mon, 32 Mar 2027 09:00:20 GMT", 0), ("\ufffd", 0),
        ("Mon, 01 Mar 2027 09:00:20 +99999999999999999999", 0), ("01 Mar 99999999999999999999 09:00:20 GMT", 0),
        ("Mon, 01 Mar 0001 00:00:00 +2359", 0),
    ],
)  # fmt: skip
def test_retry_after_in_seconds_as_a_date_and_as_garbage(value: str, seconds: float) -> None:
    assert retry_after_s(an_answer(503, retry_after=value), NOW) == seconds


def test_without_retry_after_nothing_is_asked() -> None:
    assert retry_after_s(an_answer(503), NOW) == 0


@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [+-]?\d*[A-Z]{0,3}"))
def test_no_retry_after_makes_a_wait_outside_of_a_day(value: str) -> None:
    assert 0 <= retry_after_s(an_answer(503, retry_after=value), NOW) <= 86_400


def test_a_longer_retry_after_is_waited_for_by_the_scheduler_exactly() -> None:
    verdict = retried(an_answer(429, retry_after="60"), dice=0.9)
    assert (verdict.wait_ms, verdict.not_before) == (None, NOW + timedelta(seconds=60))


@pytest.mark.parametrize("value", ["0", "1", "5", "garbage"])
def test_a_shorter_retry_after_leaves_the_step_as_it_is(value: str) -> None:
    assert retried(an_answer(429, retry_after=value)).wait_ms == 5000


def test_a_tasks_retry_after_that_it_does_not_respect_is_not_read() -> None:
    verdict = retried(an_answer(429, retry_after="60"), a_call(respect_retry_after=False))
    assert verdict.wait_ms == 5000


def test_retry_after_gives_no_attempt_more() -> None:
    assert isinstance(decided(an_answer(503, retry_after="60"), attempt=len(SCHEDULE_S) + 1), Fail)


def test_the_longest_wait_is_a_day_where_the_receiver_may_ask_for_it() -> None:
    ladder = Ladder(SCHEDULE_S, lambda: 0.0)
    assert ladder.longest_wait_s(a_call()) == 86_400
    assert ladder.longest_wait_s(a_call(respect_retry_after=False)) == 7200
    assert ladder.longest_wait_s(a_call(respect_retry_after=False, schedule_s=())) == 0
    assert ladder.longest_wait_s(a_call(schedule_s=(200_000.0,))) == 200_000


# --- the event


def test_the_event_is_the_attempts_whole_story() -> None:
    event = decided(an_answer(200, b"x" * 9000, server="s"), attempt=3).event
    assert (event.attempt, event.generation, event.hop, event.replica) == (3, 1, 7, "here")
    assert (event.due_at, event.started_at, event.duration_ms) == (NOW, NOW + timedelta(milliseconds=3), 40)
    assert (event.status_code, event.response_headers) == (200, (("server", "s"),))
    assert event.response_body == b"x" * 8192


def test_the_event_says_where_the_time_went() -> None:
    answer = msgspec.structs.replace(an_answer(200), timing=Timing(connect_ms=3, first_byte_ms=14))
    assert decided(answer).event.timing == Timing(queue_ms=3, connect_ms=3, first_byte_ms=14)


def test_an_event_keeps_a_bounded_part_of_the_headers() -> None:
    many = Answer(
        started_at=NOW, duration_ms=1, status_code=200, headers=tuple((f"h{n}", "v" * 8000) for n in range(128))
    )
    event = decided(many).event
    assert [name for name, _value in event.response_headers] == ["h0", "h1"]
    assert len(encode(event)) < 2 * RESPONSE_HEADERS_KEPT


@pytest.mark.parametrize("answer", [an_answer(200), an_answer(503), an_answer(410, b"\x00\xff")])
def test_a_verdict_survives_the_way_through_redis(answer: Answer) -> None:
    verdict = decided(answer)
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict


def test_without_rungs_nothing_is_on_one() -> None:
    ladder = Ladder((), lambda: 0.0)
    assert ladder.shortest_ms is None
    verdict = ladder.decide(a_task(), a_call(schedule_s=(5.0,)), an_answer(503), NOW, NOW.astimezone(UTC), "here")
    assert isinstance(verdict, Retry)
    assert verdict.wait_ms is None
