"""Commands and rules while Redis is there and says that it cannot serve now."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from libs.common.asking import Asked
from libs.common.clock import SystemClock
from libs.common.contracts import CancelTask, DispatcherCommand, SetControl, TargetRule
from libs.common.ids import new_id
from libs.common.redis import redis_client
from services.dispatcher.commands import Commands
from services.dispatcher.control import Control
from services.dispatcher.marks import Marks
from tests.integration.dispatcher.rig import OwnRedis
from tests.integration.rig import until

HOST = "api.example.com"


class Heard:
    """Replier and outlet."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    async def reply(self, _asked: Any, answer: Any) -> None:
        self.answers.append(answer)

    async def cancelled(self, *_: Any) -> None:
        """Told to nobody here."""


@asynccontextmanager
async def without_its_replicas(_own: OwnRedis, redis: Redis) -> AsyncIterator[None]:
    await redis.config_set("min-replicas-to-write", 3)
    yield
    await redis.config_set("min-replicas-to-write", 0)


@asynccontextmanager
async def that_cannot_save(own: OwnRedis, redis: Redis) -> AsyncIterator[None]:
    own.folder.rmdir()
    await redis.config_set("save", "3600 1000000")
    await redis.bgsave()

    async def is_so() -> bool:
        return bool((await redis.info("persistence"))["rdb_last_bgsave_status"] == "err")

    await until("a save to fail", is_so)
    yield
    await redis.config_set("save", "")


@asynccontextmanager
async def busy_with_a_script(_own: OwnRedis, redis: Redis) -> AsyncIterator[None]:
    await redis.config_set("busy-reply-threshold", 1)
    endless = asyncio.ensure_future(cast("Any", redis.eval("while true do end", 0)))

    async def is_so() -> bool:
        try:
            await redis.ping()
        except ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    await until("it to be busy", is_so)
    yield
    await redis.script_kill()
    with pytest.raises(ResponseError):
        await endless


@asynccontextmanager
async def without_its_primary(_own: OwnRedis, redis: Redis) -> AsyncIterator[None]:
    await redis.config_set("replica-serve-stale-data", "no")
    await redis.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
    yield
    await redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]


Trouble = Callable[[OwnRedis, Redis], AbstractAsyncContextManager[None]]
TROUBLES = [without_its_replicas, that_cannot_save, busy_with_a_script, without_its_primary]


@pytest.fixture
async def operator(own: OwnRedis) -> AsyncIterator[Redis]:
    await own.start()
    client = redis_client(own.url)
    yield client
    await client.aclose()


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(
    "command",
    [
        CancelTask(id=new_id(), project="shop", command_id=new_id()),
        SetControl(command_id=new_id(), targets=(TargetRule(project="shop", host=HOST, command_id=new_id()),)),
    ],
)
async def test_a_command_waits_for_a_redis_that_cannot_serve_now(
    own: OwnRedis, operator: Redis, trouble: Trouble, command: DispatcherCommand
) -> None:
    client, heard = redis_client(own.url), Heard()
    both = cast("Any", heard)
    commands = Commands(Control(client), Marks(client, "one"), both, both, SystemClock())
    with capture_logs() as logs:

        def has_waited_twice() -> bool:
            return [entry["event"] for entry in logs].count("command.waits") >= 2

        async with trouble(own, operator):
            handling = asyncio.create_task(commands.handle(Asked(command, "somebody", "1")))
            await until("it to have waited twice, and not to have crashed", has_waited_twice, within_s=3)
            assert heard.answers == []
        await asyncio.wait_for(handling, 5)
    assert [answer.command_id for answer in heard.answers] == [command.command_id]
    await client.aclose()


@pytest.mark.parametrize("trouble", [busy_with_a_script, without_its_primary])
async def test_a_replica_whose_redis_cannot_be_read_goes_on_with_what_it_knows(
    own: OwnRedis, operator: Redis, trouble: Trouble
) -> None:
    control, rule = Control(operator), TargetRule(project="shop", host=HOST, command_id=new_id(), is_paused=True)
    await control.write(SetControl(command_id=new_id(), targets=(rule,)))
    await control.read()
    async with trouble(own, operator):
        await control.read()
        assert control.target("shop", HOST) == rule
