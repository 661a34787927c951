"""The plan of a run: which fault, of what, when and for how long. Pure: a seed in, the same faults out.

Each target has a lane, in which one fault follows another and leaves time to serve between them. Lanes do not wait for
each other: several things are broken at a time, but never one of them the whole time, nor the servers together.
"""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence

from deploy.local.layout import SERVICES, replica_name
from libs.common import topology
from tests.chaos.fault import KINDS, Fault, Kind
from tests.chaos.links import links

SERVERS = ("rabbitmq", "postgres", "redis")
RETRY_SCHEDULE_S = (1.0, 2.0, 5.0)
"""The run's: its rungs are queues too."""
PER_MINUTE = 12.0
# What never serves proves nothing, and others wait for it in vain.
SERVES_S = 5.0
BUSY_SHARE_MAX = 0.4
SERVERS_BUSY_SHARE_MAX = 0.5
# Not in the first seconds, when nothing is under way yet, nor in the last, so that the last ones too meet a load.
FIRST_SHARE, LAST_SHARE = 0.05, 0.90
LONGEST_SHARE = 0.25
"""Of a short run, one fault takes no more."""
TRIES = 200

SHARES: Mapping[Kind, int] = {
    "kill": 4,
    "freeze": 3,
    "restart": 2,
    "clock": 2,
    "alarm": 1,
    "full": 2,
    "missing": 1,
    "flush": 1,
    "latency": 2,
    "reset": 2,
    "slice": 2,
    "half_open": 3,
    "limit_data": 2,
    "refuse": 2,
}
"""How often a kind comes, beside the others."""
LENGTH_S: Mapping[Kind, tuple[float, float]] = {
    "freeze": (2.0, 25.0),
    "clock": (5.0, 30.0),
    "alarm": (3.0, 10.0),
    "full": (3.0, 15.0),
    "missing": (1.0, 4.0),
    "flush": (0.0, 0.0),
    "latency": (5.0, 25.0),
    "reset": (3.0, 15.0),
    "slice": (5.0, 25.0),
    "half_open": (5.0, 25.0),
    "limit_data": (3.0, 15.0),
    "refuse": (3.0, 20.0),
}
BACK_S = {"rabbitmq": 12.0, "postgres": 4.0, "redis": 2.0}
"""How long a death takes, more or less; a service's:"""
SERVICE_BACK_S = 4.0
CLOCK_STEPS_S = (-3600.0, -60.0, -2.0, 2.0, 60.0, 3600.0)
CLOCK_STEPS_OF_INGEST_S = (-5.0, -2.0, 2.0, 5.0)
"""ingest's clock is what "now" and a delay mean, so a step moves what is asked for, not what is done about it."""
UNPROMISED = (topology.INGEST_REPLICAS, topology.DISPATCHER_COMMANDS, topology.MAILER_COMMANDS)
"""Queues whose messages are said again or asked again: deleted, they cost nothing but time."""


def make(
    seed: int,
    over_s: float,
    *,
    replicas: int = 2,
    kinds: Collection[Kind] = KINDS,
    targets: Collection[str] = (),
    per_minute: float = PER_MINUTE,
) -> tuple[Fault, ...]:
    """In the order of time. `targets`: processes, services or links by name; everything unless given.

    Raises: ValueError for a target that nobody is, or when no kind fits any of them.
    """
    dice = random.Random(seed)
    choices = choose(kinds, targets, replicas)
    planned: list[Fault] = []
    for kind in _deck([kind for kind in KINDS if choices.get(kind)], round(per_minute * over_s / 60), dice):
        tries = (_draw(kind, choices[kind], over_s, dice) for _ in range(TRIES))
        if fault := next((fault for fault in tries if _fits(fault, planned, over_s)), None):
            planned.append(fault)
    return tuple(sorted(planned, key=lambda fault: fault.at_s))


def choose(kinds: Collection[Kind], targets: Collection[str], replicas: int) -> dict[Kind, list[str]]:
    """What each of these kinds can befall, of these targets. Raises: ValueError."""
    reach = _reach(replicas)
    known = {name for names in reach.values() for target in names for name in _names(target)}
    if strangers := set(targets) - known:
        raise ValueError(
            f"nothing here is called {', '.join(sorted(strangers))}: choose from {', '.join(sorted(known))}"
        )
    chosen = {
        kind: [target for target in reach[kind] if not targets or _names(target) & set(targets)] for kind in kinds
    }
    if not any(chosen.values()):
        raise ValueError(f"{', '.join(kinds)} cannot befall {', '.join(targets)}")
    return chosen


