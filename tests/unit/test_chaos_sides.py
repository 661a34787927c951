"""The smaller judges of the chaos run: callbacks, tasks without names, cancels that Redis kept, lateness, logs."""

from pathlib import Path

import pytest

from tests.chaos.actor import Unnamed, cancelled, moved, repeated
from tests.chaos.aftermath import told_in_logs
from tests.chaos.callbacks import check_callbacks
from tests.chaos.cancels import NOTICED_MS, forgotten_cancels
from tests.chaos.checker import Accepted, Call, by_task
from tests.chaos.client import Answer
from tests.chaos.fault import Done, Fault, Kind
from tests.chaos.lateness import AFTERWARDS_MS, check_lateness
from tests.chaos.mix import Door, Story
from tests.chaos.unnamed import TAKEN_WITHIN_MS, Named, named

AT = 1_000_000


def done(kind: Kind, target: str, began_ms: int = AT, ended_ms: int = AT + 1_000) -> Done:
    return Done(Fault(0.0, kind, target, 1.0), began_ms, ended_ms)


# --- callbacks


def told(id_: str, end: str, *, by: str = "c", status: int = 200) -> Call:
    return Call(by, 1, AT, status, 1, "callback", AT, f"{id_}:{end}")


def test_an_end_that_was_told_is_not_missing() -> None:
    found = check_callbacks({"a"}, set(), {"a": "succeeded"}, [told("a", "succeeded")])
    assert (found.wanted, found.missing, found.contradicting, found.doubled) == (1, (), (), ())


def test_an_end_that_was_not_told_or_only_in_vain_is_missing() -> None:
    assert check_callbacks({"a"}, set(), {"a": "failed"}, []).missing == ("a:failed",)
    assert check_callbacks({"a"}, set(), {"a": "failed"}, [told("a", "failed", status=503)]).missing == ("a:failed",)


def test_who_wanted_no_callback_or_was_cancelled_misses_none() -> None:
    assert check_callbacks(set(), set(), {"a": "succeeded"}, []).wanted == 0
    assert check_callbacks({"a"}, set(), {"a": "cancelled"}, []).wanted == 0


def test_a_redriven_task_has_two_ends() -> None:
    ends = {"a": "succeeded"}
    assert check_callbacks({"a"}, {"a"}, ends, [told("a", "succeeded")]).missing == ("a:failed",)
    both = [told("a", "succeeded"), told("a", "failed", by="d")]
    found = check_callbacks({"a"}, {"a"}, ends, both)
    assert (found.missing, found.contradicting, found.doubled) == ((), (), ())


@pytest.mark.parametrize(
    ("redriven", "first_life_due_ms", "doubled"),
    [({"a"}, AT - 1_000, ()), ({"a"}, AT, ("a:succeeded",)), (set[str](), AT - 1_000, ("a:succeeded",))],
    ids=["the call of the first life came after all", "one life called twice", "not redriven"],
)
def test_two_lives_of_a_redriven_task_may_both_succeed(
    redriven: set[str], first_life_due_ms: int, doubled: tuple[str, ...]
) -> None:
    lives = [Call("a", 1, AT, 200, 1, "mended", AT), Call("a", 1, AT + 9, 200, 1, "mended", first_life_due_ms)]
    ends = [told("a", "succeeded"), told("a", "succeeded", by="d"), told("a", "failed", by="e")]
    assert check_callbacks({"a"}, redriven, {"a": "succeeded"}, [*lives, *ends]).doubled == doubled


def test_an_end_that_there_was_not_and_one_told_by_two_tasks_are_seen() -> None:
    found = check_callbacks(
        {"a"}, set(), {"a": "succeeded"}, [told("a", "succeeded"), told("a", "succeeded", by="d"), told("a", "failed")]
    )
    assert (found.contradicting, found.doubled) == (("a:failed",), ("a:succeeded",))


# --- tasks without names


def unnamed(door: Door = "list", tries: int = 1) -> Unnamed:
    return Unnamed(7, AT, Story(7, door, "ok", 0.0, 0.0), tries, AT, AT + 10)


def number_7(*ids: str) -> list[Call]:
    return [Call(id_, 1, AT + 50, 200, 7, "ok", AT) for id_ in ids]


def test_a_number_that_was_called_is_the_task_of_that_id() -> None:
    found = named([unnamed()], number_7("a", "a"), ())
    assert found == Named((Accepted("a", AT, number=7),), (), (), ())


def test_a_number_that_was_never_called_is_lost_and_a_callback_of_it_does_not_count() -> None:
    assert named([unnamed()], [], ()).lost == (7,)
    assert named([unnamed()], [Call("c", 1, AT, 200, 7, "callback", AT)], ()).lost == (7,)


@pytest.mark.parametrize(("tries", "doubled"), [(1, (7,)), (2, ())])
def test_more_tasks_than_requests_are_too_many(tries: int, doubled: tuple[int, ...]) -> None:
    found = named([unnamed(tries=tries)], number_7("a", "b"), ())
    assert (found.doubled, len(found.accepted)) == (doubled, 2)


@pytest.mark.parametrize(
    ("door", "fault", "is_excused"),
    [
        ("list", done("flush", "redis"), True),
        ("form", done("flush", "redis"), False),
        ("list", done("kill", "redis"), False),
        ("list", done("flush", "redis", AT - 20, AT - 1), False),
        ("list", done("flush", "redis", AT + 10 + TAKEN_WITHIN_MS), True),
        ("list", done("flush", "redis", AT + 11 + TAKEN_WITHIN_MS), False),
    ],
)
def test_only_a_flush_while_it_waits_in_redis_may_cost_an_entry(door: Door, fault: Done, is_excused: bool) -> None:
    found = named([unnamed(door)], [], [fault])
    assert (found.lost, found.forgotten) == (((), (7,)) if is_excused else ((7,), ()))


