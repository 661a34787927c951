"""Any order of the same events, with any of them repeated, in one batch or in many, ends the same."""

from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts import (
    AttemptFinished,
    Event,
    TargetChanged,
    Task,
    TaskAccepted,
    TaskConflict,
    TaskFinished,
    TaskParked,
)
from services.ingest.projection import FINAL, Batch, in_id_order, lateness_ms, project
from services.ingest.rows import task_row

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
IDS = (UUID(int=1), UUID(int=2))
RANKS = ["scheduled", "parked", "retrying", "expired", "failed", "cancelled", "succeeded"]

ids = st.sampled_from(IDS)
small = st.integers(1, 3)
seconds = st.integers(0, 5)


def at(second: int) -> datetime:
    return NOW + timedelta(seconds=second)


def accepted(id_: UUID = IDS[0], generation: int = 1, created: int = 0, due: int = 0, hop: int = 0) -> TaskAccepted:
    return TaskAccepted(
        task=Task(
            id=id_, project="p", generation=generation, hop=hop, created_at=at(created), due_at=at(due),
            fingerprint=f"{generation}.{created}", call=msgspec.Raw(b"{}"),
        )
    )  # fmt: skip


def attempted(
    id_: UUID = IDS[0], generation: int = 1, attempt: int = 1, hop: int = 1, started: int = 0, outcome: str = "retry"
) -> AttemptFinished:
    return AttemptFinished(
        id=id_, project="p", generation=generation, attempt=attempt, hop=hop, due_at=at(0), started_at=at(started),
        duration_ms=started, outcome=outcome, status_code=500 + started,  # type: ignore[arg-type]
        next_attempt_at=at(started + 1) if outcome == "retry" else None,
    )  # fmt: skip


def finished(
    id_: UUID = IDS[0], generation: int = 1, state: str = "cancelled", hop: int = 1, second: int = 0, reason: str = ""
) -> TaskFinished:
    return TaskFinished(
        id=id_, project="p", generation=generation, attempt=1, hop=hop, state=state,  # type: ignore[arg-type]
        finished_at=at(second), reason=reason,
    )  # fmt: skip


def parked(id_: UUID = IDS[0], generation: int = 1, hop: int = 1, second: int = 0) -> TaskParked:
    return TaskParked(
        id=id_, project="p", generation=generation, attempt=1, hop=hop, parked_at=at(second), cause=f"c{second}"
    )


# due is a function of (generation, created): events that agree in what is compared agree in the rest.
accepts = st.builds(lambda i, g, c: accepted(i, g, c, due=c + g), ids, small, seconds)
attempts = st.builds(attempted, ids, small, small, small, seconds, st.sampled_from(["retry", "succeeded", "failed"]))
finishes = st.builds(
    finished, ids, small, st.sampled_from(["cancelled", "expired"]), small, seconds,
    st.sampled_from(["", "a", "é", "\0"]),
)  # fmt: skip
parks = st.builds(parked, ids, small, small, seconds)
events = st.lists(accepts | attempts | finishes | parks, max_size=25)


def rows(batch: Batch) -> list[tuple[object, ...]]:
    return [task_row(history) for history in in_id_order(batch)]


@given(events, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(given_events: list[Event], random: Random) -> None:
    shuffled = given_events + random.choices(given_events, k=len(given_events)) if given_events else []
    random.shuffle(shuffled)
    assert rows(project(shuffled)) == rows(project(given_events))
    assert project(shuffled).attempts.keys() == project(given_events).attempts.keys()


@given(events)
def test_the_state_is_that_of_the_latest_hop_until_an_end_and_then_the_best_end(given_events: list[Event]) -> None:
    def order(event: Event) -> tuple[int, int, int, int, str]:
        match event:
            case TaskAccepted():
                generation, hop, name = event.task.generation, event.task.hop, "scheduled"
            case AttemptFinished():
                name = "retrying" if event.outcome == "retry" else event.outcome
                generation, hop = event.generation, event.hop
            case TaskFinished():
                generation, hop, name = event.generation, event.hop, event.state
            case TaskParked():
                generation, hop, name = event.generation, event.hop, "parked"
            case _:
                raise AssertionError(event)
        rank, is_final = RANKS.index(name), name in FINAL
        return (generation, is_final, *((rank, hop) if is_final else (hop, rank)), name)

    def id_of(event: Event) -> UUID | None:
        match event:
            case TaskAccepted():
                return event.task.id
            case TargetChanged():
                return None
        return event.id

    for id_, history in project(given_events).tasks.items():
        own = [event for event in given_events if id_of(event) == id_]
        assert history.state.name == max(map(order, own))[-1]


def test_a_success_stands_against_everything_of_its_generation() -> None:
    succeeded, failed = attempted(hop=1, outcome="succeeded"), attempted(hop=9, outcome="failed")
    assert project([succeeded, failed, parked(hop=9), attempted(hop=9)]).tasks[IDS[0]].state.name == "succeeded"


def test_a_task_parked_after_a_retry_is_parked_and_one_that_went_on_is_retrying() -> None:
    assert project([attempted(hop=1), parked(hop=2)]).tasks[IDS[0]].state.name == "parked"
    assert project([parked(hop=2), attempted(hop=2)]).tasks[IDS[0]].state.name == "retrying"


def test_a_call_that_ends_the_task_says_when() -> None:
    history = project([attempted(started=3, outcome="succeeded")]).tasks[IDS[0]]
    assert history.state.at == at(3) + timedelta(milliseconds=3)


def test_a_redrive_begins_a_new_life() -> None:
    history = project([attempted(outcome="failed"), accepted(generation=2, due=9)]).tasks[IDS[0]]
    assert (history.state.name, history.state.at) == ("scheduled", at(9))


def test_a_retry_says_when_the_next_attempt_is() -> None:
    history = project([accepted(), attempted(started=3)]).tasks[IDS[0]]
    assert (history.state.name, history.state.at) == ("retrying", at(4))


def test_the_earliest_of_two_accepts_wins() -> None:
    history = project([accepted(created=2), accepted(created=1), accepted(created=3)]).tasks[IDS[0]]
    assert history.accepted is not None
    assert history.accepted.created_at == at(1)


def test_an_event_before_its_accept_leaves_the_payload_open() -> None:
    [row] = rows(project([finished()]))
    assert row[2] == "cancelled"
    assert row[6:13] == (0, None, None, None, None, None, None)


def test_the_count_is_the_highest_attempt_and_the_lateness_the_first_ones() -> None:
    history = project([attempted(attempt=2, started=5), attempted(attempt=1, started=1)]).tasks[IDS[0]]
    assert history.last is not None
    assert history.last.attempt == 2
    assert history.first is not None
    assert lateness_ms(history.first) == 1000


def test_a_conflict_is_reported_and_changes_no_task() -> None:
    batch = project([TaskConflict(id=IDS[0], project="p", fingerprint="f")])
    assert (len(batch.conflicts), batch.tasks) == (1, {})


def changed(second: int, replica: str = "one", host: str = "api.example.com") -> TargetChanged:
    return TargetChanged(host=host, state="open", changed_at=at(second), replica=replica)


@given(st.lists(st.builds(changed, seconds, st.sampled_from(["one", "two"])), max_size=10))
def test_of_what_a_replica_says_of_a_host_the_latest_is_kept(said: list[TargetChanged]) -> None:
    kept = project(said).targets
    for replica in {event.replica for event in said}:
        latest = max(event.changed_at for event in said if event.replica == replica)
        assert kept["api.example.com", replica].changed_at == latest
    assert len(kept) == len({event.replica for event in said})