def lane(fault: Fault) -> str:
    """Faults of one lane come one after another. A clock may go wrong whatever else does."""
    return f"the clock of {fault.target}" if fault.kind == "clock" else fault.target


def lanes(planned: Sequence[Fault]) -> dict[str, list[Fault]]:
    made: dict[str, list[Fault]] = {}
    for fault in planned:
        made.setdefault(lane(fault), []).append(fault)
    return made


def bounded_queues() -> list[str]:
    """Those that refuse when they are full, and that a run fills."""
    table = topology.topology(RETRY_SCHEDULE_S).queues
    return [
        queue.name
        for queue in table
        if queue.arguments.get("x-overflow") == "reject-publish"
        and not queue.name.startswith("mailer.retry.")
        and ("x-max-length" in queue.arguments or "x-max-length-bytes" in queue.arguments)
    ]


def _reach(replicas: int) -> dict[Kind, list[str]]:
    services = [replica_name(service, number) for service in SERVICES for number in range(1, replicas + 1)]
    everybody, between = [*services, *SERVERS], [str(link) for link in links(replicas)]
    of_some: dict[Kind, list[str]] = {
        "kill": everybody,
        "freeze": everybody,
        "restart": everybody,
        "clock": services,
        "alarm": ["rabbitmq"],
        "full": ["rabbitmq"],
        "missing": ["rabbitmq"],
        "flush": ["redis"],
    }
    return {kind: of_some.get(kind, between) for kind in KINDS}


def _names(target: str) -> set[str]:
    """By which it can be asked for: its own; of a replica also its service's, of a link its server's."""
    process, arrow, server = target.partition(">")
    service = process.rpartition("-")[0]
    return {target, f"{service}>{server}", f">{server}"} if arrow else {target, service or target}


def _deck(kinds: Sequence[Kind], count: int, dice: random.Random) -> Iterator[Kind]:
    """Shuffled decks, one after another, so that even a short run meets different kinds."""
    cards = [kind for kind in kinds for _ in range(SHARES[kind])]
    deck: list[Kind] = []
    for _ in range(count):
        if not deck:
            deck = dice.sample(cards, len(cards))
        yield deck.pop()


def _draw(kind: Kind, targets: Sequence[str], over_s: float, dice: random.Random) -> Fault:
    target = dice.choice(targets)
    expected_s = BACK_S.get(target, SERVICE_BACK_S)
    shortest_s, longest_s = LENGTH_S.get(kind, (expected_s, expected_s))
    for_s = min(dice.uniform(shortest_s, longest_s), LONGEST_SHARE * over_s)
    at_s = dice.uniform(FIRST_SHARE * over_s, LAST_SHARE * over_s - for_s)
    return Fault(round(at_s, 3), kind, target, round(for_s, 3), _parameters(kind, target, dice))


def _parameters(kind: Kind, target: str, dice: random.Random) -> dict[str, float | str]:
    match kind:
        case "clock":
            steps_s = CLOCK_STEPS_OF_INGEST_S if target.startswith("ingest") else CLOCK_STEPS_S
            return {"by_s": dice.choice(steps_s)}
        case "full":
            return {"queue": dice.choice(bounded_queues())}
        case "missing":
            return {"queue": dice.choice(UNPROMISED)}
        case "latency":
            return {"mean_ms": 300, "jitter_ms": 200}
        case "reset":
            return {"after_ms": dice.choice((0, 20, 200, 2000))}
        case "slice":
            return {"bytes": dice.choice((1, 16, 128, 1024)), "pause_ms": dice.choice((1, 5, 20))}
        case "half_open":
            return {"then": dice.choice(("resume", "reset"))}
        case "limit_data":
            return {"bytes": dice.choice((10, 500, 5_000, 50_000))}
        case _:
            return {}


def _fits(fault: Fault, planned: Sequence[Fault], over_s: float) -> bool:
    beside = [other for other in planned if lane(other) == lane(fault)]
    if any(fault.at_s < other.end_s + SERVES_S and other.at_s < fault.end_s + SERVES_S for other in beside):
        return False
    if sum(other.for_s for other in beside) + fault.for_s > BUSY_SHARE_MAX * over_s:
        return False
    of_servers = sum(other.for_s for other in planned if other.target in SERVERS)
    return fault.target not in SERVERS or of_servers + fault.for_s <= SERVERS_BUSY_SHARE_MAX * over_s
