"""The checker of the chaos run: each kind of broken promise is seen, and a kept one is not called broken."""

from dataclasses import replace

import pytest

from tests.chaos.checker import Accepted, Call, check, unfinished

DUE_MS = 1_000_000
A, B = Accepted("a", DUE_MS), Accepted("b", DUE_MS + 5)
DOOMED = Accepted("d", DUE_MS, should_end="failed")


def call(id_: str, at_ms: int = DUE_MS + 10, *, attempt: int = 1, status: int = 200) -> Call:
    return Call(id_, attempt, at_ms, status, due_ms=DUE_MS)


def test_a_kept_promise_has_no_complaint() -> None:
    verdict = check([A, B], [call("a"), call("b")])
    assert (verdict.accepted, verdict.called, verdict.calls) == (2, 2, 2)
    assert (verdict.lost, verdict.early, verdict.strangers) == ((), (), ())
    assert (verdict.repeated_successes, verdict.repeated_attempts) == (0, 0)
    assert (verdict.after_cancel, verdict.at_another_time, verdict.backwards) == ((), (), ())


def test_an_id_that_is_never_called_is_lost() -> None:
    assert check([A, B], [call("a")]).lost == ("b",)


def test_a_task_whose_calls_all_fail_is_lost() -> None:
    verdict = check([A], [call("a", status=503), call("a", attempt=2, status=503)])
    assert verdict.lost == ("a",)
    assert verdict.called == 1


def test_a_task_that_shall_fail_is_lost_only_when_it_is_never_called() -> None:
    assert check([DOOMED], [call("d", status=410)]).lost == ()
    assert check([DOOMED], []).lost == ("d",)


def test_a_second_success_is_a_duplicate() -> None:
    verdict = check([A], [call("a"), call("a"), call("a", attempt=2)])
    assert verdict.repeated_successes == 2
    assert verdict.repeated_attempts == 1


def test_a_retry_is_no_duplicate() -> None:
    verdict = check([A], [call("a", status=503), call("a", attempt=2)])
    assert (verdict.repeated_successes, verdict.repeated_attempts) == (0, 0)


def test_a_call_one_millisecond_before_its_time_is_early_and_one_at_its_time_is_not() -> None:
    early = call("a", DUE_MS - 1)
    assert check([A, B], [early, call("b", B.due_ms)]).early == (early,)


def test_a_repeated_call_before_its_time_is_early_although_another_was_not() -> None:
    assert len(check([A], [call("a"), call("a", DUE_MS - 1)]).early) == 1


def test_a_call_for_an_id_that_nobody_promised_is_a_stranger() -> None:
    verdict = check([A], [call("a"), call("z")])
    assert verdict.strangers == ("z",)
    assert verdict.accepted == 1


def test_lateness_is_that_of_the_first_call() -> None:
    late = check([A, B], [call("a", DUE_MS + 900), call("a", DUE_MS + 7), call("b", B.due_ms + 40)]).lateness_ms
    assert late is not None
    assert (late.p50, late.p99, late.max) == (7, 40, 40)


def test_nothing_called_has_no_lateness() -> None:
    assert check([A], []).lateness_ms is None


def test_a_history_that_ends_otherwise_is_named_with_its_state() -> None:
    states = {"a": "succeeded", "b": "retrying", "d": "succeeded"}
    assert unfinished([A, B, DOOMED], states) == {"b": "retrying", "d": "succeeded"}
    assert unfinished([A], {}) == {"a": "unknown"}


CANCELLED = Accepted("a", DUE_MS, "cancelled", cancelled_ms=DUE_MS + 500)


def test_a_call_after_a_confirmed_cancel_is_seen_and_one_before_it_is_not() -> None:
    before, after = call("a", DUE_MS + 500, status=503), call("a", DUE_MS + 501, attempt=2)
    assert check([CANCELLED], [before, after]).after_cancel == (after,)


def test_a_cancelled_task_that_is_never_called_is_not_lost() -> None:
    assert check([CANCELLED], []).lost == ()


def test_a_task_of_whose_cancel_nobody_knows_may_be_called_or_not() -> None:
    open_ = Accepted("a", DUE_MS, may_end=("cancelled",))
    assert check([open_], []).lost == ()
    assert check([open_], [call("a")]).after_cancel == ()
    assert unfinished([open_], {"a": "cancelled"}) == unfinished([open_], {"a": "succeeded"}) == {}
    assert unfinished([open_], {"a": "failed"}) == {"a": "failed"}


def test_a_history_that_shows_no_cancel_although_it_was_confirmed_is_named() -> None:
    assert unfinished([CANCELLED], {"a": "succeeded"}) == {"a": "succeeded"}


@pytest.mark.parametrize(("dues_ms", "is_misled"), [((), False), ((DUE_MS,), False), ((DUE_MS + 1,), True)])
def test_a_call_for_a_time_that_the_task_does_not_have_is_seen(dues_ms: tuple[int, ...], is_misled: bool) -> None:
    verdict = check([replace(A, dues_ms=dues_ms)], [call("a")])
    assert len(verdict.at_another_time) == is_misled


def test_a_call_that_does_not_say_its_time_is_at_no_other() -> None:
    assert check([replace(A, dues_ms=(DUE_MS,))], [replace(call("a"), due_ms=None)]).at_another_time == ()


def test_an_attempt_that_was_never_made_before_a_later_one_is_backwards() -> None:
    second, first = call("a", DUE_MS + 10, attempt=2, status=503), call("a", DUE_MS + 20, attempt=1)
    assert check([A], [first, second]).backwards == (first,)


def test_a_repeated_attempt_and_a_new_life_are_not_backwards() -> None:
    repeated = [call("a", DUE_MS + at, attempt=number) for at, number in ((10, 1), (20, 2), (30, 1))]
    redriven = replace(call("a", DUE_MS + 40, attempt=1), due_ms=DUE_MS + 35)
    assert check([A], [*repeated, redriven]).backwards == ()
    assert check([A], [replace(repeated[1], attempt=3), redriven]).backwards == ()


def test_a_task_whose_last_call_was_cut_off_may_fail_and_is_lost_when_it_was_never_called() -> None:
    cut_off = Accepted("a", DUE_MS, may_end=("failed",))
    assert check([cut_off], [call("a", status=0)]).lost == ()
    assert check([cut_off], []).lost == ("a",)
    assert unfinished([cut_off], {"a": "failed"}) == {}
