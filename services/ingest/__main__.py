"""Ingest, as a process: settings, logs, links, wire, run, drain."""

from contextlib import AsyncExitStack

from aiohttp import web
from redis.asyncio import Redis

from libs.common.admin import AdminServer
from libs.common.asking import Asker
from libs.common.clock import Clock, SystemClock
from libs.common.connection import Link
from libs.common.contracts import Answer
from libs.common.heartbeat import Heartbeat
from libs.common.lifecycle import Worker, run, run_until_stopped
from libs.common.logs import configure_logs
from libs.common.metrics import build_info
from libs.common.postgres import Postgres, postgres_pool
from libs.common.publisher import Publisher
from libs.common.redis import opened_redis
from libs.common.settings import load
from libs.common.topology import topology
from libs.common.tracing import Tracer, tracing
from libs.common.version import VERSION
from services.ingest.auth import Keys
from services.ingest.batch import Rules
from services.ingest.batch_door import BatchDoor
from services.ingest.bulk import BulkWorker, actions
from services.ingest.bulk_door import BulkDoor
from services.ingest.command_door import CommandDoor
from services.ingest.commands import Commands
from services.ingest.console.wiring import Console, Parts
from services.ingest.control import ControlPublisher
from services.ingest.control_door import TargetDoor
from services.ingest.digest_door import DigestDoor
from services.ingest.explain_door import ExplainDoor
from services.ingest.fallback_door import FallbackDoor
from services.ingest.history import History, history_consumer
from services.ingest.http import Door, HttpServer, build_app
from services.ingest.key_door import KeyDoor
from services.ingest.key_limits import KeyLimits
from services.ingest.keyring import Keyring
from services.ingest.legacy import LegacyRules
from services.ingest.legacy_door import LegacyDoor
from services.ingest.list_door import ListDoor
from services.ingest.list_entry import EntryReader
from services.ingest.list_store import ListStore
from services.ingest.maintenance import Maintenance
from services.ingest.parked_door import ParkedDoor
from services.ingest.parking import Parking, parking_consumer
from services.ingest.replicas import Replicas, replicas_consumer
from services.ingest.schedule_door import ScheduleDoor
from services.ingest.settings import IngestSettings
from services.ingest.signing_door import SigningDoor
from services.ingest.store import Store
from services.ingest.store_bulk import BulkStore
from services.ingest.store_control import ControlStore
from services.ingest.store_digest import DigestStore
from services.ingest.store_fingerprints import FingerprintStore
from services.ingest.store_keys import KeyStore
from services.ingest.store_lists import Lists
from services.ingest.store_obstacles import ObstacleStore
from services.ingest.store_parked import ParkedStore
from services.ingest.store_purge import PurgeStore
from services.ingest.store_replicas import ReplicaStore
from services.ingest.task_commands import TaskCommands
from services.ingest.task_door import TaskDoor
from services.ingest.task_list_door import TaskListDoor


async def main() -> None:
    settings = load(IngestSettings)
    configure_logs("ingest", settings.replica, settings.log_level)
    build_info("ingest", VERSION)
    clock, amqp_url = SystemClock(), settings.amqp_url.get_secret_value()

    async with AsyncExitStack() as opened:
        tracer = opened.enter_context(tracing("ingest", settings.replica))
        postgres = await opened.enter_async_context(
            postgres_pool(
                settings.postgres_url.get_secret_value(),
                role="carillon_ingest",
                schema="ingest",
                application_name="carillon-ingest",
            )
        )
        redis = await opened.enter_async_context(opened_redis(settings.redis_url.get_secret_value()))
        store, publisher = Store(postgres), Publisher()
        keys = Keys(settings.bootstrap_key.get_secret_value(), KeyStore(postgres), KeyLimits(redis, clock), clock)
        maintenance = Maintenance(store, clock, retention_days=settings.retention_days)
        history = history_consumer(History(store, maintenance, clock), publisher)
        parking = parking_consumer(Parking(store, publisher, clock), publisher)
        replicas = replicas_consumer(Replicas(ReplicaStore(postgres)), publisher)

        publish_link = Link(amqp_url, "ingest publish", topology())
        publish_link.join(publisher)
        consume_link = Link(amqp_url, "ingest consume", topology())
        asker = Asker[Answer](Answer)  # type: ignore[arg-type]  # a union of types
        consume_link.join(history.intake, parking.intake, replicas.intake, asker)
        for link in (publish_link, consume_link):
            await opened.enter_async_context(link)  # they outlive the drain, which still publishes and acks

        parts = Parts(
            postgres=postgres,
            redis=redis,
            publisher=publisher,
            commands=Commands(asker),
            clock=clock,
            settings=settings,
        )
        console = Console(parts)
        app = _app(settings, keys, parts, console, tracer)
        http = HttpServer(app, settings.host, settings.port, drain_s=settings.drain_s)
        admin = AdminServer(settings.admin_host, settings.admin_port, ready={"postgres": postgres.ping})
        heartbeat = Heartbeat("ingest", settings.replica, publisher, clock, {})
        workers: list[Worker] = [admin, http, history, parking, replicas, maintenance, publish_link, consume_link]
        workers += [*console.workers, heartbeat, keys, ControlPublisher(ControlStore(postgres), publisher)]
        workers.append(_bulk_worker(postgres, publisher, Commands(asker), clock))
        if (door := _list_door(settings, redis, publisher, clock)) is not None:
            opened.push_async_callback(door.leave)
            workers += door.workers()
        await run_until_stopped(workers, drain_s=settings.drain_s)


