"""How late the first calls were: while nothing was broken, and after all was whole again. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.checker import Accepted, Call, Lateness, spread
from tests.chaos.fault import Done

AFTERWARDS_MS = 5_000
"""So long after a fault its backlog may delay what is due then."""


@dataclass(frozen=True)
class Late:
    quiet: Lateness | None
    """Of tasks due while nothing was broken."""
    quiet_tasks: int
    after_healing_ms: int
    """From the moment that all was healed, or that it was due after that, to the latest first call."""


def check_lateness(
    accepted: Iterable[Accepted], by_id: Mapping[str, Sequence[Call]], done: Sequence[Done], healed_ms: int
) -> Late:
    first = {task: by_id[task.id][0].at_ms for task in accepted if by_id.get(task.id)}
    windows = [(each.began_ms, each.ended_ms + AFTERWARDS_MS) for each in done]
    quiet = [at_ms - task.due_ms for task, at_ms in first.items() if not _is_within(task.due_ms, windows)]
    after = [at_ms - max(task.due_ms, healed_ms) for task, at_ms in first.items() if at_ms > healed_ms]
    return Late(spread(quiet), len(quiet), max(after, default=0))


def _is_within(moment_ms: int, windows: Iterable[tuple[int, int]]) -> bool:
    return any(begin <= moment_ms <= end for begin, end in windows)
