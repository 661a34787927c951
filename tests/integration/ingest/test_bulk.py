"""Commands for many tasks, over the real tables: none is missed, none is done twice, and a crash loses nothing."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from libs.common.clock import SystemClock
from libs.common.contracts import TaskFinished
from libs.common.ids import new_id
from libs.common.postgres import Postgres
from libs.common.publisher import PublishUnknown
from services.ingest import bulk as bulk_module
from services.ingest.bulk import BulkWorker, Outcome
from services.ingest.history import History
from services.ingest.store_bulk import Bulk, BulkStore, Tally
from services.ingest.store_lists import Lists
from services.ingest.task_filter import TaskFilter
from tests.integration.ingest.list_rows import NOW, accepted, at, became, ids

SCHEDULED = TaskFilter(status=("scheduled", "due", "retrying"))


class Cancels:
    """Cancels in the history at once, as the dispatcher and the scheduler would a little later."""

    def __init__(self, history: History) -> None:
        self.done: Counter[UUID] = Counter()
        self._history = history
        self.answers: dict[UUID, list[Outcome | Exception]] = {}

    async def __call__(self, project: str, id_: UUID) -> Outcome:
        if answers := self.answers.get(id_):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        self.done[id_] += 1
        await self._history.handle([
            TaskFinished(
                id=id_, project=project, generation=1, attempt=1, hop=5, state="cancelled", finished_at=NOW, reason="c"
            )
        ])  # fmt: skip
        return "done"


@pytest.fixture
def bulks(postgres: Postgres) -> BulkStore:
    return BulkStore(postgres)


@pytest.fixture
def cancels(history: History) -> Cancels:
    return Cancels(history)


@pytest.fixture
def worker(postgres: Postgres, bulks: BulkStore, cancels: Cancels) -> BulkWorker:
    return BulkWorker(bulks, Lists(postgres), {"cancel": cancels}, SystemClock())


async def submitted(bulks: BulkStore, wanted: TaskFilter = SCHEDULED, project: str = "default") -> Bulk:
    bulk = Bulk(new_id(), project, "cancel", wanted, 0, True, at(100), "key")
    await bulks.add(bulk)
    return bulk


async def to_the_end(worker: BulkWorker) -> None:
    async with asyncio.timeout(30):
        while await worker.one_step(asyncio.Event()):
            pass


async def seen(bulks: BulkStore, bulk: Bulk) -> tuple[Tally, bool]:
    now = await bulks.show(bulk.project, bulk.id)
    assert now is not None
    return Tally(now.done, now.left_alone, now.unknown), now.finished_at is not None


async def test_all_that_match_are_cancelled_once_and_no_others(
    history: History, bulks: BulkStore, worker: BulkWorker, cancels: Cancels
) -> None:
    wanted = [accepted(created=second, labels={"a": "1"}) for second in range(150)]
    others = [accepted(labels={"a": "2"}), accepted(project="other", labels={"a": "1"})]
    ended = accepted(labels={"a": "1"})
    await history.handle([*wanted, *others, ended, *became(ended, "succeeded")])
    bulk = await submitted(bulks, TaskFilter(status=SCHEDULED.status, labels={"a": "1"}))
    await to_the_end(worker)
    there_at_submission = [each for each in wanted if each.task.created_at <= bulk.submitted_at]
    assert cancels.done == dict.fromkeys(ids(there_at_submission), 1)
    assert await seen(bulks, bulk) == (Tally(done=101), True)


async def test_who_dies_in_a_page_leaves_it_to_the_next(
    history: History, postgres: Postgres, bulks: BulkStore, cancels: Cancels, worker: BulkWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(bulk_module, "PAGE", 10)
    tasks = [accepted(created=second) for second in range(30)]
    await history.handle(tasks)
    bulk = await submitted(bulks)
    await worker.one_step(asyncio.Event())
    victim = tasks[15].task.id
    cancels.answers[victim] = [RuntimeError("kill -9")]
    with pytest.raises(RuntimeError):
        await worker.one_step(asyncio.Event())
    assert not await worker.one_step(asyncio.Event())  # its lease holds
    async with postgres.acquire() as connection:
        await connection.execute("UPDATE bulk SET leased_until = now()")
    await to_the_end(worker)
    assert set(cancels.done) == set(ids(tasks))
    assert (await seen(bulks, bulk))[1]


async def test_two_replicas_share_the_commands_and_do_nothing_twice(
    history: History, postgres: Postgres, bulks: BulkStore, cancels: Cancels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_module, "PAGE", 7)
    tasks = [accepted(created=second, labels={"a": str(second % 2)}) for second in range(60)]
    await history.handle(tasks)
    both = [await submitted(bulks, TaskFilter(status=SCHEDULED.status, labels={"a": part})) for part in "01"]
    workers = [BulkWorker(bulks, Lists(postgres), {"cancel": cancels}, SystemClock()) for _ in range(2)]
    await asyncio.gather(*map(to_the_end, workers))
    await to_the_end(workers[0])
    assert cancels.done == dict.fromkeys(ids(tasks), 1)
    assert [await seen(bulks, bulk) for bulk in both] == [(Tally(done=30), True)] * 2


async def test_what_could_not_be_tried_is_tried_until_it_can(
    history: History, bulks: BulkStore, cancels: Cancels, worker: BulkWorker
) -> None:
    tasks = [accepted(created=second) for second in range(4)]
    await history.handle(tasks)
    away, silent, late, gone = ids(tasks)
    cancels.answers = {
        away: [PublishUnknown("away"), PublishUnknown("away")], silent: ["unknown"] * 3, late: ["unknown"],
        gone: ["left_alone"],
    }  # fmt: skip
    bulk = await submitted(bulks)
    await to_the_end(worker)
    assert await seen(bulks, bulk) == (Tally(done=2, left_alone=1, unknown=1), True)


async def test_a_stop_in_a_page_keeps_what_was_done_and_goes_on_later(
    history: History, bulks: BulkStore, cancels: Cancels, worker: BulkWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_module, "PAGE", 3)
    tasks = [accepted(created=second) for second in range(5)]
    await history.handle(tasks)
    cancels.answers = {tasks[3].task.id: [PublishUnknown("away")]}
    bulk = await submitted(bulks)
    stopping = asyncio.Event()
    stopping.set()
    await worker.one_step(stopping)
    assert await seen(bulks, bulk) == (Tally(done=2), False)
    await to_the_end(worker)
    assert await seen(bulks, bulk) == (Tally(done=5), True)
    assert cancels.done == dict.fromkeys(ids(tasks), 1)


async def test_a_small_command_is_not_behind_a_large_one(
    history: History, bulks: BulkStore, worker: BulkWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_module, "PAGE", 5)
    await history.handle([accepted(created=second) for second in range(50)])
    await history.handle([accepted(project="other")])
    large, small = await submitted(bulks), await submitted(bulks, project="other")
    for _ in range(3):
        await worker.one_step(asyncio.Event())
    assert (await seen(bulks, small))[1]
    assert not (await seen(bulks, large))[1]


async def test_a_command_is_its_projects_own(bulks: BulkStore) -> None:
    bulk = await submitted(bulks)
    assert await bulks.show("other", bulk.id) is None


CLAIM_OF_BEFORE = """
    UPDATE bulk SET leased_until = clock_timestamp() + interval '60 s' WHERE id = (
        SELECT id FROM bulk WHERE finished_at IS NULL AND (leased_until IS NULL OR leased_until <= clock_timestamp())
        ORDER BY leased_until NULLS FIRST, id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id
"""


@pytest.mark.parametrize(
    "condition", [{"host": "a.b"}, {"ids": (UUID(int=1),)}, {"ended_from": at(0)}, {"ended_to": at(0)}]
)
async def test_the_release_before_this_one_leaves_what_it_would_misread_to_this_one(
    postgres: Postgres, bulks: BulkStore, condition: dict[str, Any]
) -> None:
    """It decodes a filter without these, and would cancel what they were to spare."""
    bulk = await submitted(bulks, TaskFilter(status=("failed",), **condition))
    async with postgres.acquire() as connection:
        for _ in range(2):  # never taken, and taken before
            assert await connection.fetchval(CLAIM_OF_BEFORE) is None
            claimed = await bulks.claim()
            assert claimed is not None
            assert (claimed.id, claimed.filter) == (bulk.id, bulk.filter)
            assert await bulks.claim() is None
            renewed = await bulks.renew(claimed)
            assert renewed is not None
            assert await connection.fetchval(CLAIM_OF_BEFORE) is None
            await bulks.step(renewed, None, Tally(), is_over=False)
        plain = await submitted(bulks)
        assert await connection.fetchval(CLAIM_OF_BEFORE) == plain.id


async def test_the_newest_commands_of_a_project_are_shown_first(bulks: BulkStore) -> None:
    first, second = await submitted(bulks), await submitted(bulks)
    await submitted(bulks, project="other")
    assert [each.id for each in await bulks.recent("default")] == [second.id, first.id]


async def test_tasks_that_are_named_by_id_are_done_and_no_others(
    history: History, bulks: BulkStore, worker: BulkWorker, cancels: Cancels
) -> None:
    tasks, theirs = [accepted(created=second) for second in range(3)], accepted(project="other")
    await history.handle([*tasks, theirs])
    named = (tasks[0].task.id, tasks[2].task.id, theirs.task.id)
    await submitted(bulks, TaskFilter(status=SCHEDULED.status, ids=named))
    await to_the_end(worker)
    assert set(cancels.done) == {*named[:2]}