def _app(
    settings: IngestSettings,
    keys: Keys,
    parts: Parts,
    console: Console,
    tracer: Tracer | None,
) -> web.Application:
    rules, egress = _legacy_rules(settings), settings.egress()
    postgres, publisher, commands, clock = parts.postgres, parts.publisher, parts.commands, parts.clock
    store = Store(postgres)
    tasks = TaskCommands(commands, publisher, store, clock)
    doors: list[Door] = [
        TaskDoor(publisher, store, clock, egress),
        BatchDoor(publisher, FingerprintStore(postgres), clock, Rules(egress, settings.body_bytes_max)),
        CommandDoor(tasks, store, clock),
        ScheduleDoor(commands, clock, egress),
        ExplainDoor(store, ObstacleStore(postgres), clock),
        LegacyDoor(keys, publisher, clock, rules, egress),
        FallbackDoor(publisher, clock),
        DigestDoor(commands, DigestStore(postgres), clock),
        *_doors_of_many(postgres, publisher, clock),
        *_admin_doors(settings, postgres, commands, clock),
    ]
    return build_app(
        doors,
        keys,
        version=VERSION,
        body_bytes_max=settings.body_bytes_max,
        tracer=tracer,
        console=console,
    )


def _doors_of_many(postgres: Postgres, publisher: Publisher, clock: Clock) -> list[Door]:
    lists = Lists(postgres)
    return [
        TaskListDoor(lists, clock),
        BulkDoor(BulkStore(postgres), lists, PurgeStore(postgres), clock),
        ParkedDoor(ParkedStore(postgres), publisher),
    ]


def _bulk_worker(postgres: Postgres, publisher: Publisher, commands: Commands, clock: Clock) -> BulkWorker:
    tasks = TaskCommands(commands, publisher, Store(postgres), clock)
    return BulkWorker(BulkStore(postgres), Lists(postgres), actions(tasks, PurgeStore(postgres)), clock)


def _admin_doors(settings: IngestSettings, postgres: Postgres, commands: Commands, clock: Clock) -> list[Door]:
    control, master_key = ControlStore(postgres), settings.signing_master_key
    return [
        KeyDoor(Keyring(KeyStore(postgres), clock), clock),
        TargetDoor(control, commands, clock),
        SigningDoor(control, commands, clock, master_key.get_secret_value() if master_key else None),
    ]


def _list_door(settings: IngestSettings, redis: Redis, publisher: Publisher, clock: SystemClock) -> ListDoor | None:
    project, key = settings.legacy_project, settings.intake_key
    if project is None or key is None:
        return None
    reader = EntryReader(project, _legacy_rules(settings), settings.egress(), settings.body_bytes_max)
    return ListDoor(ListStore(redis, key, settings.replica), reader, publisher, clock)


def _legacy_rules(settings: IngestSettings) -> LegacyRules:
    is_json_success = settings.legacy_success == "json"
    return LegacyRules(settings.legacy_project, settings.legacy_past_delay_s, is_json_success)


if __name__ == "__main__":
    run(main)
