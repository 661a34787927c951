"""What the servers say of themselves: depths of queues, connections and sizes of tables, memory and keys."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aio_pika
import asyncpg
import redis.asyncio
from aio_pika.abc import AbstractChannel

from libs.common.topology import DEFAULT_RETRY_SCHEDULE_S, FALLBACK, topology

MIB = 1024 * 1024
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
_SIZES = """
    SELECT schemaname || ' MiB' AS name, sum(pg_total_relation_size(relid))::float8 / 1048576 AS value
    FROM pg_stat_user_tables GROUP BY schemaname
"""
_DEAD = "SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables"
Told = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Servers:
    channel: AbstractChannel
    postgres: "asyncpg.Connection[Any]"
    redis: redis.asyncio.Redis

    async def ask(self) -> Told:
        return {"rabbitmq": await self._queues(), "postgres": await self._tables(), "redis": await self._keys()}

    async def _queues(self) -> dict[str, float]:
        """Messages that are ready. Failures wait for the next digest in a queue of their own."""
        depths = {queue.name: await self._depth(queue.name) for queue in topology(DEFAULT_RETRY_SCHEDULE_S).queues}
        waiting_for_digest = depths.pop(FALLBACK)
        return {"messages": sum(depths.values()), "failures for the digest": waiting_for_digest}

    async def _depth(self, queue: str) -> int:
        declared = await self.channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0

    async def _tables(self) -> dict[str, float]:
        sizes = {row["name"]: row["value"] for row in await self.postgres.fetch(_SIZES)}
        connections, dead = await self.postgres.fetchval(_CONNECTIONS), await self.postgres.fetchval(_DEAD)
        return {"connections": connections, "dead rows": float(dead), **sizes}

    async def _keys(self) -> dict[str, float]:
        memory, keyspace = await self.redis.info("memory"), await self.redis.info("keyspace")
        counts = keyspace.get("db0", {"keys": 0, "expires": 0})
        return {
            "used MiB": memory["used_memory"] / MIB,
            "keys": counts["keys"],
            "keys for ever": counts["keys"] - counts["expires"],
        }


@asynccontextmanager
async def servers(variables: Mapping[str, str]) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(await aio_pika.connect(variables["CARILLON_AMQP_URL"]))
        postgres = await asyncpg.connect(variables["CARILLON_POSTGRES_URL"])
        stack.push_async_callback(postgres.close)
        client = redis.asyncio.Redis.from_url(variables["CARILLON_REDIS_URL"])
        stack.push_async_callback(client.aclose)
        yield Servers(await broker.channel(), postgres, client)
