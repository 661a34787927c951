"""The scheduler process: creates and returns in, a row per task, due tasks out at their time."""

from contextlib import AsyncExitStack

from libs.common import topology
from libs.common.admin import AdminServer
from libs.common.asking import Replier, asked_decoder
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.consumer import BatchConsumer, ItemConsumer
from libs.common.contracts import CreateTask, ReturnTask, SchedulerCommand
from libs.common.heartbeat import Heartbeat
from libs.common.intake import Intake, decoder
from libs.common.lifecycle import Worker, run, run_until_stopped
from libs.common.logs import configure_logs
from libs.common.metrics import build_info
from libs.common.postgres import Postgres, postgres_pool, until_available
from libs.common.publisher import Publisher
from libs.common.settings import load
from libs.common.version import VERSION
from services.scheduler.accept import Acceptor
from services.scheduler.alarm import Alarm
from services.scheduler.commands import TaskCommands
from services.scheduler.desk import Desk
from services.scheduler.fire import Firing
from services.scheduler.keeping import Keeping
from services.scheduler.lateness import Causes
from services.scheduler.replicas import Replicas
from services.scheduler.schedule_commands import ScheduleCommands
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import Store
from services.scheduler.store_commands import CommandStore
from services.scheduler.store_replicas import ReplicaStore
from services.scheduler.store_schedules import ScheduleStore
from services.scheduler.sweep import Sweeper
from services.scheduler.timetable import Timetable
from services.scheduler.vitals import VitalSigns

# 16 packed messages of 100 fill more than three batches: the next one is here when a batch commits.
PREFETCH = 16
# Consumers of creates and returns, four commands, the loops (alarm two, sweep, timetable, replicas), probes: with room.
POSTGRES_CONNECTIONS = 16
VITALS = {
    "waiting": "carillon_scheduler_waiting_tasks",
    "overdue": "carillon_scheduler_overdue_tasks",
    "overdue_oldest_s": "carillon_scheduler_overdue_oldest_seconds",
}


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
                max_size=POSTGRES_CONNECTIONS,
            )
        )
        store = Store(postgres)
        keeping = Keeping(store, ScheduleStore(postgres), settings.tombstone_days)
        await keeping.prepare()

        amqp_url = settings.amqp_url.get_secret_value()
        publishing = Link(amqp_url, f"{settings.replica} publishes", topology.topology())
        consuming = Link(amqp_url, f"{settings.replica} consumes", topology.topology())
        workers = await _workers(settings, postgres, store, publishing, consuming)
        await opened.enter_async_context(publishing)
        await opened.enter_async_context(consuming)
        await run_until_stopped([*workers, keeping], drain_s=settings.drain_s)


async def _workers(
    settings: SchedulerSettings, postgres: Postgres, store: Store, publishing: Link, consuming: Link
) -> list[Worker]:
    clock, publisher, replier = SystemClock(), Publisher(), Replier()
    publishing.join(publisher)
    publishing.join(replier)

    firing = Firing(store, publisher, Causes(await until_available(store.now)), clock)
    alarm = Alarm(store, firing, clock, horizon_s=settings.horizon_s)
    replicas = Replicas(ReplicaStore(postgres), settings.replica, alarm.take)
    await replicas.join()
    acceptor = Acceptor(store, publisher, alarm.hold, clock)
    schedules = ScheduleStore(postgres)
    timetable = Timetable(schedules, publisher)
    desk = Desk(
        TaskCommands(CommandStore(postgres), publisher, replier, alarm.hold, clock),
        ScheduleCommands(schedules, publisher, replier, timetable.nudge, clock),
    )

    returns = Intake(topology.SCHEDULER_RETURNS, decoder(ReturnTask), publisher, prefetch=PREFETCH)
    commands = Intake(topology.SCHEDULER_COMMANDS, asked_decoder(SchedulerCommand), publisher, prefetch=PREFETCH)
    creates = Intake(topology.SCHEDULER_TASKS, decoder(CreateTask), publisher, prefetch=PREFETCH)
    for intake in (returns, commands, creates):
        consuming.join(intake)
    return [
        AdminServer(
            settings.admin_host,
            settings.admin_port,
            ready={"postgres": postgres.ping, "publishing": publisher.ping, "consuming": consuming.ping},
        ),
        publishing,
        consuming,
        BatchConsumer(returns, acceptor.returns),
        BatchConsumer(creates, acceptor.creates),
        ItemConsumer(commands, desk.handle, desk.slots),
        replicas,
        alarm,
        timetable,
        Sweeper(store, firing),
        VitalSigns(store, schedules),
        Heartbeat("scheduler", settings.replica, publisher, clock, VITALS),
    ]


if __name__ == "__main__":
    run(main)
