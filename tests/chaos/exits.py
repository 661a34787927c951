"""Who ended by itself? The loss of whatever it depends on is no reason for a process to end."""

import asyncio
import signal
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from deploy.local.layout import Layout
from deploy.local.plan import read_status
from tests.chaos.fault import Done

LOOK_AGAIN_S = 0.1
SEEN_WITHIN_MS = 1_000
"""After it happened: the supervisor writes it down, and we look."""
FORETOLD = {"kill": (-signal.SIGKILL,), "restart": (0, 128 + signal.SIGTERM, -signal.SIGTERM)}
"""How a process ends that is asked to. One that was still starting says so as a shell would, or is cut off by it."""


class Exit(NamedTuple):
    process: str
    code: int | None
    at_ms: int


class Exits:
    """`run` fills `seen`."""

    def __init__(self, layout: Layout) -> None:
        self.seen: list[Exit] = []
        self._layout = layout

    async def run(self) -> None:
        known = self._counts()
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            counts = self._counts()
            for process, (exits, code) in counts.items():
                if exits > known.get(process, (0, None))[0]:
                    self.seen.append(Exit(process, code, time.time_ns() // 1_000_000))
            known = counts or known

    def _counts(self) -> dict[str, tuple[int, int | None]]:
        return {
            name: (state.exits, state.last_exit)
            for name, state in read_status(self._layout.status_file).processes.items()
        }


def unplanned(seen: Iterable[Exit], done: Sequence[Done]) -> list[str]:
    """Those that no fault asked for. Each death explains one; a missing queue explains any of a service."""
    asked = [one for one in done if one.fault.kind in FORETOLD]
    strange: list[Exit] = []
    for exit_ in seen:
        cause = next((one for one in asked if _is_asked(exit_, one)), None)
        if cause is not None:
            asked.remove(cause)
        elif not any(_is_refusal(exit_, one) for one in done):
            strange.append(exit_)
    return [f"{process} ended by itself with {code}" for process, code, _ in strange]


def _is_asked(exit_: Exit, done: Done) -> bool:
    return (
        exit_.process == done.fault.target
        and exit_.code in FORETOLD[done.fault.kind]
        and done.began_ms <= exit_.at_ms <= done.ended_ms + SEEN_WITHIN_MS
    )


def _is_refusal(exit_: Exit, done: Done) -> bool:
    is_service = exit_.process.rpartition("-")[2].isdigit()
    return (
        done.fault.kind == "missing"
        and is_service
        and exit_.code == 1
        and done.began_ms <= exit_.at_ms <= done.ended_ms + SEEN_WITHIN_MS
    )
