"""The dispatcher process: due tasks in, calls out, and what became of them to everybody who should hear."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
from redis.asyncio import Redis

from libs.common import topology
from libs.common.admin import AdminServer
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.consumer import ItemConsumer
from libs.common.contracts import TaskDue
from libs.common.intake import Intake, decoder
from libs.common.lifecycle import Worker, run, run_until_stopped
from libs.common.logs import configure_logs
from libs.common.metrics import build_info
from libs.common.publisher import Publisher
from libs.common.redis import RedisAway, ping, redis_client
from libs.common.settings import load
from libs.common.version import VERSION
from services.dispatcher.caller import AiohttpCaller
from services.dispatcher.delivery import Delivery
from services.dispatcher.guard import guarded_socket_factory
from services.dispatcher.marks import Marks
from services.dispatcher.outlet import Outlet
from services.dispatcher.retry import Ladder
from services.dispatcher.settings import DispatcherSettings

log = structlog.get_logger(__name__)

# Messages of at most 20 tasks: what waits here, undecoded and in order, so that one slow call idles no slot.
PREFETCH = 256


async def main() -> None:
    settings = load(DispatcherSettings)
    configure_logs("dispatcher", settings.replica, settings.log_level)
    build_info("dispatcher", VERSION)
    clock = SystemClock()

    async with AsyncExitStack() as opened:  # closed last-in first-out, after the drain
        redis = await opened.enter_async_context(_redis(settings.redis_url.get_secret_value()))
        caller = AiohttpCaller(guarded_socket_factory(settings.allow_networks), clock)
        opened.push_async_callback(caller.close)

        amqp_url, table = settings.amqp_url.get_secret_value(), topology.topology(settings.retry_schedule_s)
        publishing = Link(amqp_url, f"{settings.replica} publishes", table)
        consuming = Link(amqp_url, f"{settings.replica} consumes", table)
        publisher = Publisher()
        publishing.join(publisher)

        ladder = Ladder(settings.retry_schedule_s, random.random)
        marks = Marks(redis, settings.replica)
        outlet = Outlet(publisher, clock)
        delivery = Delivery(caller, marks, ladder, outlet, publisher, clock, settings.replica)
        slots = asyncio.Semaphore(settings.concurrency)
        queues = (topology.DISPATCHER_DUE, topology.DISPATCHER_RETRY_DUE)
        intakes = [Intake(queue, decoder(TaskDue), publisher, prefetch=PREFETCH) for queue in queues]
        for intake in intakes:
            consuming.join(intake)

        await opened.enter_async_context(publishing)
        await opened.enter_async_context(consuming)
        workers: list[Worker] = [
            AdminServer(
                settings.admin_host,
                settings.admin_port,
                ready={"publishing": publisher.ping, "consuming": consuming.ping, "redis": partial(ping, redis)},
            ),
            publishing,
            consuming,
            *(ItemConsumer(intake, delivery.handle, slots) for intake in intakes),
        ]
        await run_until_stopped(workers, drain_s=settings.drain_s)


@asynccontextmanager
async def _redis(url: str) -> AsyncIterator[Redis]:
    """A wrong login ends the process now; later on it costs the marks alone, as Redis away does always."""
    client = redis_client(url)
    try:
        try:
            await ping(client)
        except RedisAway as error:
            log.warning("redis.lost", reason=str(error))
        yield client
    finally:
        await client.aclose()


if __name__ == "__main__":
    run(main)
