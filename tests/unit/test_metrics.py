"""Metrics that must be there before anything happens: an alert cannot watch a series that does not exist."""

from datetime import date
from typing import cast

import pytest

from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway, postgres_pool
from libs.common.topology import topology
from services.ingest.maintenance import PARTITIONS_MADE, Maintenance
from services.ingest.store import Store


def test_a_connection_that_was_never_made_counts_as_down() -> None:
    Link("amqp://127.0.0.1:1/", "never made", topology())
    assert REGISTRY.get_sample_value("carillon_broker_connected", {"connection": "never made"}) == 0


async def test_each_use_of_postgres_that_finds_it_away_is_counted() -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("carillon_postgres_away_total") or 0

    before = counted()
    url = "postgres://nobody@127.0.0.1:1/nothing"
    async with postgres_pool(url, role="nobody", schema="nothing", application_name="test") as postgres:
        for times in (1, 2):
            with pytest.raises(PostgresAway):
                await postgres.ping()
            assert counted() == before + times


async def test_ingest_says_when_it_last_made_its_partitions() -> None:
    class FakeStore:
        async def make_days(self, first: date, days: int) -> None:
            assert REGISTRY.get_sample_value(name) == 0  # not before they are there

    name, clock = "carillon_ingest_partitions_made_timestamp_seconds", SystemClock()
    PARTITIONS_MADE.set(0)
    before = clock.now().timestamp()
    await Maintenance(cast("Store", FakeStore()), clock, retention_days=30).prepare()
    assert before <= (REGISTRY.get_sample_value(name) or 0) <= clock.now().timestamp()
