"""The report of the chaos run: whatever is broken is a fault with its word, and a run that kept everything has none."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.chaos.aftermath import Mails
from tests.chaos.callbacks import Callbacks
from tests.chaos.checker import Accepted, Call, Lateness, Verdict
from tests.chaos.duplicates import Duplicate, Reckoning
from tests.chaos.fault import Done, Fault
from tests.chaos.lateness import Late
from tests.chaos.occurrences import Occurrence, Occurrences
from tests.chaos.report import Report
from tests.chaos.unnamed import Named

AT = 1_000_000
CALL = Call("a", 1, AT, 200)
TIME = Occurrence(1, AT)
FAULT = Fault(1.0, "kill", "redis", 1.0)

KEPT = Report(
    seed=1,
    over_s=60.0,
    wanted=2,
    plots=1,
    unanswered=0,
    verdict=Verdict(2, 2, 300, (), (), 0, 0, (), Lateness(1, 2, 3)),
    known=Named((), (), (), ()),
    occurrences=Occurrences(3, 3, (), (), ()),
    callbacks=Callbacks(1, (), (), ()),
    lateness=Late(Lateness(1, 2, 3), 2, 5),
    forgotten_cancels=frozenset(),
    reckoning=Reckoning(3, {}, {"call": {}, "emission": {}}, ()),
    states={"a": "succeeded", "b": "cancelled", "made": "succeeded"},
    cut_off=frozenset(),
    accepted=(Accepted("a", AT, number=0), Accepted("b", AT, "cancelled", number=1, cancelled_ms=AT)),
    answers={"HTTP 503": 4},
    deeds={"cancel 200": 1},
    wrong=(),
    failed=1,
    mails=Mails(1, 1, 1, ()),
    notices=1,
    parked=(),
    left=(),
    leaks=(),
    done=(Done(FAULT, AT, AT + 5),),
    planned=(FAULT,),
    not_healed=(),
    unplanned_exits=(),
    wall_s=70.0,
)


def of(part: str, **changes: Any) -> dict[str, Any]:
    return {part: replace(getattr(KEPT, part), **changes)}


def duplicates(call: int, beside_redis: int) -> dict[str, Any]:
    explained = {"call": {"kill dispatcher-1": call}, "emission": {}}
    return of("reckoning", duplicates={"call": call}, explained=explained, beside_redis=beside_redis)


def test_a_run_that_kept_everything_has_no_fault() -> None:
    assert KEPT.faults == []
    assert KEPT.kinds == set()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("lost", of("verdict", lost=("a",))),
        ("lost", of("known", lost=(0,))),
        ("early", of("verdict", early=(CALL,))),
        ("unanswered", {"unanswered": 1}),
        ("unaccepted", {"wanted": 3}),
        ("stranger", of("verdict", strangers=("z",))),
        ("cancel", of("verdict", after_cancel=(CALL,))),
        ("moved", of("verdict", at_another_time=(CALL,))),
        ("backwards", of("verdict", backwards=(CALL,))),
        ("history", {"states": {**KEPT.states, "a": "retrying"}}),
        ("history", {"states": {**KEPT.states, "b": "succeeded"}}),
        ("history", {"states": {**KEPT.states, "made": "failed"}}),
        ("occurrence-missing", of("occurrences", missing=(TIME,))),
        ("occurrence-unwanted", of("occurrences", unwanted=(TIME,))),
        ("occurrence-doubled", of("occurrences", doubled=(TIME,))),
        ("callback-missing", of("callbacks", missing=("a:failed",))),
        ("callback-wrong", of("callbacks", contradicting=("a:failed",))),
        ("callback-doubled", of("callbacks", doubled=("a:failed",))),
        ("doubled", of("known", doubled=(0,))),
        ("notice", of("mails", notices_missing=("word",))),
        ("mail", of("mails", failed_told=0)),
        ("parked", {"parked": ("dispatcher.due: crashed",)}),
        ("duplicates", of("reckoning", unexplained=(Duplicate("call", "a", AT, AT),))),
        ("emissions", of("reckoning", unexplained=(Duplicate("emission", "a", AT, AT),))),
        ("many-duplicates", duplicates(4, 4)),
        ("cut-off", {"cut_off": frozenset({"a"})}),
        ("left", {"left": ("dispatcher.due: 1 messages",)}),
        ("secret", {"leaks": ("ingest-1.log:3",)}),
        ("answer", {"wrong": ("one key named two tasks",)}),
        ("bug", {"answers": {"HTTP 500": 1}}),
        ("exit", {"unplanned_exits": ("mailer-1 ended by itself with 1",)}),
        ("unhealed", {"not_healed": ("postgres does not serve",)}),
        ("late", {"lateness": Late(Lateness(1, 2, 5_001), 2, 5)}),
    ],
)
def test_whatever_is_broken_is_a_fault_by_its_word(kind: str, changes: dict[str, Any]) -> None:
    report = replace(KEPT, **changes)
    assert report.kinds == {kind}
    assert len(report.faults) == 1
    assert f"FAULT: {report.faults[0]}" in report.text()


def test_duplicates_that_redis_could_not_absorb_do_not_count_and_three_in_three_hundred_are_not_many() -> None:
    assert replace(KEPT, **duplicates(40, 3)).kinds == set()


def test_an_entry_that_redis_forgot_is_not_missing() -> None:
    assert replace(KEPT, wanted=3, **of("known", forgotten=(2,))).kinds == set()


def test_a_cancel_that_redis_could_not_keep_is_no_fault() -> None:
    told = {"states": {**KEPT.states, "b": "succeeded"}, **of("verdict", after_cancel=(replace(CALL, id="b"),))}
    assert replace(KEPT, **told).kinds == {"history", "cancel"}
    assert replace(KEPT, **told, forgotten_cancels=frozenset({"b"})).kinds == set()


def test_one_in_a_hundred_may_be_cut_off() -> None:
    many = (*KEPT.accepted, *(Accepted(f"{number}", AT, number=number) for number in range(2, 100)))
    states = {task.id: task.should_end for task in many}
    report = replace(KEPT, accepted=many, states=states, wanted=100)
    assert replace(report, cut_off=frozenset({"a"})).kinds == set()
    assert replace(report, cut_off=frozenset({"a", "2"})).kinds == {"cut-off"}


def test_nothing_due_in_quiet_is_not_late() -> None:
    assert replace(KEPT, lateness=Late(None, 0, 5)).kinds == set()


def test_a_program_can_read_it() -> None:
    told = msgspec.json.decode(msgspec.json.encode(replace(KEPT, unanswered=1).as_json()))
    assert told["broken"] == [["unanswered", "1 requests were never answered"]]
    assert (told["seed"], told["accepted"], told["states"]) == (1, 2, {"succeeded": 2, "cancelled": 1})
