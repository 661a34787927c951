"""Who ended by itself in a chaos run: what no fault asked for is seen, and what one did is not held against anybody."""

import signal

import pytest

from tests.chaos.exits import SEEN_WITHIN_MS, Exit, unplanned
from tests.chaos.fault import Done, Fault, Kind

BEGAN_MS, ENDED_MS = 100_000, 108_000


def done(kind: Kind, target: str) -> Done:
    return Done(Fault(100.0, kind, target, 8.0), BEGAN_MS, ENDED_MS)


KILLED, LEFT, MISSING = done("kill", "scheduler-1"), done("restart", "scheduler-1"), done("missing", "rabbitmq")


@pytest.mark.parametrize(
    ("fault", "process", "code"),
    [
        (KILLED, "scheduler-1", -signal.SIGKILL),
        (LEFT, "scheduler-1", 0),
        (LEFT, "scheduler-1", 143),
        (MISSING, "dispatcher-2", 1),
    ],
)
def test_an_end_that_a_fault_asked_for_is_none_of_its_own(fault: Done, process: str, code: int) -> None:
    assert unplanned([Exit(process, code, BEGAN_MS + 100)], [fault]) == []


@pytest.mark.parametrize(
    ("fault", "process", "code", "at_ms"),
    [
        (KILLED, "scheduler-2", -signal.SIGKILL, BEGAN_MS),
        (KILLED, "scheduler-1", 1, BEGAN_MS),
        (KILLED, "scheduler-1", -signal.SIGKILL, BEGAN_MS - 1),
        (KILLED, "scheduler-1", -signal.SIGKILL, ENDED_MS + SEEN_WITHIN_MS + 1),
        (LEFT, "scheduler-1", 1, BEGAN_MS),
        (MISSING, "dispatcher-2", -signal.SIGSEGV, BEGAN_MS),
        (MISSING, "postgres", 1, BEGAN_MS),
        (MISSING, "dispatcher-2", 1, BEGAN_MS - 1),
        (done("freeze", "scheduler-1"), "scheduler-1", 1, BEGAN_MS),
    ],
)
def test_an_end_that_no_fault_asked_for_is_told(fault: Done, process: str, code: int, at_ms: int) -> None:
    assert unplanned([Exit(process, code, at_ms)], [fault]) == [f"{process} ended by itself with {code}"]


def test_a_death_explains_one_end_and_no_second() -> None:
    twice = [Exit("scheduler-1", -signal.SIGKILL, BEGAN_MS + 100), Exit("scheduler-1", -signal.SIGKILL, BEGAN_MS + 900)]
    assert len(unplanned(twice, [KILLED])) == 1


def test_a_missing_queue_explains_as_many_as_there_are() -> None:
    again = [Exit("scheduler-1", 1, BEGAN_MS + number * 1000) for number in range(4)]
    assert unplanned(again, [MISSING]) == []
