"""Every exchange, queue and binding of Carillon, as data: names stand nowhere else.

What identifies a queue (type, TTL, dead-letter exchange, bounds) stands in its arguments, so a changed value needs
a new name (`...v2`). `libs/common/declaration.py` declares the table (set-up step) or checks it (services).
Why each argument is there: ARCHITECTURE.md, "Exchanges and queues".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

MIB = 1024 * 1024
GIB = 1024 * MIB

# The third delivery is taken apart and the fifth crash parks, so fifty is out of reach for healthy work
# and still ends a message that kills every process that takes it.
DELIVERY_LIMIT = 50
# RabbitMQ 4 drops at 20 by default where no dead-letter exchange is set; parking must never drop.
DELIVERY_LIMIT_OUT_OF_REACH = 1_000_000

MAILER_RUNGS_MS = (30_000, 300_000, 1_800_000)
DEFAULT_RETRY_SCHEDULE_S = (5.0, 15.0, 30.0, 180.0, 3600.0, 7200.0)


@dataclass(frozen=True)
class Exchange:
    name: str
    type: Literal["direct", "fanout", "topic"]


@dataclass(frozen=True)
class Queue:
    """A durable quorum queue."""

    name: str
    arguments: Mapping[str, str | int] = field(hash=False)


@dataclass(frozen=True)
class Binding:
    exchange: str
    key: str
    queue: str


@dataclass(frozen=True)
class Route:
    """Where to publish, and how much of it may share one AMQP message."""

    exchange: str
    key: str
    items_max: int = 100
    bytes_max: int = 64 * 1024


@dataclass(frozen=True)
class Topology:
    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


# Queues, by the name their consumer uses.
SCHEDULER_TASKS = "scheduler.tasks"
SCHEDULER_COMMANDS = "scheduler.commands"
SCHEDULER_RETURNS = "scheduler.returns"
DISPATCHER_DUE = "dispatcher.due"
DISPATCHER_RETRY_DUE = "dispatcher.retry-due"
DISPATCHER_COMMANDS = "dispatcher.commands"
INGEST_HISTORY = "ingest.history"
INGEST_REPLICAS = "ingest.replicas"
FALLBACK = "FallbackAPIQueue"
MAILER_OUTBOX = "mailer.outbox"
MAILER_COMMANDS = "mailer.commands"
MAILER_MEMORY = "mailer.memory"
PARKING = "parking"

PARKING_EXCHANGE = "carillon.parking"
RETRY_DUE_EXCHANGE = "carillon.retry-due"
MAILER_RETRY_DUE_EXCHANGE = "carillon.mailer-retry-due"

# Routes, by what travels on them.
CREATE = Route("carillon.tasks", "create")
RETURN = Route("carillon.tasks", "return")
SCHEDULER_COMMAND = Route("carillon.tasks", "command", items_max=1)
DUE = Route("carillon.due", "due", items_max=20)
DISPATCHER_COMMAND = Route("carillon.dispatch", "command", items_max=1)
RETRY_DUE = Route(RETRY_DUE_EXCHANGE, "", items_max=20)
TASK_EVENT = Route("carillon.events", "task.event")
ATTEMPT_EVENT = Route("carillon.events", "attempt.event")
TARGET_EVENT = Route("carillon.events", "target.event")
REPLICA_SEEN = Route("carillon.events", "replica.seen")
FALLBACK_ENTRY = Route("carillon.fallback", "fallback")
DIGEST_PAGE = Route("carillon.digest", "page", items_max=1)
URGENT_NOTICE = Route("carillon.digest", "notice", items_max=1)
DIGEST_MEMORY = Route("carillon.digest", "memory", items_max=1)
MAILER_COMMAND = Route("carillon.mailer", "command", items_max=1)
PARKED = Route(PARKING_EXCHANGE, "", items_max=1)


def rung_ms(delay_s: float) -> int:
    return round(delay_s * 1000)


def rung(delay_ms: int) -> Route:
    """The rung on which a task waits exactly `delay_ms`."""
    return Route("carillon.retry", str(delay_ms), items_max=20)


def mailer_rung(delay_ms: int) -> Route:
    return Route("carillon.mailer-retry", str(delay_ms), items_max=1)


def rung_queue_name(delay_ms: int) -> str:
    return f"dispatcher.retry.{delay_ms}"


# Where a consumer publishes an item of its queue again, alone. dispatcher.due goes through retry-due, which has no
# bound: a full dispatcher.due would refuse what was already taken from it.
REPUBLISH: Mapping[str, Route] = {
    SCHEDULER_TASKS: CREATE,
    SCHEDULER_RETURNS: RETURN,
    SCHEDULER_COMMANDS: SCHEDULER_COMMAND,  # an asker whose command crashed its handler hears nothing
    DISPATCHER_DUE: RETRY_DUE,
    DISPATCHER_RETRY_DUE: RETRY_DUE,
    DISPATCHER_COMMANDS: DISPATCHER_COMMAND,
    INGEST_HISTORY: TASK_EVENT,
    INGEST_REPLICAS: REPLICA_SEEN,
    MAILER_OUTBOX: DIGEST_PAGE,
    MAILER_COMMANDS: MAILER_COMMAND,
    FALLBACK: FALLBACK_ENTRY,
}


def topology(retry_schedule_s: Iterable[float] = ()) -> Topology:
    """The whole table, with one rung per distinct value of `retry_schedule_s`."""
    rungs_ms = sorted({rung_ms(delay_s) for delay_s in retry_schedule_s})
    mailer_rungs = tuple(_rung(f"mailer.retry.{ms}", ms, MAILER_RETRY_DUE_EXCHANGE) for ms in MAILER_RUNGS_MS)
    rungs = tuple(_rung(rung_queue_name(ms), ms, RETRY_DUE_EXCHANGE) for ms in rungs_ms)
    return Topology(
        exchanges=_EXCHANGES,
        queues=(*_QUEUES, *mailer_rungs, *rungs),
        bindings=(
            *_BINDINGS,
            *(Binding("carillon.mailer-retry", str(ms), f"mailer.retry.{ms}") for ms in MAILER_RUNGS_MS),
            *(Binding("carillon.retry", str(ms), rung_queue_name(ms)) for ms in rungs_ms),
        ),
    )


def _work(
    name: str, *, bytes_max: int | None = None, messages_max: int | None = None, is_single_active: bool = False
) -> Queue:
    """A queue that somebody consumes; what it can't deliver goes to parking, confirmed (at-least-once)."""
    arguments: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": PARKING_EXCHANGE,
        "x-dead-letter-strategy": "at-least-once",
        # Without it at-least-once silently degrades to at-most-once, bounded or not.
        "x-overflow": "reject-publish",
    }
    if bytes_max is not None:
        arguments["x-max-length-bytes"] = bytes_max
    if messages_max is not None:
        arguments["x-max-length"] = messages_max
    if is_single_active:
        arguments["x-single-active-consumer"] = True
    return Queue(name, arguments)


