"""The heartbeats of all services, kept for the console."""

import asyncio

import msgspec
import structlog
from aio_pika.abc import AbstractIncomingMessage

from libs.common.consumer import ItemConsumer
from libs.common.contracts import ServiceSeen
from libs.common.intake import UNREADABLE, Intake
from libs.common.postgres import PostgresAway
from libs.common.publisher import Publisher
from libs.common.topology import INGEST_REPLICAS
from services.ingest.store_replicas import ReplicaStore

PREFETCH = 4

log = structlog.get_logger(__name__)
_seen = msgspec.json.Decoder(ServiceSeen)


class Replicas:
    """The handler of ingest.replicas: what cannot be kept now is not kept at all, the next one is on its way."""

    def __init__(self, store: ReplicaStore) -> None:
        self._store = store

    async def handle(self, seen: ServiceSeen | None) -> None:
        if seen is None:
            return
        try:
            await self._store.keep(seen)
            await self._store.forget()
        except PostgresAway as error:
            log.debug("heartbeat.dropped", reason=str(error))


def replicas_consumer(replicas: Replicas, publisher: Publisher) -> ItemConsumer[ServiceSeen | None]:
    intake = Intake(INGEST_REPLICAS, read_heartbeat, publisher, prefetch=PREFETCH)
    return ItemConsumer(intake, replicas.handle, asyncio.Semaphore(1))


def read_heartbeat(raw: bytes, _message: AbstractIncomingMessage) -> ServiceSeen | None:
    """None for one that cannot be read (of a release to come, say): it is not worth a person's time in parking."""
    try:
        return _seen.decode(raw)
    except UNREADABLE:
        return None
