"""Redis forgets everything."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis


@asynccontextmanager
async def flushed(redis_url: str) -> AsyncIterator[None]:
    async with Redis.from_url(redis_url) as client:
        await client.flushall()
    yield
