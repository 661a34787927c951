"""Ingest, as a process: settings, logs, links, wire, run, drain."""

from contextlib import AsyncExitStack

from aiohttp import web

from libs.common.admin import AdminServer
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.lifecycle import Worker, run, run_until_stopped
from libs.common.logs import configure_logs
from libs.common.metrics import build_info
from libs.common.postgres import postgres_pool
from libs.common.publisher import Publisher
from libs.common.settings import load
from libs.common.topology import topology
from libs.common.tracing import Tracer, tracing
from libs.common.version import VERSION
from services.ingest.auth import Keys
from services.ingest.fallback_door import FallbackDoor
from services.ingest.history import History, history_consumer
from services.ingest.http import Door, HttpServer, build_app
from services.ingest.legacy_door import LegacyDoor, LegacyRules
from services.ingest.maintenance import Maintenance
from services.ingest.parking import Parking, parking_consumer
from services.ingest.settings import IngestSettings
from services.ingest.store import Store
from services.ingest.task_door import TaskDoor


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
        store, publisher = Store(postgres), Publisher()
        maintenance = Maintenance(store, clock, retention_days=settings.retention_days)
        history = history_consumer(History(store, maintenance, clock), publisher)
        parking = parking_consumer(Parking(store, publisher, clock), publisher)

        publish_link = Link(amqp_url, "ingest publish", topology())
        publish_link.join(publisher)
        consume_link = Link(amqp_url, "ingest consume", topology())
        consume_link.join(history.intake)
        consume_link.join(parking.intake)
        for link in (publish_link, consume_link):
            await opened.enter_async_context(link)  # they outlive the drain, which still publishes and acks

        app = _app(settings, store, publisher, clock, tracer)
        http = HttpServer(app, settings.host, settings.port, drain_s=settings.drain_s)
        admin = AdminServer(settings.admin_host, settings.admin_port, ready={"postgres": postgres.ping})
        workers: list[Worker] = [admin, http, history, parking, maintenance, publish_link, consume_link]
        await run_until_stopped(workers, drain_s=settings.drain_s)


def _app(
    settings: IngestSettings, store: Store, publisher: Publisher, clock: SystemClock, tracer: Tracer | None
) -> web.Application:
    keys = Keys(settings.bootstrap_key.get_secret_value())
    rules = LegacyRules(
        settings.legacy_project, settings.legacy_past_delay_s, is_json_success=settings.legacy_success == "json"
    )
    egress = settings.egress_rules(settings.amqp_url, settings.postgres_url, own_ports=[settings.admin_port])
    doors: list[Door] = [
        TaskDoor(publisher, store, clock, egress),
        LegacyDoor(keys, publisher, clock, rules, egress),
        FallbackDoor(publisher, clock),
    ]
    return build_app(doors, keys, version=VERSION, body_bytes_max=settings.body_bytes_max, tracer=tracer)


if __name__ == "__main__":
    run(main)
