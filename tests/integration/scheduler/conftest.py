"""A scheduler's store over a real Postgres, in its own role, with the days ahead made."""

from collections.abc import AsyncIterator

import pytest

from libs.common.clock import SystemClock
from services.scheduler.keeping import Keeping
from services.scheduler.store import Store
from tests.integration.scheduler.rig import FakePublisher, Held, Tables, a_pool, bystander


@pytest.fixture
async def store(migrated_postgres_url: str) -> AsyncIterator[Store]:
    async with a_pool(migrated_postgres_url) as postgres:
        store = Store(postgres)
        await Keeping(store, SystemClock(), 7).prepare()
        yield store


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
