"""One process, started again whenever it ends, with its log and its pid file.

The pause between two starts grows from 0.2 s to 5 s, so that a process with bad settings does not burn the machine.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from deploy.local.layout import Layout
from deploy.local.plan import ProcessSpec, ProcessState

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
HEALTHY_AFTER_S = 30.0
"""Alive this long: its next death is a new story, and the pause begins small again."""
LOG_BYTES_MAX = 20 * 1024 * 1024
NOT_STARTED = 127
"""The exit status that stands for a program that could not be started at all, as in a shell."""

logger = logging.getLogger("supervisor")


class Keeper:
    """Begins at once; `changed` is called at each start and each end."""

    def __init__(self, spec: ProcessSpec, layout: Layout, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.state = ProcessState()
        self._layout = layout
        self._changed = changed
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._keep(), name=spec.name)

    async def stop(self) -> None:
        self._stopping.set()
        self._signal(self.spec.stop_signal)
        try:
            await asyncio.wait_for(asyncio.shield(self._task), self.spec.stop_timeout_s)
        except TimeoutError:
            logger.warning("%s did not stop within %.0f s, killing it", self.spec.name, self.spec.stop_timeout_s)
            self._signal(signal.SIGKILL)
            await self._task
        self._layout.pid_file(self.spec.name).unlink(missing_ok=True)

    def _signal(self, number: int) -> None:
        if self.state.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.state.pid, number)

    async def _keep(self) -> None:
        pause_s, now = FIRST_PAUSE_S, asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started_at = now()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            if now() - started_at >= HEALTHY_AFTER_S:
                pause_s = FIRST_PAUSE_S
            self.state.exits, self.state.last_exit = self.state.exits + 1, code
            self._changed()
            logger.warning("%s ended with %s, starting it again in %.1f s", self.spec.name, code, pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _run_once(self) -> int:
        try:
            process = await self._start()
        except OSError as error:  # the program is gone, the disk is full, too many processes
            logger.error("%s cannot start: %s", self.spec.name, error)
            return NOT_STARTED
        self.state.pid = process.pid
        self._changed()
        if self._stopping.is_set():  # asked to stop while it was being started: that signal met nobody
            self._signal(self.spec.stop_signal)
        code = await process.wait()
        self.state.pid = None
        return code

    async def _start(self) -> asyncio.subprocess.Process:
        log_path = self._layout.log_file(self.spec.name)
        make_room(log_path)
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                cwd=self.spec.cwd,
                env=os.environ | self.spec.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with contextlib.suppress(OSError):  # a full disk: it runs all the same, and the marker finds it
            write_pid(self._layout.pid_file(self.spec.name), process.pid)
        logger.info("%s started as pid %d", self.spec.name, process.pid)
        return process


def make_room(log: Path) -> None:
    """A log that has grown too large becomes `<name>.log.1`, in place of the one before."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_name(log.name + ".1"))


def write_pid(path: Path, pid: int) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(f"{pid}\n")
    partial.replace(path)
