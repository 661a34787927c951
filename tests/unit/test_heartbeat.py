"""Heartbeats: what they say, and that nobody ever waits for one."""

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Gauge

from libs.common import heartbeat
from libs.common.contracts import ServiceSeen
from libs.common.heartbeat import Heartbeat
from libs.common.publisher import PublishUnknown
from libs.common.topology import REPLICA_SEEN, Route
from libs.common.version import VERSION

NOW = datetime(2026, 11, 21, 12, 0, 0, 500, tzinfo=UTC)


class FakeClock:
    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


class FakePublisher:
    """`answers` says what becomes of a publish: an error to raise, or None; it hangs while `gate` is closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[ServiceSeen] = []
        self.error = error
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, route: Route, item: bytes) -> None:
        assert route == REPLICA_SEEN
        self.seen.append(msgspec.json.decode(item, type=ServiceSeen))
        await self.gate.wait()
        if self.error:
            raise self.error


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.01)
    monkeypatch.setattr(heartbeat, "LAST_S", 0.05)


def a_heartbeat(publisher: FakePublisher, registry: CollectorRegistry | None = None) -> Heartbeat:
    vitals = {"waiting": "carillon_waiting_tasks", "gone": "carillon_nothing"}
    return Heartbeat(
        "scheduler", "scheduler-1", publisher, FakeClock(), vitals, registry or CollectorRegistry()  # type: ignore[arg-type]
    )  # fmt: skip


async def running(beats: Heartbeat, publisher: FakePublisher, count: int) -> None:
    """Until so many were published, and then until it has stopped."""
    stopping = asyncio.Event()
    work = asyncio.create_task(beats.run(stopping))
    async with asyncio.timeout(5):
        while len(publisher.seen) < count:  # noqa: ASYNC110 - a fake of five lines has no event
            await asyncio.sleep(0)
    stopping.set()
    await asyncio.wait_for(work, 1)


async def test_it_says_who_since_when_and_a_few_metrics() -> None:
    registry, publisher = CollectorRegistry(), FakePublisher()
    Gauge("carillon_waiting_tasks", "Tasks", registry=registry).set(7)
    Gauge("carillon_other", "Not asked for", registry=registry).set(8)
    await a_heartbeat(publisher, registry).beat()
    [seen] = publisher.seen
    assert (seen.service, seen.replica, seen.version) == ("scheduler", "scheduler-1", VERSION)
    assert seen.vitals == {"waiting": 7.0}, "a metric that is not there is left out"
    assert seen.started_at == seen.at == NOW.replace(microsecond=1000)
    assert not seen.is_last


@pytest.mark.usefixtures("quick")
async def test_it_beats_until_it_is_asked_to_stop_and_says_so() -> None:
    publisher = FakePublisher()
    await running(a_heartbeat(publisher), publisher, 3)
    assert [seen.is_last for seen in publisher.seen][-2:] == [False, True]


@pytest.mark.usefixtures("quick")
async def test_one_that_cannot_be_published_ends_nothing() -> None:
    publisher = FakePublisher(PublishUnknown("away"))
    await running(a_heartbeat(publisher), publisher, 3)


@pytest.mark.usefixtures("quick")
async def test_a_broker_that_does_not_answer_gathers_no_heartbeats_and_holds_up_no_drain() -> None:
    publisher, stopping = FakePublisher(), asyncio.Event()
    publisher.gate.clear()
    work = asyncio.create_task(a_heartbeat(publisher).run(stopping))
    await asyncio.sleep(0.1)  # ten times as long as between two
    assert len(publisher.seen) == 1
    stopping.set()
    await asyncio.wait_for(work, 1)
    assert [seen.is_last for seen in publisher.seen] == [False, True]
