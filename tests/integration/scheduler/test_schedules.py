"""Commands about schedules against real Postgres: what is answered, what stands, and what was made ahead."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from libs.common.contracts import Call, ChangeSchedule, HeldSchedule, PutSchedule, Schedule, encode
from libs.common.ids import new_id
from services.scheduler.schedule_commands import changed
from tests.integration.scheduler.asker import Fickle, Killed
from tests.integration.scheduler.rig import SECOND, FakePublisher, Tables, a_pool, until
from tests.integration.scheduler.schedules import (
    Replica,
    a_change,
    a_schedule,
    at_in,
    lead_of_a_minute,
    locks_held,
    next_ats,
    set_back,
    statuses,
    waiting,
)
from tests.unit.scheduler.schedules import a_put

HOURLY = a_schedule(every="1h")


@pytest.fixture
async def replica(
    migrated_postgres_url: str, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replica]:
    lead_of_a_minute(monkeypatch)
    await tables.connection.execute("DELETE FROM scheduler.schedule")
    async with a_pool(migrated_postgres_url) as postgres:
        yield Replica(postgres)


def held_of(answer: Any) -> HeldSchedule:
    assert answer.held is not None
    return answer.held  # type: ignore[no-any-return]


# --- put


async def test_a_schedule_is_created_and_shown_as_it_stands(replica: Replica, tables: Tables) -> None:
    before = await tables.now()
    command = a_put(schedule := await at_in(tables, 3600, labels={"a": "b"}))
    answer = await replica.asks(command)
    held = held_of(answer)
    assert (answer.command_id, answer.result, answer.detail) == (command.command_id, "done", None)
    assert (held.project, held.name, held.revision, held.status) == ("acme", "bell", 1, "active")
    assert (held.next_at, held.schedule) == (schedule.start_at, schedule)
    assert before - SECOND < held.created_at == held.changed_at < await tables.now()
    assert held.created_at.microsecond % 1000 == 0  # as all times that travel
    assert held_of(await replica.asks(a_change("show"))) == held
    assert replica.nudges == 1


async def test_an_interval_without_a_start_comes_at_whole_milliseconds(replica: Replica) -> None:
    next_at = held_of(await replica.asks(a_put(a_schedule(every="7s")))).next_at
    assert next_at is not None
    assert next_at.microsecond % 1000 == 0
    await replica.timetable.one_pass()
    creates = replica.creates()
    assert creates
    assert all(create.task.due_at.microsecond % 1000 == 0 for create in creates)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cron": "61 * * * *"}, "'61' is no minute; write"),
        ({"cron": "* * *"}, "it has 3"),
        ({"cron": "0 0 30 2 *"}, "never comes"),
        ({"cron": "* * * * *", "timezone": "Europe/Pari"}, "did you mean Europe/Paris?"),
        ({"every": "0.1s"}, "between 1 second and 10 years"),
        ({"every": "now and then"}, "is no interval"),
        ({}, "neither cron nor every"),
    ],
    ids=str,
)
async def test_what_cannot_be_read_is_refused_with_the_remedy_and_changes_nothing(
    replica: Replica, tables: Tables, fields: dict[str, str], says: str
) -> None:
    await replica.asks(a_put(HOURLY))
    for name in ("bell", "gong"):
        answer = await replica.asks(a_put(a_schedule(**fields), name))
        assert answer.result == "invalid"
        assert says in (answer.detail or "")
    assert [held.name for held in (await replica.lists()).held] == ["bell"]
    assert held_of(await replica.asks(a_change("show"))).schedule == HOURLY


async def test_a_schedule_said_again_stays_as_it_is(replica: Replica, tables: Tables) -> None:
    first = await replica.asks(a_put(HOURLY))
    again = await replica.asks(a_put(msgspec.structs.replace(HOURLY)))
    assert again.held == first.held


async def test_a_replacement_is_a_new_revision_and_keeps_the_beat_of_the_interval(replica: Replica) -> None:
    first = held_of(await replica.asks(a_put(HOURLY)))
    second = held_of(await replica.asks(a_put(msgspec.structs.replace(HOURLY, labels={"a": "b"}))))
    assert (second.revision, second.created_at, second.next_at) == (2, first.created_at, first.next_at)
    assert second.changed_at >= first.changed_at


@pytest.mark.parametrize("revision", [0, 1, 3])
async def test_a_replacement_of_another_revision_than_it_says_changes_nothing(replica: Replica, revision: int) -> None:
    await replica.asks(a_put(HOURLY))
    second = await replica.asks(a_put(a_schedule(every="2h")))
    command = msgspec.structs.replace(a_put(a_schedule(every="3h")), revision=revision)
    answer = await replica.asks(command)
    assert (answer.result, answer.held) == ("done", second.held)
    assert held_of(await replica.asks(a_change("show"))) == second.held


async def test_a_replacement_of_the_revision_that_it_says_is_made(replica: Replica) -> None:
    held_of(await replica.asks(a_put(HOURLY)))
    command = msgspec.structs.replace(a_put(a_schedule(every="3h")), revision=1)
    assert held_of(await replica.asks(command)).schedule == command.schedule


async def test_what_is_said_again_unchanged_needs_no_revision(replica: Replica) -> None:
    first = await replica.asks(a_put(HOURLY))
    again = await replica.asks(msgspec.structs.replace(a_put(HOURLY), revision=7))
    assert again.held == first.held


async def test_a_revision_of_nothing_creates_only_where_there_is_none(replica: Replica, tables: Tables) -> None:
    refused = await replica.asks(msgspec.structs.replace(a_put(HOURLY), revision=4))
    assert (refused.result, refused.held) == ("unknown", None)
    assert await statuses(tables) == []
    created = held_of(await replica.asks(msgspec.structs.replace(a_put(HOURLY), revision=0)))
    assert (created.revision, created.schedule) == (1, HOURLY)
    await replica.asks(a_change("delete"))
    gone = await replica.asks(msgspec.structs.replace(a_put(HOURLY), revision=1))
    assert (gone.result, gone.held) == ("unknown", None)
    anew = held_of(await replica.asks(msgspec.structs.replace(a_put(HOURLY), revision=0)))
    assert (anew.revision, anew.schedule) == (3, HOURLY)


async def test_a_replacement_of_a_paused_schedule_stays_paused(replica: Replica) -> None:
    await replica.asks(a_put(HOURLY))
    await replica.asks(a_change("pause"))
    held = held_of(await replica.asks(a_put(a_schedule(every="1s"))))
    assert (held.status, held.next_at) == ("paused", None)
    await replica.timetable.one_pass()
    assert replica.creates() == []


async def test_a_schedule_whose_end_has_passed_is_ended_from_the_start(replica: Replica, tables: Tables) -> None:
    held = held_of(await replica.asks(a_put(a_schedule(cron="* * * * *", end_at=await tables.now()))))
    assert (held.status, held.next_at) == ("ended", None)


# --- pause, resume, delete


async def test_a_pause_stops_it_and_a_resume_begins_after_now(replica: Replica, tables: Tables) -> None:
    await replica.asks(a_put(await at_in(tables, -7000, catch_up="all")))
    await set_back(tables, 3600 * SECOND)  # overdue
    paused = held_of(await replica.asks(a_change("pause")))
    assert (paused.status, paused.next_at) == ("paused", None)
    await replica.timetable.one_pass()
    assert replica.creates() == []
    resumed = held_of(await replica.asks(a_change("resume")))
    assert resumed.status == "active"
    assert resumed.next_at is not None
    assert resumed.next_at > await tables.now()
    assert resumed.revision == 3


async def test_a_deleted_schedule_is_unknown_and_a_new_one_of_its_name_goes_on_counting(
    replica: Replica, tables: Tables
) -> None:
    first = held_of(await replica.asks(a_put(HOURLY)))
    deleted = await replica.asks(a_change("delete"))
    assert (deleted.result, held_of(deleted).status, held_of(deleted).schedule) == ("done", "deleted", None)
    for action in ("show", "pause", "resume", "run", "delete"):
        answer = await replica.asks(a_change(action))
        assert (answer.result, answer.held, answer.task_id) == ("unknown", None, None)
    assert (await replica.lists()).held == ()
    assert await replica.store.counts() == {}
    again = held_of(await replica.asks(a_put(HOURLY)))
    assert (again.id, again.revision, again.status) == (first.id, 3, "active")
    assert again.created_at > first.created_at


async def test_a_change_of_what_there_is_not_leaves_nothing_behind(replica: Replica, tables: Tables) -> None:
    for action in ("show", "pause", "resume", "delete", "run"):
        assert (await replica.asks(a_change(action))).result == "unknown"
    assert await statuses(tables) == []


async def test_tombstones_are_forgotten_after_their_days_and_nothing_else(replica: Replica, tables: Tables) -> None:
    for name in ("bell", "gong", "horn"):
        await replica.asks(a_put(HOURLY, name))
    await replica.asks(a_change("delete", "bell"))
    await replica.asks(a_change("delete", "gong"))
    old = "UPDATE scheduler.schedule SET changed_at = now() - interval '8 days' WHERE name <> 'gong'"
    await tables.connection.execute(old)
    await replica.store.forget(7)
    assert await statuses(tables) == ["deleted", "active"]


# --- the order of commands


async def test_an_older_pause_after_a_newer_resume_changes_nothing(replica: Replica) -> None:
    await replica.asks(a_put(HOURLY))
    await replica.asks(a_change("pause"))
    older = a_change("pause")
    resumed = await replica.asks(a_change("resume"))
    late = await replica.asks(older)
    assert late.held == resumed.held
    assert (resumed.overtaken_by, late.overtaken_by) == (None, resumed.command_id)


async def test_an_older_command_after_a_newer_that_changed_nothing_changes_nothing(replica: Replica) -> None:
    await replica.asks(a_put(HOURLY))
    older = a_change("pause")
    await replica.asks(a_put(HOURLY))  # "active, as it is"
    assert held_of(await replica.asks(older)).status == "active"


@pytest.mark.parametrize("copies", [1, 2])
async def test_a_late_copy_of_its_creation_does_not_bring_a_deleted_schedule_back(
    replica: Replica, tables: Tables, copies: int
) -> None:
    put, replacement = a_put(HOURLY), a_put(a_schedule(every="2h"))
    await replica.asks(put)
    await replica.asks(a_change("delete"))
    for late in [put, replacement][:copies]:
        answer = await replica.asks(late)
        assert answer.result == "unknown"
        assert answer.overtaken_by
    assert await statuses(tables) == ["deleted"]


async def test_the_same_command_twice_gets_the_same_answer(replica: Replica, tables: Tables) -> None:
    for command in (a_put(HOURLY), a_change("pause"), a_change("resume"), a_change("run"), a_change("delete")):
        first = await replica.asks(command)
        assert await replica.asks(command) == first
        assert first.result == "done"
    for unknown in (a_change("pause"), a_change("delete"), a_change("delete", "gong")):
        assert (await replica.asks(unknown)).result == "unknown"
        assert await replica.asks(unknown) == await replica.asks(unknown)


# --- what was made ahead


async def test_a_pause_takes_back_what_was_made_ahead_and_tells(replica: Replica, tables: Tables) -> None:
    await replica.asks(a_put(await at_in(tables, 50)))
    await replica.timetable.one_pass()
    await replica.accepts(creates := replica.creates())
    [create] = creates
    assert await waiting(tables) == {create.task.id}
    await replica.asks(a_change("pause"))
    assert await waiting(tables) == set()
    assert await tables.causes(create.task.id) == ["cancelled"]
    assert replica.cancelled() == [create.task.id]
    await replica.accepts(creates)  # a late redelivery
    assert await waiting(tables) == set()


@pytest.mark.parametrize("action", ["pause", "delete"])
async def test_a_task_still_in_the_queue_when_its_schedule_stops_is_never_held(
    replica: Replica, tables: Tables, action: Any
) -> None:
    await replica.asks(a_put(await at_in(tables, 50)))
    await replica.timetable.one_pass()
    [create] = replica.creates()
    await replica.asks(a_change(action))
    assert replica.cancelled() == []  # nobody has heard of it yet
    await replica.accepts([create])
    assert await waiting(tables) == set()
    assert replica.cancelled() == [create.task.id]


@pytest.mark.parametrize("is_accepted", [True, False], ids=["accepted", "in the queue"])
async def test_a_replacement_takes_the_old_back_and_makes_the_new_once(
    replica: Replica, tables: Tables, is_accepted: bool
) -> None:
    schedule = await at_in(tables, 50)
    await replica.asks(a_put(schedule))
    await replica.timetable.one_pass()
    old = replica.creates()
    if is_accepted:
        await replica.accepts(old)
    await replica.asks(a_put(msgspec.structs.replace(schedule, labels={"new": "yes"})))
    await replica.timetable.one_pass()
    new = replica.creates()
    await replica.accepts([*old, *new, *old])
    assert [create.task.due_at for create in new] == [create.task.due_at for create in old]
    assert await waiting(tables) == {create.task.id for create in new}
    assert new[0].task.labels == {"new": "yes"}


async def test_a_pause_and_resume_within_the_lead_make_it_anew_once(replica: Replica, tables: Tables) -> None:
    await replica.asks(a_put(await at_in(tables, 50)))
    made = []
    for action in ("pause", "resume", "pause", "resume"):
        await replica.timetable.one_pass()
        made += replica.creates()
        await replica.accepts(made)
        await replica.asks(a_change(action))
    await replica.timetable.one_pass()
    await replica.accepts(last := replica.creates())
    await replica.accepts(made)
    assert len(made) == 2
    assert await waiting(tables) == {create.task.id for create in last}
    assert len(last) == 1


async def test_the_last_one_of_a_schedule_that_has_ended_is_taken_back_by_a_delete(
    replica: Replica, tables: Tables
) -> None:
    schedule = await at_in(tables, 50)
    await replica.asks(a_put(msgspec.structs.replace(schedule, end_at=schedule.start_at)))
    await replica.timetable.one_pass()
    await replica.accepts(replica.creates())
    assert await statuses(tables) == ["ended"]
    assert len(await waiting(tables)) == 1
    await replica.asks(a_change("delete"))
    assert await waiting(tables) == set()


async def test_the_last_one_of_a_schedule_that_has_ended_is_not_doubled_by_a_longer_one(
    replica: Replica, tables: Tables
) -> None:
    schedule = await at_in(tables, 50)
    await replica.asks(a_put(msgspec.structs.replace(schedule, end_at=schedule.start_at)))
    await replica.timetable.one_pass()
    await replica.accepts(replica.creates())
    await replica.asks(a_put(schedule))
    await replica.timetable.one_pass()
    await replica.accepts(new := replica.creates())
    assert await waiting(tables) == {create.task.id for create in new}
    assert len(new) == 1


async def test_what_was_published_and_not_committed_is_taken_back_too(
    replica: Replica, tables: Tables, migrated_postgres_url: str
) -> None:
    await replica.asks(a_put(await at_in(tables, 50)))
    dying = Replica(Fickle(replica.postgres, "rollback"))
    with pytest.raises(Killed):
        await dying.timetable.one_pass()
    [create] = dying.creates()
    await replica.asks(a_change("pause"))
    await replica.accepts([create])
    assert await waiting(tables) == set()


async def test_what_fires_while_the_schedule_is_replaced_is_not_made_again(replica: Replica, tables: Tables) -> None:
    """Its time came after the command had looked at the clock, and before it took it back."""
    schedule = await at_in(tables, 50)
    await replica.asks(a_put(schedule))
    await replica.timetable.one_pass()
    await replica.accepts(creates := replica.creates())
    await tables.connection.execute(
        "WITH gone AS (DELETE FROM scheduler.task RETURNING *) INSERT INTO scheduler.task_done"
        " (id, generation, attempt, hop, cause, fingerprint, project)"
        " SELECT id, generation, attempt, hop, 'fired', fingerprint, project FROM gone"
    )
    held = held_of(await replica.asks(a_put(msgspec.structs.replace(schedule, labels={"new": "yes"}))))
    assert held.next_at == creates[0].task.due_at + 3600 * SECOND
    assert (held.revision, held.schedule and held.schedule.labels) == (2, {"new": "yes"})
    await replica.timetable.one_pass()
    assert replica.creates() == []


async def test_a_schedule_that_begins_in_a_year_is_paused_at_once(replica: Replica, tables: Tables) -> None:
    far = await at_in(tables, 365 * 86400)
    await replica.asks(a_put(a_schedule(cron="* * * * * *", start_at=far.start_at)))
    async with asyncio.timeout(5):  # not by way of 31 million seconds
        await replica.asks(a_change("pause"))
    assert await tables.gone() == 0


async def test_replacements_at_once_by_two_replicas_leave_one_schedule_and_one_task(
    replica: Replica, tables: Tables, migrated_postgres_url: str
) -> None:
    schedule = await at_in(tables, 50)
    await replica.asks(a_put(schedule))
    async with a_pool(migrated_postgres_url, "replica-2") as postgres:
        both = [replica, Replica(postgres)]
        puts = [a_put(msgspec.structs.replace(schedule, labels={"n": str(n)})) for n in range(8)]
        creates: list[Any] = []
        for start in (0, 4):
            asked = [both[n % 2].asks(put) for n, put in enumerate(puts[start : start + 4])]
            await asyncio.gather(*asked, *(one.timetable.one_pass() for one in both))
            creates += [create for one in both for create in one.creates()]
        for one in both:
            await one.timetable.one_pass()
            creates += one.creates()
        await replica.accepts(creates)
    [id_] = await waiting(tables)
    [last] = {create.task.id: create.task for create in creates if create.task.id == id_}.values()
    assert last.labels == {"n": "7"}


# --- crashes, and servers that are away


async def one_made_ahead(replica: Replica, tables: Tables) -> UUID:
    """The occurrence of a new schedule that waits already."""
    await replica.asks(a_put(await at_in(tables, 50)))
    return await made_ahead(replica)


async def made_ahead(replica: Replica) -> UUID:
    await replica.timetable.one_pass()
    await replica.accepts(creates := replica.creates())
    replica.publisher.take()
    [create] = creates
    return create.task.id


async def dies_untold(replica: Replica, command: PutSchedule | ChangeSchedule) -> None:
    """Its process is killed after its commit, where it would have told the history."""
    publisher = FakePublisher(lambda _item: True)
    publisher.error = Killed()
    with pytest.raises(Killed):
        await Replica(replica.postgres, publisher).asks(command)


async def test_a_crash_before_the_commit_has_told_nobody_and_leaves_it_to_the_redelivery(
    replica: Replica, tables: Tables
) -> None:
    """What is called because the redelivery comes too late must not stand as cancelled."""
    made = await one_made_ahead(replica, tables)
    command, dying = a_change("pause"), Replica(Fickle(replica.postgres, "rollback"))
    with pytest.raises(Killed):
        await dying.asks(command)
    assert dying.publisher.sent == []
    assert await statuses(tables) == ["active"]
    assert await waiting(tables) == {made}
    assert held_of(await replica.asks(command)).status == "paused"
    assert await waiting(tables) == set()
    assert replica.cancelled() == [made]


@pytest.mark.parametrize("first", ["pause", "delete", "put"])
@pytest.mark.parametrize("then", ["the redelivery", "an older one", "pause", "resume", "delete", "put"])
async def test_what_a_crash_after_the_commit_left_untold_is_told_by_the_next_command(
    replica: Replica, tables: Tables, first: Any, then: Any
) -> None:
    made = await one_made_ahead(replica, tables)
    older = a_change("pause")
    command = a_put(a_schedule(every="2h")) if first == "put" else a_change(first)
    await dies_untold(replica, command)
    assert await waiting(tables) == set()
    match then:
        case "the redelivery":
            await replica.asks(command)
        case "an older one":
            await replica.asks(older)
        case "put":
            await replica.asks(a_put(a_schedule(every="3h")))
        case _:
            await replica.asks(a_change(then))
    assert replica.cancelled() == [made]
    await replica.asks(command)
    assert replica.cancelled() == []  # told is told


async def test_what_two_crashes_left_untold_is_told_together(replica: Replica, tables: Tables) -> None:
    first = await one_made_ahead(replica, tables)
    await dies_untold(replica, a_put(await at_in(tables, 40)))
    second = await made_ahead(replica)
    await dies_untold(replica, a_change("delete"))
    await replica.asks(a_change("delete"))
    assert replica.cancelled() == [first, second]


async def test_who_tells_late_does_not_take_what_a_newer_command_owes_for_told(
    replica: Replica, tables: Tables
) -> None:
    first = await one_made_ahead(replica, tables)
    is_away = [True]
    slow = Replica(replica.postgres, FakePublisher(lambda _: is_away[0]))
    replacing = asyncio.create_task(slow.asks(a_put(await at_in(tables, 40))))
    await until("its commit", lambda: _none(waiting(tables)))
    second = await made_ahead(replica)
    await dies_untold(replica, a_change("pause"))
    is_away[0] = False
    await replacing
    assert slow.cancelled() == [first]
    await replica.asks(a_change("pause"))
    assert second in replica.cancelled()


@pytest.mark.parametrize("action", ["pause", "delete"])
async def test_a_commit_whose_answer_is_lost_is_answered_all_the_same(
    replica: Replica, tables: Tables, action: Any
) -> None:
    await replica.asks(a_put(HOURLY))
    answer = await Replica(Fickle(replica.postgres, "answer lost")).asks(a_change(action))
    assert (answer.result, held_of(answer).status) == ("done", f"{action}d")
    assert held_of(answer).revision == 2
    put = await Replica(Fickle(replica.postgres, "answer lost")).asks(a_put(HOURLY, "gong"))
    assert held_of(put).revision == 1


async def test_a_broker_that_is_away_holds_up_the_answer_and_neither_the_change_nor_its_row(
    replica: Replica, tables: Tables
) -> None:
    made = await one_made_ahead(replica, tables)
    is_away = [True]
    deaf = Replica(replica.postgres, FakePublisher(lambda _: is_away[0]))
    pausing = asyncio.create_task(deaf.asks(a_change("pause")))
    await until("the task to be taken back", lambda: _none(waiting(tables)))
    await until("the lock to be let go", lambda: _none(locks_held(tables)))
    assert await statuses(tables) == ["paused"]
    assert not pausing.done()
    is_away[0] = False
    assert held_of(await pausing).status == "paused"
    assert deaf.cancelled() == [made]


async def _none(count: Any) -> bool:
    return not await count


# --- run


async def test_a_run_makes_a_task_beside_the_schedules_times(replica: Replica, tables: Tables) -> None:
    schedule = await at_in(tables, 3600, labels={"a": "b"}, expires_after_s=60)
    await replica.asks(a_put(schedule))
    before = await next_ats(tables)
    command = a_change("run")
    answers = [await replica.asks(command) for _ in range(2)]
    creates = replica.creates()
    await replica.accepts(creates)
    assert {create.task.id for create in creates} == {answers[0].task_id} == await waiting(tables)
    task = creates[0].task
    assert (task.schedule, task.labels, task.call) == ("bell", {"a": "b"}, schedule.call)
    assert abs(task.due_at - await tables.now()) < 5 * SECOND
    assert task.expires_at == task.due_at + 60 * SECOND
    assert await next_ats(tables) == before
    other = await replica.asks(a_change("run"))
    assert other.task_id not in {None, answers[0].task_id}


async def test_a_paused_schedule_can_be_run(replica: Replica) -> None:
    await replica.asks(a_put(HOURLY))
    await replica.asks(a_change("pause"))
    answer = await replica.asks(a_change("run"))
    assert (answer.result, held_of(answer).status) == ("done", "paused")
    assert [create.task.id for create in replica.creates()] == [answer.task_id]


# --- projects and lists


async def test_another_project_neither_sees_nor_changes_it(replica: Replica, tables: Tables) -> None:
    mine = held_of(await replica.asks(a_put(HOURLY)))
    for action in ("show", "pause", "resume", "delete", "run"):
        assert (await replica.asks(a_change(action, project="other"))).result == "unknown"
    assert (await replica.lists("other")).held == ()
    assert replica.creates() == []
    theirs = held_of(await replica.asks(a_put(a_schedule(every="2h"), project="other")))
    assert theirs.id != mine.id
    assert held_of(await replica.asks(a_change("show"))) == mine


async def test_a_list_comes_in_pages_by_name_without_the_calls(replica: Replica, tables: Tables) -> None:
    call = msgspec.Raw(encode(Call(url="https://example.org/secret", body=b"x" * 1000)))
    for name in ("d", "a", "c", "b", "e"):
        await replica.asks(a_put(a_schedule(every="1h", call=call), name))
        await replica.asks(a_put(HOURLY, name, project="other"))
    await replica.asks(a_change("delete", "c"))
    await replica.asks(a_change("pause", "d"))
    pages, after = [], ""
    while page := (await replica.lists(after=after, limit=2)).held:
        pages.append([held.name for held in page])
        assert all((held.schedule, held.project) == (None, "acme") for held in page)
        assert b"secret" not in encode(page[0])
        after = page[-1].name
    assert pages == [["a", "b"], ["d", "e"]]
    assert await replica.store.counts() == {"active": 8, "paused": 1}


async def test_a_list_with_times_says_when_each_comes_and_still_not_what_is_called(replica: Replica) -> None:
    call = msgspec.Raw(encode(Call(url="https://example.org/secret", body=b"x" * 1000)))
    schedule = a_schedule(cron="30 2 * * *", timezone="Europe/Paris", catch_up="all", labels={"a": "b"}, call=call)
    await replica.asks(a_put(schedule))
    await replica.asks(a_put(HOURLY, "gong"))
    await replica.asks(a_change("delete", "gong"))
    [held] = (await replica.lists(with_times=True)).held
    assert held.schedule == msgspec.structs.replace(schedule, labels={}, call=msgspec.Raw(b"null"))
    assert held.next_at is not None
    assert b"secret" not in encode(held)


# --- schedules that cannot be read any more


async def test_what_can_no_longer_be_read_can_be_paused_and_deleted_and_says_why_it_does_not_resume(
    replica: Replica, tables: Tables
) -> None:
    gone = encode(Schedule(cron="* * * * *", timezone="Europe/Atlantis", call=HOURLY.call))
    for name in ("bell", "gong"):
        await replica.asks(a_put(HOURLY, name))
    await tables.connection.execute("UPDATE scheduler.schedule SET schedule = $1", gone)
    assert held_of(await replica.asks(a_change("pause"))).status == "paused"
    answer = await replica.asks(resume := a_change("resume"))
    assert answer.result == "invalid"
    assert "is no IANA time zone" in (answer.detail or "")
    assert (await replica.asks(resume)).result == "invalid"
    assert held_of(await replica.asks(a_change("delete"))).status == "deleted"
    assert held_of(await replica.asks(a_put(HOURLY, "gong"))).schedule == HOURLY


async def test_a_decision_is_not_asked_for_by_an_older_command(replica: Replica) -> None:
    older = new_id()
    held = held_of(await replica.asks(a_put(HOURLY)))

    def event_of(*_: Any) -> bytes:
        pytest.fail("taken back")

    changed_ = await replica.store.change(held.id, "acme", "bell", older, changed("delete"), event_of)
    assert (changed_.held, changed_.owed) == (held, [])