# --- cancels that Redis was to keep

CANCELLED = Accepted("a", AT, "cancelled", cancelled_ms=AT + 1_000)
CALLED = [Call("a", 1, AT + 100, 503, due_ms=AT), Call("a", 2, AT + 2_000, 200, due_ms=AT)]


@pytest.mark.parametrize(
    ("fault", "is_excused"),
    [
        (done("flush", "redis", AT + 1_500, AT + 1_500), True),
        (done("half_open", "dispatcher-1>redis", AT - 500, AT + 500), True),
        (done("kill", "redis", AT + 2_001, AT + 3_000), False),
        (done("kill", "redis", AT - 9_000, AT + 99 - NOTICED_MS), False),
        (done("kill", "dispatcher-1", AT, AT + 2_000), False),
        (done("reset", "ingest-1>redis", AT, AT + 2_000), False),
    ],
)
def test_only_redis_excuses_a_call_after_a_cancel(fault: Done, is_excused: bool) -> None:
    assert bool(forgotten_cancels([CANCELLED], by_task(CALLED), [fault])) == is_excused


def test_a_first_call_after_the_cancel_of_a_task_that_was_due_is_excused_too() -> None:
    flush = done("flush", "redis", AT + 1_500, AT + 1_500)
    assert forgotten_cancels([CANCELLED], by_task(CALLED[1:]), [flush])


def test_the_cancel_of_a_task_that_was_not_due_yet_is_kept_by_postgres_and_has_no_excuse() -> None:
    flush = done("flush", "redis", AT + 1_500, AT + 1_500)
    waiting = Accepted("a", AT + 1_001, "cancelled", cancelled_ms=AT + 1_000)
    assert not forgotten_cancels([waiting], by_task(CALLED[1:]), [flush])
    assert not forgotten_cancels([Accepted("a", AT)], by_task(CALLED), [flush])


# --- what an answer promises


def answer(status: int, tries: int = 1, due_at: str = "1970-01-01T00:20:00.000Z") -> Answer:
    return Answer(status, f'{{"due_at": "{due_at}", "code": "not_scheduled"}}', tries, AT, AT + 30)


TASK = Accepted("a", AT, dues_ms=(AT,))


def test_a_move_that_was_confirmed_counts_as_the_answer_says() -> None:
    assert moved(TASK, answer(200), 1_199_000) == Accepted("a", 1_200_000, dues_ms=(1_200_000,))


def test_a_move_that_was_repeated_counts_from_when_it_was_asked_for_and_one_refused_changes_nothing() -> None:
    assert moved(TASK, answer(200, tries=2), 1_199_000) == Accepted("a", 1_199_000)
    assert moved(TASK, answer(409), 1_199_000) == TASK


@pytest.mark.parametrize(("wanted_ms", "due_ms"), [(AT - 5, AT - 5), (AT + 5, AT)])
def test_a_move_that_was_refused_after_a_silence_may_have_happened(wanted_ms: int, due_ms: int) -> None:
    assert moved(TASK, answer(409, tries=2), wanted_ms) == Accepted("a", due_ms)


def test_a_task_asked_for_once_more_may_be_called_at_either_time_that_was_named() -> None:
    assert repeated(TASK, answer(201)) == Accepted("a", AT, dues_ms=(AT, 1_200_000))
    assert repeated(TASK, answer(503)) == TASK
    assert repeated(Accepted("a", AT), answer(201)) == Accepted("a", AT)


def test_a_confirmed_cancel_holds_from_its_answer_on_and_a_refused_one_changes_nothing() -> None:
    assert cancelled(TASK, answer(200)) == Accepted("a", AT, "cancelled", cancelled_ms=AT + 30, dues_ms=(AT,))
    assert cancelled(TASK, answer(409)) == cancelled(TASK, answer(409, tries=2)) == TASK


@pytest.mark.parametrize(("tries", "may_end"), [(1, ()), (2, ("cancelled",))])
def test_a_cancel_that_was_not_answered_at_first_may_still_override_a_failure(
    tries: int, may_end: tuple[str, ...]
) -> None:
    assert cancelled(Accepted("a", AT, "failed"), answer(409, tries)).may_end == may_end


# --- lateness


def test_late_is_told_apart_by_whether_something_was_broken_when_it_was_due() -> None:
    accepted = [Accepted("a", AT - 1), Accepted("b", AT), Accepted("c", AT + 1_001 + AFTERWARDS_MS)]
    calls = [Call("a", 1, AT + 6, 200), Call("b", 1, AT + 9_000, 200), Call("c", 1, AT + 7_001, 200)]
    found = check_lateness(accepted, by_task(calls), [done("kill", "redis")], healed_ms=AT + 5_000)
    assert found.quiet is not None
    assert (found.quiet_tasks, found.quiet.max) == (2, 1_000)
    assert found.after_healing_ms == 4_000


def test_after_the_healing_a_call_is_as_late_as_its_own_time_makes_it() -> None:
    found = check_lateness([Accepted("a", AT)], by_task([Call("a", 1, AT + 7, 200)]), [], healed_ms=AT - 5_000)
    assert found.after_healing_ms == 7


# --- logs


def test_a_secret_in_a_log_is_found_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("fine\nheader planted-1 \n")
    (tmp_path / "b.log").write_text("fine\n")
    assert told_in_logs(tmp_path, {"planted-1", "planted-2"}) == ["a.log:2"]
