"""The dispatcher process: due tasks in, calls out, and what became of them to everybody who should hear."""

import asyncio
import random
from contextlib import AsyncExitStack
from functools import partial

from libs.common import topology
from libs.common.admin import AdminServer
from libs.common.asking import Replier, asked_decoder
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.consumer import ItemConsumer
from libs.common.contracts import DispatcherCommand, TaskDue
from libs.common.heartbeat import Heartbeat
from libs.common.intake import Intake, decoder
from libs.common.lifecycle import Worker, run, run_until_stopped
from libs.common.logs import configure_logs
from libs.common.metrics import build_info
from libs.common.publisher import Publisher
from libs.common.redis import opened_redis, ping
from libs.common.settings import load
from libs.common.tracing import tracing
from libs.common.version import VERSION
from services.dispatcher.attempt import Attempts
from services.dispatcher.canary import Canaries
from services.dispatcher.commands import Commands
from services.dispatcher.control import Control
from services.dispatcher.delivery import Delivery
from services.dispatcher.gate import Gate
from services.dispatcher.guard import Egress, ssl_context
from services.dispatcher.http.caller import LeanCaller
from services.dispatcher.lanes import Lanes
from services.dispatcher.limiter import Limiter
from services.dispatcher.marks import Marks
from services.dispatcher.outlet import Outlet
from services.dispatcher.retry import Ladder
from services.dispatcher.settings import DispatcherSettings
from services.dispatcher.signature import Signer

# Messages of at most 20 tasks: what waits here, undecoded and in order, so that one slow call idles no slot.
PREFETCH = 256
# Tasks in hand, decoded, per call that may be made: some wait for the turn of their host.
IN_HAND = 3
COMMANDS_PREFETCH = 4
VITALS = {
    "in_flight": "carillon_dispatcher_calls_in_flight",
    "open_breakers": "carillon_dispatcher_open_breakers",
    "paused_targets": "carillon_dispatcher_paused_targets",
}


async def main() -> None:
    settings = load(DispatcherSettings)
    configure_logs("dispatcher", settings.replica, settings.log_level)
    build_info("dispatcher", VERSION)
    clock = SystemClock()

    async with AsyncExitStack() as opened:  # closed last-in first-out, after the drain
        tracer = opened.enter_context(tracing("dispatcher", settings.replica))
        redis = await opened.enter_async_context(opened_redis(settings.redis_url.get_secret_value()))
        caller = LeanCaller(_egress(settings), clock)
        opened.push_async_callback(caller.close)

        control, marks = Control(redis), Marks(redis, settings.replica)
        signer = Signer(settings.signing_master_key.get_secret_value(), control.versions)
        ladder = Ladder(settings.retry_schedule_s, random.random)
        lanes = Lanes(settings.concurrency, settings.concurrency_per_host)
        gate = Gate(control, lanes, Limiter(redis), clock)
        attempts = Attempts(caller, signer, ladder, clock, settings.replica, tracer)
        await control.read()

        publishing, consuming = _link(settings, "publishes"), _link(settings, "consumes")
        publisher, replier = Publisher(), Replier()
        publishing.join(publisher, replier)
        outlet = Outlet(publisher, clock, settings.replica, settings.urgent_labels)
        delivery = Delivery(gate, marks, attempts, ladder, outlet, publisher, clock)
        commands = Commands(control, marks, outlet, replier, clock)

        canaries = Canaries(ladder.rungs_ms, redis, publisher, clock)
        consumers = _consumers(delivery, commands, canaries, publisher, consuming, IN_HAND * settings.concurrency)
        admin = AdminServer(
            settings.admin_host,
            settings.admin_port,
            ready={"publishing": publisher.ping, "consuming": consuming.ping, "redis": partial(ping, redis)},
        )
        await opened.enter_async_context(publishing)
        await opened.enter_async_context(consuming)
        heartbeat = Heartbeat("dispatcher", settings.replica, publisher, clock, VITALS)
        await run_until_stopped(
            [admin, publishing, consuming, control, marks, lanes, canaries, heartbeat, *consumers],
            drain_s=settings.drain_s,
        )


def _link(settings: DispatcherSettings, does: str) -> Link:
    table = topology.topology(settings.retry_schedule_s)
    return Link(settings.amqp_url.get_secret_value(), f"{settings.replica} {does}", table)


def _consumers(
    delivery: Delivery, commands: Commands, canaries: Canaries, publisher: Publisher, consuming: Link, in_hand: int
) -> list[Worker]:
    """Of what is due, sharing what may be in hand; and of commands."""

    async def handle_retry(due: TaskDue) -> None:
        canaries.back(due)
        await delivery.handle(due)

    asked = Intake(
        topology.DISPATCHER_COMMANDS, asked_decoder(DispatcherCommand), publisher, prefetch=COMMANDS_PREFETCH
    )
    due = Intake(topology.DISPATCHER_DUE, decoder(TaskDue), publisher, prefetch=PREFETCH)
    retry_due = Intake(topology.DISPATCHER_RETRY_DUE, decoder(TaskDue), publisher, prefetch=PREFETCH)
    for intake in (asked, due, retry_due):
        consuming.join(intake)
    slots = asyncio.Semaphore(in_hand)
    return [
        ItemConsumer(asked, commands.handle, asyncio.Semaphore(COMMANDS_PREFETCH)),
        ItemConsumer(due, delivery.handle, slots),
        ItemConsumer(retry_due, handle_retry, slots),
    ]


def _egress(settings: DispatcherSettings) -> Egress:
    proxy = settings.egress_proxy
    return Egress(
        settings.egress_rules(settings.amqp_url, settings.redis_url, own_ports=[settings.admin_port]),
        ssl_context(settings.ca_file),
        proxy.get_secret_value() if proxy else None,
    )


if __name__ == "__main__":
    run(main)
