from collections.abc import AsyncIterator

import pytest

from libs.common.clock import SystemClock
from libs.common.postgres import Postgres, postgres_pool
from services.ingest.history import History
from services.ingest.maintenance import Maintenance
from services.ingest.store import Store

RETENTION_DAYS = 30


@pytest.fixture
async def postgres(migrated_postgres_url: str) -> AsyncIterator[Postgres]:
    async with postgres_pool(
        migrated_postgres_url, role="carillon_ingest", schema="ingest", application_name="test"
    ) as opened:
        yield opened


@pytest.fixture
def store(postgres: Postgres) -> Store:
    return Store(postgres)


@pytest.fixture
async def maintenance(store: Store) -> Maintenance:
    made = Maintenance(store, SystemClock(), retention_days=RETENTION_DAYS)
    await made.prepare()
    return made


@pytest.fixture
def history(store: Store, maintenance: Maintenance) -> History:
    return History(store, maintenance, SystemClock())
