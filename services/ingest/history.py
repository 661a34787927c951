"""Projects carillon.events into the history, batch by batch.

While Postgres is away a batch is held and repeated; what Postgres refuses as data is parked, alone.
"""

from collections import Counter as Counts
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import msgspec
import structlog
from aio_pika.abc import AbstractIncomingMessage
from prometheus_client import Counter

from libs.common.clock import Clock
from libs.common.consumer import BatchConsumer
from libs.common.contracts import AttemptFinished, Event
from libs.common.intake import Intake, Poison
from libs.common.metrics import REGISTRY
from libs.common.postgres import until_available
from libs.common.publisher import Publisher
from libs.common.topology import INGEST_HISTORY
from services.ingest.maintenance import DAYS_AHEAD, Maintenance
from services.ingest.projection import Batch, in_id_order, project
from services.ingest.rows import day_of
from services.ingest.store import Store

# Messages, each up to 100 events: enough for the batch at work and the next.
PREFETCH = 64
BATCH_EVENTS_MAX = 1_000
# Under load: a transaction costs Postgres and us some hundred microseconds, whatever is in it.
BATCH_EVERY_S = 0.1

EVENTS = Counter("carillon_ingest_events_total", "Events projected into the history", ["type"], registry=REGISTRY)
CONFLICTS = Counter(
    "carillon_ingest_task_conflicts_total", "Creates that met another request under their id", registry=REGISTRY
)
OUT_OF_WINDOW = Counter(
    "carillon_ingest_attempts_dropped_total", "Attempts older than the retention, or days ahead", registry=REGISTRY
)

log = structlog.get_logger(__name__)
_event: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class History:
    """The handler of ingest.history."""

    def __init__(self, store: Store, maintenance: Maintenance, clock: Clock) -> None:
        self._store = store
        self._maintenance = maintenance
        self._clock = clock

    async def handle(self, events: Sequence[Event]) -> None:
        """Raises: Poison for the one event that Postgres refuses."""
        if not self._maintenance.is_prepared:  # and will not be, if it was asked to stop before
            await until_available(self._maintenance.prepare)
        batch = project(events)
        tasks, attempts, targets = in_id_order(batch), self._within_window(batch), list(batch.targets.values())
        try:
            await until_available(lambda: self._store.save(tasks, attempts, targets))
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise Poison(f"PostgreSQL refuses it: {error}") from error
        _count(events, batch)

    def _within_window(self, batch: Batch) -> list[AttemptFinished]:
        """Only days that may have a partition: one clock that is years ahead must not make tables."""
        today = self._clock.now().date()
        first, last = self._maintenance.keep_from(today), today + timedelta(days=DAYS_AHEAD)
        kept = [attempt for attempt in batch.attempts.values() if first <= day_of(attempt) <= last]
        OUT_OF_WINDOW.inc(len(batch.attempts) - len(kept))
        return kept


def history_consumer(history: History, publisher: Publisher) -> BatchConsumer[Event]:
    intake = Intake(INGEST_HISTORY, read_event, publisher, prefetch=PREFETCH)
    return BatchConsumer(intake, history.handle, items_max=BATCH_EVENTS_MAX, every_s=BATCH_EVERY_S)


def read_event(raw: bytes, _message: AbstractIncomingMessage) -> Event:
    return _event.decode(raw)


def _count(events: Sequence[Event], batch: Batch) -> None:
    for kind, count in Counts(map(type, events)).items():
        EVENTS.labels(kind.__name__).inc(count)
    CONFLICTS.inc(len(batch.conflicts))
    for conflict in batch.conflicts:
        log.warning("task.conflicted", task_id=str(conflict.id), project=conflict.project)
