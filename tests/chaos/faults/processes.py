"""Signals: a process dies, is asked to leave, or stands still for a while. Its supervisor starts it again."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from deploy.local.layout import Layout
from deploy.local.processes import PROC, is_alive, is_ours, read_pid

THERE_WITHIN_S = 60.0
"""A service that refuses a missing queue is not there now and then, until the queue is."""
LOOK_AGAIN_S = 0.1
LEAVE: Mapping[str, signal.Signals] = {"postgres": signal.SIGINT}
"""SIGTERM but for Postgres, which would wait for its clients to leave first."""


class NotThere(Exception):
    """There is no such process to be hurt."""


@asynccontextmanager
async def killed(layout: Layout, process: str) -> AsyncIterator[None]:
    """SIGKILL. Raises: NotThere."""
    await _ended(layout, process, signal.SIGKILL)
    yield


@asynccontextmanager
async def restarted(layout: Layout, process: str) -> AsyncIterator[None]:
    """Asked to leave, and left. Raises: NotThere."""
    await _ended(layout, process, LEAVE.get(process, signal.SIGTERM))
    yield


@asynccontextmanager
async def frozen(layout: Layout, process: str) -> AsyncIterator[None]:
    """SIGSTOP, to its children too: Postgres works in them. SIGCONT in the end. Raises: NotThere."""
    pid = await _there(layout, process)
    stopped: list[int] = []
    try:
        while found := [one for one in (pid, *_descendants(pid)) if one not in stopped]:
            stopped += found
            _signal_all(found, signal.SIGSTOP)
        yield
    finally:
        _signal_all(reversed(stopped), signal.SIGCONT)


async def _ended(layout: Layout, process: str, number: signal.Signals) -> None:
    pid = await _there(layout, process)
    os.kill(pid, number)
    while True:
        if not is_alive(pid):
            return
        await asyncio.sleep(LOOK_AGAIN_S)


async def _there(layout: Layout, process: str) -> int:
    """Its pid, as soon as it has one. Raises: NotThere."""
    try:
        async with asyncio.timeout(THERE_WITHIN_S):
            while True:
                pid = read_pid(layout.pid_file(process))
                if pid is not None and is_ours(pid, layout) and is_alive(pid):
                    return pid
                await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError:
        raise NotThere(f"{process} is not there to be hurt: its pid file says {pid}") from None


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    for task in (PROC / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += map(int, task.read_text().split())
    return [one for child in children for one in (child, *_descendants(child))]


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
