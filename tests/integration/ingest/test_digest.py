"""What of the history the next digest will have."""

from uuid import uuid4

from libs.common.postgres import Postgres
from services.ingest.history import History
from services.ingest.store_digest import DigestStore
from tests.integration.ingest.test_history import NOW, accepted, attempted, later, parked


async def test_it_has_what_failed_or_was_parked_since_and_of_its_project_alone(
    history: History, postgres: Postgres
) -> None:
    before, failed, stuck, fine, redriven = (uuid4() for _ in range(5))
    await history.handle([accepted(id_) for id_ in (before, failed, stuck, fine, redriven)])
    await history.handle(
        [
            attempted(before, 7, 0, "failed"),
            attempted(failed, 7, 100, "failed"),
            parked(stuck, hop=90),
            attempted(fine, 1, 100, "succeeded"),
            attempted(redriven, 7, 100, "failed"),
        ]
    )
    await history.handle([accepted(redriven, generation=2)])
    store = DigestStore(postgres)
    ours = {failed, stuck}
    tasks = {
        task.id: task
        for task in await store.failed_since("default", NOW + later(50))
        if task.id in {*ours, before, fine, redriven}
    }
    assert set(tasks) == ours
    assert (tasks[failed].state, tasks[failed].attempts, tasks[failed].error) == ("failed", 7, "server_error")
    assert (tasks[failed].url, tasks[failed].labels) == ("http://example.com/", {"order": "42"})
    assert tasks[stuck].state == "parked"
    assert not ours & {task.id for task in await store.failed_since("another", NOW + later(50))}
