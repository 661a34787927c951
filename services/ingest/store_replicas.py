"""The table of processes that have been heard of."""

from datetime import datetime
from typing import NamedTuple

import msgspec

from libs.common.contracts import ServiceSeen
from libs.common.postgres import Postgres
from services.ingest.projection import storable

FORGOTTEN_AFTER_S = 86_400

# A clock that is ahead makes nobody younger than just now. Heartbeats may overtake one another; a process that has
# begun anew under the same name counts whatever its clock says.
_KEEP = """
    INSERT INTO service (service, replica, version, started_at, seen_at, vitals)
    VALUES ($1, $2, $3, $4, least($5, clock_timestamp()), $6)
    ON CONFLICT (service, replica) DO UPDATE
        SET version = excluded.version, started_at = excluded.started_at, seen_at = excluded.seen_at,
            vitals = excluded.vitals
        WHERE excluded.seen_at > service.seen_at OR excluded.started_at > service.started_at
"""
_LEAVE = "DELETE FROM service WHERE service = $1 AND replica = $2 AND started_at <= $3"
_ALL = """
    SELECT service, replica AS name, version, started_at, seen_at,
           extract(epoch FROM clock_timestamp() - seen_at)::float8 AS age_s, vitals
    FROM service ORDER BY service, replica
"""
_FORGET = "DELETE FROM service WHERE seen_at < clock_timestamp() - make_interval(secs => $1)"


class Replica(NamedTuple):
    """`age_s` is of its last heartbeat, by Postgres' clock."""

    service: str
    name: str
    version: str
    started_at: datetime
    seen_at: datetime
    age_s: float
    vitals: dict[str, float]


class ReplicaStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def keep(self, seen: ServiceSeen) -> None:
        service, replica = storable(seen.service), storable(seen.replica)
        async with self._postgres.acquire() as connection:
            if seen.is_last:
                await connection.execute(_LEAVE, service, replica, seen.started_at)
                return
            vitals = storable(msgspec.json.encode(seen.vitals).decode())
            await connection.execute(_KEEP, service, replica, storable(seen.version), seen.started_at, seen.at, vitals)

    async def all(self) -> list[Replica]:
        """Those heard of within a day."""
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_ALL)
        return [Replica(**(dict(record) | {"vitals": msgspec.json.decode(record["vitals"])})) for record in records]

    async def forget(self) -> None:
        async with self._postgres.acquire() as connection:
            await connection.execute(_FORGET, FORGOTTEN_AFTER_S)
