"""Which times of a schedule had to come: none that is missing goes unseen, and none that may come is called wrong."""

import pytest

from tests.chaos.checker import Call
from tests.chaos.occurrences import Change, Occurrence, Occurrences, check_occurrences

S = 1_000
EVERY_5 = Change(asked_ms=9 * S, answered_ms=12 * S, number=1, every_ms=5 * S)
PAUSED = Change(asked_ms=31 * S, answered_ms=36 * S)
END = 60 * S


def calls(*dues_s: int, number: int = 1, behaviour: str = "occurrence") -> list[Call]:
    return [Call(f"{number}-{due_s}", 1, due_s * S + 20, 200, number, behaviour, due_s * S) for due_s in dues_s]


def checked(*made: list[Call], changes: tuple[Change, ...] = (EVERY_5, PAUSED)) -> Occurrences:
    return check_occurrences([changes], [call for some in made for call in some], END)


def test_all_times_between_two_changes_came_and_nothing_else() -> None:
    found = checked(calls(15, 20, 25, 30))
    assert (found.wanted, found.came) == (4, 4)
    assert (found.missing, found.unwanted, found.doubled) == ((), (), ())


def test_one_that_did_not_come_is_missing() -> None:
    assert checked(calls(15, 25, 30)).missing == (Occurrence(1, 20 * S),)


def test_those_that_fall_due_while_a_change_is_asked_for_may_come_and_need_not() -> None:
    assert checked(calls(10, 15, 20, 25, 30, 35)).unwanted == ()
    assert checked(calls(15, 20, 25, 30)).missing == ()


def test_one_after_a_pause_was_confirmed_is_unwanted() -> None:
    assert checked(calls(15, 20, 25, 30, 40)).unwanted == (Occurrence(1, 40 * S),)


def test_one_before_its_schedule_was_asked_for_is_unwanted() -> None:
    assert checked(calls(5, 15, 20, 25, 30)).unwanted == (Occurrence(1, 5 * S),)


def test_one_off_the_times_is_unwanted() -> None:
    assert checked(calls(15, 17, 20, 25, 30)).unwanted == (Occurrence(1, 17 * S),)


def test_of_a_schedule_that_was_replaced_the_old_one_ends_where_the_new_one_begins() -> None:
    replaced = Change(31 * S, 36 * S, number=2, every_ms=10 * S)
    found = checked(calls(15, 20, 25, 30), calls(40, 50, number=2), changes=(EVERY_5, replaced))
    assert (found.missing, found.unwanted) == ((), ())
    found = checked(calls(15, 20, 25, 30, 40), calls(50, number=2), changes=(EVERY_5, replaced))
    assert (found.missing, found.unwanted) == ((Occurrence(2, 40 * S),), (Occurrence(1, 40 * S),))


def test_what_is_due_after_the_end_is_neither_missing_nor_unwanted() -> None:
    found = check_occurrences([(EVERY_5,)], calls(15, 20, 25, 30, 65), 31 * S)
    assert (found.wanted, found.missing, found.unwanted) == (4, (), ())


def test_one_time_as_two_tasks_is_doubled_and_one_task_called_twice_is_not() -> None:
    again = calls(15, 20, 25, 30)
    assert checked(again, again).doubled == ()
    assert checked(again, [Call("other", 1, 15 * S, 200, 1, "occurrence", 15 * S)]).doubled == (Occurrence(1, 15 * S),)


@pytest.mark.parametrize("behaviour", ["ok", "callback"])
def test_the_call_of_something_else_is_no_occurrence(behaviour: str) -> None:
    assert checked(calls(15, behaviour=behaviour)).came == 0
