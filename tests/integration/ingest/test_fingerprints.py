"""Which tasks of a batch the history knows, against a real PostgreSQL."""

from uuid import uuid4

from libs.common.postgres import Postgres
from services.ingest.history import History
from services.ingest.store_fingerprints import FingerprintStore
from services.ingest.store_purge import PurgeStore
from tests.integration.ingest.test_history import accepted, attempted


async def test_only_accepted_tasks_of_the_project_are_known(history: History, postgres: Postgres) -> None:
    known, called_first, unknown = uuid4(), uuid4(), uuid4()
    await history.handle([accepted(known, generation=2), attempted(called_first)])
    store = FingerprintStore(postgres)
    assert await store.fingerprints("default", [known, called_first, unknown]) == {known: "2.0"}
    assert await store.fingerprints("another", [known]) == {}


async def test_a_purged_task_is_known_without_a_fingerprint(history: History, postgres: Postgres) -> None:
    """So its key makes no other task."""
    id_ = uuid4()
    await history.handle([accepted(id_), attempted(id_, outcome="succeeded")])
    assert await PurgeStore(postgres).purge("default", [id_]) == {id_: "purged"}
    assert await FingerprintStore(postgres).fingerprints("default", [id_]) == {id_: ""}
