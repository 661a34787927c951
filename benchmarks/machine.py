"""What it was measured on."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import aio_pika
import asyncpg
import redis.asyncio


async def description(variables: Mapping[str, str]) -> dict[str, str]:
    """Of this machine, and of the servers behind a stack's `variables`."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "cpu": _cpu_model(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "rabbitmq": await _rabbitmq(variables["CARILLON_AMQP_URL"]),
        "postgres": await _postgres(variables["CARILLON_POSTGRES_URL"]),
        "valkey": await _valkey(variables["CARILLON_REDIS_URL"]),
    }


def load_average() -> float:
    """Of the last minute: above zero before the start means that somebody else is at work."""
    return os.getloadavg()[0]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _colon, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


async def _rabbitmq(url: str) -> str:
    async with await aio_pika.connect(url) as connection:
        assert connection.transport is not None
        properties = connection.transport.connection.server_properties
        return str(properties.get("version", "unknown"))


async def _postgres(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


async def _valkey(url: str) -> str:
    client = redis.asyncio.Redis.from_url(url)
    try:
        told = await client.info("server")
    finally:
        await client.aclose()
    return str(told.get("valkey_version") or told.get("redis_version"))