def _rung(name: str, delay_ms: int, then: str) -> Queue:
    """A queue that nobody consumes: after `delay_ms` its messages go on to the exchange `then`."""
    return Queue(
        name,
        {
            "x-queue-type": "quorum",
            "x-message-ttl": delay_ms,
            "x-dead-letter-exchange": then,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-max-length-bytes": GIB,
        },
    )


_EXCHANGES = (
    Exchange("carillon.tasks", "direct"),
    Exchange("carillon.due", "direct"),
    Exchange("carillon.retry", "direct"),
    Exchange(RETRY_DUE_EXCHANGE, "fanout"),
    Exchange("carillon.dispatch", "direct"),
    Exchange("carillon.events", "topic"),
    Exchange("carillon.fallback", "direct"),
    Exchange("carillon.digest", "direct"),
    Exchange("carillon.mailer", "direct"),
    Exchange("carillon.mailer-retry", "direct"),
    Exchange(MAILER_RETRY_DUE_EXCHANGE, "fanout"),
    Exchange(PARKING_EXCHANGE, "fanout"),
)

_QUEUES = (
    _work(SCHEDULER_TASKS, bytes_max=GIB),  # full: ingest answers 503
    _work(SCHEDULER_COMMANDS, bytes_max=64 * MIB),
    _work(SCHEDULER_RETURNS, bytes_max=4 * GIB),  # larger than its source: a return is never turned away first
    _work(DISPATCHER_DUE, bytes_max=64 * MIB, messages_max=2_000),  # the backlog stays in Postgres
    _work(DISPATCHER_RETRY_DUE),  # a bound would stall the rungs' dead-letter workers
    _work(DISPATCHER_COMMANDS, bytes_max=16 * MIB),
    _work(INGEST_HISTORY, bytes_max=GIB),
    # Heartbeats: the newest matter, and none is worth keeping when nobody reads them.
    Queue(INGEST_REPLICAS, {"x-queue-type": "quorum", "x-max-length": 1_000, "x-delivery-limit": DELIVERY_LIMIT}),
    _work(FALLBACK, bytes_max=256 * MIB, is_single_active=True),  # one digest, whichever replica collects it
    _work(MAILER_OUTBOX),
    _work(MAILER_COMMANDS, bytes_max=16 * MIB),
    # One message, the newest, that is looked at and given back.
    Queue(
        MAILER_MEMORY,
        {"x-queue-type": "quorum", "x-max-length": 1, "x-delivery-limit": DELIVERY_LIMIT_OUT_OF_REACH},
    ),
    Queue(PARKING, {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT_OUT_OF_REACH}),
)

_BINDINGS = (
    Binding("carillon.tasks", "create", SCHEDULER_TASKS),
    Binding("carillon.tasks", "command", SCHEDULER_COMMANDS),
    Binding("carillon.tasks", "return", SCHEDULER_RETURNS),
    Binding("carillon.due", "due", DISPATCHER_DUE),
    Binding(RETRY_DUE_EXCHANGE, "", DISPATCHER_RETRY_DUE),
    Binding("carillon.dispatch", "command", DISPATCHER_COMMANDS),
    *(
        Binding("carillon.events", f"{subject}.*", INGEST_HISTORY)
        for subject in ("task", "attempt", "schedule", "target", "service")
    ),
    Binding("carillon.events", "replica.*", INGEST_REPLICAS),
    Binding("carillon.fallback", "fallback", FALLBACK),
    Binding("carillon.digest", "page", MAILER_OUTBOX),
    Binding("carillon.digest", "notice", MAILER_OUTBOX),
    Binding("carillon.digest", "memory", MAILER_MEMORY),
    Binding("carillon.mailer", "command", MAILER_COMMANDS),
    Binding(MAILER_RETRY_DUE_EXCHANGE, "", MAILER_OUTBOX),
    Binding(PARKING_EXCHANGE, "", PARKING),
)
