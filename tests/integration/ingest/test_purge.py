"""What a purge erases, and that nothing brings it back."""

import asyncio
from uuid import UUID, uuid4

from libs.common.contracts import encode
from libs.common.postgres import Postgres
from services.ingest.history import History
from services.ingest.parking import parts
from services.ingest.store import Store
from services.ingest.store_purge import PurgeStore
from services.ingest.stored import ParkedMessage
from services.ingest.view import attempt_views, task_view
from tests.integration.ingest.list_rows import NOW, accepted, at, became

SECRET = {"url": "https://example.com/secret", "labels": {"secret": "42"}}


async def said_of(postgres: Postgres, id_: UUID) -> str:
    """All that the tables hold of a task, as text; bytes too."""
    async with postgres.acquire() as connection:
        rows = [
            *await connection.fetch("SELECT * FROM task WHERE id = $1", id_),
            *await connection.fetch("SELECT * FROM attempt WHERE task_id = $1", id_),
            *await connection.fetch("SELECT * FROM task_label WHERE id = $1", id_),
            *await connection.fetch("SELECT * FROM parked WHERE task_id = $1", id_),
        ]
    return repr([dict(row) for row in rows])


async def test_a_purge_erases_all_that_was_said_and_keeps_that_it_was(
    history: History, store: Store, postgres: Postgres
) -> None:
    task = accepted(**SECRET)  # type: ignore[arg-type]
    id_ = task.task.id
    await history.handle([task, *became(task, "failed", 2)])
    for part in parts(ParkedMessage("m", "ingest.history", "c", 5, b"{}", b"[" + encode(task) + b"]")):
        await store.park(part, NOW)
    assert "secret" in await said_of(postgres, id_)
    assert await PurgeStore(postgres).purge("default", [id_]) == {id_: "purged"}
    assert "secret" not in await said_of(postgres, id_)
    kept = await store.task("default", id_)
    assert kept is not None
    assert (kept.state, kept.created_at, kept.has_payload, kept.labels) == ("failed", NOW, False, {})
    assert await store.attempts(id_) == []
    assert task_view(kept, NOW).url == ""
    assert attempt_views(kept, []) == []


async def test_nothing_that_is_told_again_or_late_brings_it_back(
    history: History, store: Store, postgres: Postgres
) -> None:
    task = accepted(created=5, **SECRET)  # type: ignore[arg-type]
    id_ = task.task.id
    ended = became(task, "failed", 2)
    await history.handle([task, *ended])
    await PurgeStore(postgres).purge("default", [id_])
    before = await said_of(postgres, id_)
    earlier = accepted(id_, created=1, **SECRET)  # type: ignore[arg-type]  # a repeated create, made before the first
    await history.handle([task, earlier])
    await history.handle(ended)
    await history.handle([task, earlier, *ended, *became(task, "succeeded", 1), *became(task, "cancelled", 9)])
    assert await said_of(postgres, id_) == before


async def test_a_purge_and_a_late_event_at_once_leave_nothing(
    history: History, store: Store, postgres: Postgres
) -> None:
    tasks = [accepted(**SECRET) for _ in range(40)]  # type: ignore[arg-type]
    ids = [task.task.id for task in tasks]
    await history.handle([event for task in tasks for event in (task, *became(task, "cancelled", 3))])
    purges = PurgeStore(postgres)
    late = [
        history.handle([event for task in some for event in became(task, "retrying", 1)])
        for some in (tasks[:20], tasks[20:])
    ]
    await asyncio.gather(late[0], purges.purge("default", ids), late[1])
    for id_ in ids:
        assert await store.attempts(id_) == []
        assert "secret" not in await said_of(postgres, id_)


async def test_a_new_generation_is_a_new_life(history: History, store: Store, postgres: Postgres) -> None:
    """A redrive that was on its way: its payload is called again, so the history must say so. Purge it again."""
    task = accepted(**SECRET)  # type: ignore[arg-type]
    await history.handle([task, *became(task, "failed")])
    await PurgeStore(postgres).purge("default", [task.task.id])
    await history.handle([accepted(task.task.id, generation=2, **SECRET)])  # type: ignore[arg-type]
    kept = await store.task("default", task.task.id)
    assert kept is not None
    assert (kept.state, kept.has_payload, kept.labels) == ("scheduled", True, {"secret": "42"})


async def test_what_has_not_ended_or_is_anothers_is_left_alone(
    history: History, store: Store, postgres: Postgres
) -> None:
    waiting, theirs = accepted(**SECRET), accepted(project="other", **SECRET)  # type: ignore[arg-type]
    await history.handle([waiting, theirs, *became(theirs, "failed")])
    nobody, purges = uuid4(), PurgeStore(postgres)
    ids = [waiting.task.id, theirs.task.id, nobody]
    expected = {ids[0]: "waiting", ids[1]: "unknown", nobody: "unknown"}
    assert await purges.look("default", ids) == expected
    assert await purges.purge("default", ids) == expected
    for project, id_ in (("default", ids[0]), ("other", ids[1])):
        task = await store.task(project, id_)
        assert task is not None
        assert task.has_payload


async def test_a_dry_run_erases_nothing(history: History, store: Store, postgres: Postgres) -> None:
    task = accepted(**SECRET)  # type: ignore[arg-type]
    await history.handle([task, *became(task, "failed", 2)])
    assert await PurgeStore(postgres).look("default", [task.task.id]) == {task.task.id: "purged"}
    assert (await store.attempts(task.task.id))[0].response_body == b"secret answer"
    assert at(0) == NOW
