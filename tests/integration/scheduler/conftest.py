"""A scheduler's store over a real Postgres, in its own role, with the days ahead made.

One database for all of it, emptied for each test: making one anew costs more than most of these tests.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from services.scheduler.keeping import Keeping
from services.scheduler.store import Store
from services.scheduler.store_schedules import ScheduleStore
from tests.conftest import fresh_database
from tests.integration.scheduler.rig import FakePublisher, Held, Tables, a_pool, bystander


@pytest.fixture(scope="session")
def _database(servers: dict[str, str], _migrated_template: str) -> Iterator[str]:
    made = fresh_database(servers["CARILLON_POSTGRES_URL"], _migrated_template)
    with asyncio.Runner() as runner:
        url = runner.run(made.__aenter__())
        runner.run(_prepare(url))
        yield url
        runner.run(made.__aexit__(None, None, None))


async def _prepare(url: str) -> None:
    async with bystander(url) as tables:
        await tables.need_no_disk()
    async with a_pool(url) as postgres:
        await Keeping(Store(postgres), ScheduleStore(postgres), 7).prepare()


@pytest.fixture
async def migrated_postgres_url(_database: str) -> str:
    """The scheduler's database, empty."""
    async with bystander(_database) as tables:
        await tables.empty()
    return _database


@pytest.fixture
async def store(migrated_postgres_url: str) -> AsyncIterator[Store]:
    async with a_pool(migrated_postgres_url) as postgres:
        yield Store(postgres)


@pytest.fixture
async def tables(migrated_postgres_url: str) -> AsyncIterator[Tables]:
    async with bystander(migrated_postgres_url) as tables:
        yield tables


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
def held() -> Held:
    return Held()
