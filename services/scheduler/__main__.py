"""The scheduler process: creates and returns in, a row per task, due tasks out at their time."""

from contextlib import AsyncExitStack

from libs.common import topology
from libs.common.admin import AdminServer
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.consumer import BatchConsumer
from libs.common.contracts import CreateTask, ReturnTask
from libs.common.intake import Intake, decoder
from libs.common.lifecycle import Worker, run, run_until_stopped
from libs.common.logs import configure_logs
from libs.common.metrics import build_info
from libs.common.postgres import postgres_pool
from libs.common.publisher import Publisher
from libs.common.settings import load
from libs.common.version import VERSION
from services.scheduler.accept import Acceptor
from services.scheduler.alarm import Alarm
from services.scheduler.fire import Firing
from services.scheduler.keeping import Keeping
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import Store
from services.scheduler.sweep import Sweeper

# 16 packed messages of 100 fill more than three batches: the next one is here when a batch commits.
PREFETCH = 16


async def main() -> None:
    settings = load(SchedulerSettings)
    configure_logs("scheduler", settings.replica, settings.log_level)
    build_info("scheduler", VERSION)

    async with AsyncExitStack() as opened:  # closed last-in first-out, after the drain
        postgres = await opened.enter_async_context(
            postgres_pool(
                settings.postgres_url.get_secret_value(),
                role="carillon_scheduler",
                schema="scheduler",
                application_name=settings.replica,
            )
        )
        store, clock = Store(postgres), SystemClock()
        keeping = Keeping(store, settings.tombstone_days)
        await keeping.prepare()

        amqp_url = settings.amqp_url.get_secret_value()
        publishing = Link(amqp_url, f"{settings.replica} publishes", topology.topology())
        consuming = Link(amqp_url, f"{settings.replica} consumes", topology.topology())
        publisher = Publisher()
        publishing.join(publisher)

        firing = Firing(store, publisher)
        alarm = Alarm(store, firing, clock, horizon_s=settings.horizon_s)
        acceptor = Acceptor(store, publisher, alarm.hold)
        creates = Intake(topology.SCHEDULER_TASKS, decoder(CreateTask), publisher, prefetch=PREFETCH)
        returns = Intake(topology.SCHEDULER_RETURNS, decoder(ReturnTask), publisher, prefetch=PREFETCH)
        consuming.join(returns)
        consuming.join(creates)

        await opened.enter_async_context(publishing)
        await opened.enter_async_context(consuming)
        workers: list[Worker] = [
            AdminServer(
                settings.admin_host,
                settings.admin_port,
                ready={"postgres": postgres.ping, "publishing": publisher.ping, "consuming": consuming.ping},
            ),
            publishing,
            consuming,
            BatchConsumer(returns, acceptor.returns),
            BatchConsumer(creates, acceptor.creates),
            alarm,
            Sweeper(store, firing),
            keeping,
        ]
        await run_until_stopped(workers, drain_s=settings.drain_s)


if __name__ == "__main__":
    run(main)
