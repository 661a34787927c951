import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from redis import exceptions
from redis.asyncio import Redis

from libs.common import redis as under_test
from libs.common.lifecycle import Fatal
from libs.common.redis import RedisAway, ping, redis_client, translating
from tests.integration.rig import until


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    opened = redis_client(redis_url)
    try:
        yield opened
    finally:
        await opened.aclose()


async def test_answers_are_bytes(client: Redis) -> None:
    key = f"test:{uuid4()}"

    with translating():
        await client.set(key, b"\xff", ex=60)
        assert await client.get(key) == b"\xff"
    await ping(client)


async def test_a_client_opens_while_redis_is_away_and_says_so_when_used() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = redis_client(f"redis://127.0.0.1:{unused.getsockname()[1]}/0")
        with pytest.raises(RedisAway, match="ConnectionError"):
            await ping(client)
        await client.aclose()


async def test_a_server_that_falls_silent_is_away_within_the_limit_and_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_test, "SOCKET_S", 0.05)
    asked: list[int] = []

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(1)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    client = redis_client(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    with pytest.raises(RedisAway, match="Timeout"):
        await ping(client)
    await client.aclose()
    server.close()

    assert len(asked) == 1


async def test_a_client_whose_connections_are_all_in_use_says_so_in_time(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(under_test, "CONNECTION_WAIT_S", 0.05)
    client = redis_client(redis_url)
    the_only_one = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]

    with pytest.raises(RedisAway):
        await ping(client)

    await client.connection_pool.release(the_only_one)
    await ping(client)
    await client.aclose()


@pytest.mark.parametrize("ending", ["reset", "closed"])
async def test_a_connection_that_died_while_nobody_used_it_costs_nothing(redis_url: str, ending: str) -> None:
    url, writers = urlsplit(redis_url), list[asyncio.StreamWriter]()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        from_redis, to_redis = await asyncio.open_connection(url.hostname, url.port)
        await asyncio.gather(copied(reader, to_redis), copied(from_redis, writer), return_exceptions=True)

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = redis_client(urlunsplit(url._replace(netloc=url.netloc.replace(f":{url.port}", f":{port}"))))
        await asyncio.gather(*(ping(client) for _ in range(3)))
        opened, idle = len(writers), list(client.connection_pool._available_connections)
        for writer in writers:
            if ending == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        await until("this process to have heard of it", lambda: all(map(is_dead, idle)))
        await asyncio.gather(*(ping(client) for _ in range(opened)))
        await client.aclose()
    assert len(writers) == 2 * opened


def is_dead(connection: Any) -> bool:
    stream: asyncio.StreamReader = connection._reader
    return stream.exception() is not None or stream.at_eof()


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_a_wrong_password_is_fatal_and_is_not_shown(redis_url: str) -> None:
    client = redis_client(redis_url.replace("redis://", "redis://nobody:hunter2@"))
    with pytest.raises(Fatal, match="CARILLON_REDIS_URL") as fatal:
        await ping(client)
    await client.aclose()

    assert "hunter2" not in str(fatal.value)


def test_a_url_that_cannot_be_read_is_fatal_and_is_not_shown() -> None:
    with pytest.raises(Fatal) as fatal:
        redis_client("http://:hunter2@cache/0")

    assert "hunter2" not in str(fatal.value)
    assert fatal.value.__cause__ is None


async def test_a_mistake_of_the_caller_passes_as_it_is(client: Redis) -> None:
    key = f"test:{uuid4()}"
    await client.set(key, "text", ex=60)

    with pytest.raises(exceptions.ResponseError), translating():
        await client.incr(key)
    with pytest.raises(exceptions.ResponseError), translating():
        raise exceptions.ResponseError("BUSYGROUP Consumer Group name already exists")


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("lost"),
        exceptions.TimeoutError("slow"),
        exceptions.BusyLoadingError("loading"),
        exceptions.ReadOnlyError("replica"),
        exceptions.OutOfMemoryError("full"),
        exceptions.MasterDownError("Link with MASTER is down"),
        exceptions.ResponseError("MISCONF unable to persist to disk"),
        exceptions.ResponseError("NOREPLICAS Not enough good replicas to write. script: on @user_script:1."),
        exceptions.ResponseError("BUSY Valkey is busy running a script"),
        ConnectionResetError("reset"),
    ],
)
def test_what_waiting_mends_is_away(error: Exception) -> None:
    with pytest.raises(RedisAway, match=str(error)), translating():
        raise error
