"""The peers: how each is run and configured, and what its documentation says of a killed worker.

The reasons of each setting, with the pages, stand at the head of its file in adapters/. None writes a line of log for
each task, where it can be told so; Carillon does, as it always does.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    name: str
    package: str
    """Whose version is reported."""
    adapter: str
    """Its file: `setup`, `submit <json>`, `worker` and `recover` are its verbs, as far as it has them."""
    servers: tuple[str, ...]
    configuration: str
    after_kill: str
    docs: tuple[str, ...]
    worker: tuple[str, ...] = ()
    """The command of a worker; without one, the adapter's own verb."""
    environ: tuple[tuple[str, str], ...] = ()
    """Variables of its own for it."""
    processes: int = 2
    """How many of these commands; those that fork by themselves are one."""
    sets_up: bool = False
    bulk: bool = False
    shares_store: bool = True
    """May tasks be added while a worker runs?"""
    recovery_s: float = 10.0
    """How long after a kill it has begun to run again all that it will, as its documentation has it."""
    recovers: bool = False
    """Does an operator have to act after a kill?"""


CELERY = Peer(
    name="Celery",
    package="celery",
    adapter="celery_tasks.py",
    servers=("rabbitmq",),
    worker=("celery", "-A", "celery_tasks", "worker", "-c", "2", "-l", "ERROR"),
    processes=1,
    configuration="RabbitMQ, ETA; 2 processes (prefork), late acknowledgement, publisher confirms, prefetch multiplier "
    "64, no results",
    after_kill="unacknowledged messages are delivered again at once",
    docs=(
        "https://docs.celeryq.dev/en/stable/userguide/workers.html",
        "https://docs.celeryq.dev/en/stable/userguide/optimizing.html",
        "https://docs.celeryq.dev/en/stable/faq.html",
    ),
)
DRAMATIQ = Peer(
    name="Dramatiq",
    package="dramatiq",
    adapter="dramatiq_tasks.py",
    servers=("rabbitmq",),
    worker=("dramatiq", "--processes", "2", "--threads", "8", "dramatiq_tasks"),
    processes=1,
    configuration="RabbitMQ, delay; 2 processes of 8 threads, publisher confirms",
    after_kill="unacknowledged messages are delivered again at once",
    docs=("https://dramatiq.io/guide.html", "https://dramatiq.io/reference.html"),
)
ARQ = Peer(
    name="arq",
    package="arq",
    adapter="arq_tasks.py",
    servers=("redis",),
    worker=("arq", "arq_tasks.WorkerSettings", "--custom-log-dict", "arq_tasks.LOGS"),
    configuration="Redis; 2 processes of 100 jobs, poll every 0.1 s, no results, job limit 10 s",
    recovery_s=20.0,
    after_kill="jobs run again when the claim of the dead worker ends, 20 s here",
    docs=("https://arq-docs.helpmanual.io/",),
)
_PROCRASTINATE = ("procrastinate", "--log-level", "warning", "--app", "procrastinate_tasks.app")
PROCRASTINATE = Peer(
    name="Procrastinate",
    package="procrastinate",
    adapter="procrastinate_tasks.py",
    servers=("postgres",),
    worker=(*_PROCRASTINATE, "worker", "-c", "100", "-p", "0.1", "--delete-jobs", "successful"),
    sets_up=True,
    bulk=True,
    configuration="PostgreSQL; 2 processes of 100 jobs, poll every 0.1 s, done jobs deleted, stalled jobs put back",
    recovery_s=45.0,
    after_kill="jobs run again by a periodic task, 30 s after the worker's last heartbeat",
    docs=(
        "https://procrastinate.readthedocs.io/en/stable/howto/basics/worker.html",
        "https://procrastinate.readthedocs.io/en/stable/howto/basics/batch_defer.html",
        "https://procrastinate.readthedocs.io/en/stable/howto/production/retry_stalled_jobs.html",
    ),
)
APSCHEDULER = Peer(
    name="APScheduler",
    package="apscheduler",
    adapter="apscheduler_tasks.py",
    servers=("postgres",),
    processes=1,
    shares_store=False,
    configuration="version 3 (4 is a pre-release); PostgreSQL by SQLAlchemyJobStore; 1 process of 50 threads, since "
    "workers cannot share a store; tasks are added while it is stopped",
    after_kill="a job leaves the store when a thread takes it: what was in hand is lost",
    docs=(
        "https://apscheduler.readthedocs.io/en/3.x/userguide.html",
        "https://apscheduler.readthedocs.io/en/3.x/faq.html",
    ),
)
BULLMQ = Peer(
    name="BullMQ",
    package="bullmq",
    adapter="bullmq.mjs",
    servers=("redis",),
    processes=1,
    bulk=True,
    configuration="Redis; 1 process of 200 jobs (a second one cost half as much CPU again), done jobs removed",
    recovery_s=65.0,
    after_kill="stalled jobs are found within two checks 30 s apart, and run again",
    docs=(
        "https://docs.bullmq.io/guide/workers/concurrency",
        "https://docs.bullmq.io/guide/going-to-production",
        "https://docs.bullmq.io/guide/jobs/stalled",
    ),
)
PG_BOSS = Peer(
    name="pg-boss",
    package="pg-boss",
    adapter="pg-boss.mjs",
    servers=("postgres",),
    sets_up=True,
    bulk=True,
    configuration="PostgreSQL; 2 processes of 4 pollers every 0.5 s, batches of 100, bursts while batches are full, "
    "heartbeat 10 s",
    recovery_s=40.0,
    after_kill="jobs whose heartbeat stopped for 10 s are found by the supervisor and run again",
    docs=("https://pgboss.io/api/workers", "https://pgboss.io/api/jobs", "https://pgboss.io/api/queues"),
)
GRAPHILE_WORKER = Peer(
    name="graphile-worker",
    package="graphile-worker",
    adapter="graphile-worker.mjs",
    servers=("postgres",),
    sets_up=True,
    bulk=True,
    recovers=True,
    environ=(("NO_LOG_SUCCESS", "1"),),
    processes=1,  # faster than two on two cores: bursts of 5,000 drained at 8,913/s, with two at 7,508/s
    configuration="PostgreSQL; 1 process of 24 jobs, pool of 25, local queue of 500, batched completion, poll every "
    "0.1 s",
    after_kill="jobs of a dead worker stay locked for 4 hours, or until an operator calls forceUnlockWorkers",
    docs=(
        "https://worker.graphile.org/docs/performance",
        "https://worker.graphile.org/docs/config",
        "https://worker.graphile.org/docs/admin-functions",
    ),
)

PEERS = (CELERY, DRAMATIQ, ARQ, PROCRASTINATE, APSCHEDULER, BULLMQ, PG_BOSS, GRAPHILE_WORKER)
