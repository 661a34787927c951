"""Keeps the processes of a plan alive, and knows nothing else about them.

One per stack, in a session of its own, so that it outlives the terminal. It reads the plan when it starts and at
each SIGHUP, then stops what is no longer in it, or stands in it differently, and starts what is new. SIGTERM: stop
everything, end.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.local.layout import MARKER, Layout
from deploy.local.plan import Plan, ProcessSpec, ProcessState, Status, read_plan, write_status

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
HEALTHY_AFTER_S = 30.0
"""Alive this long: its next death is a new story, and the pause begins small again."""
LOG_BYTES_MAX = 20 * 1024 * 1024

logger = logging.getLogger("supervisor")


class Keeper:
    """One process, started again whenever it ends, until it is asked to stop."""

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
            return 127
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
        write_pid(self._layout.pid_file(self.spec.name), process.pid)
        logger.info("%s started as pid %d", self.spec.name, process.pid)
        return process


class Supervisor:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._keepers: dict[str, Keeper] = {}
        self._plan_id = ""
        self._told = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._told.set)
        loop.add_signal_handler(signal.SIGTERM, self._ask_to_stop)
        write_pid(self._layout.pid_file("supervisor"), os.getpid())
        while not self._stopping:
            await self._follow(read_plan(self._layout.plan_file))
            await self._told.wait()
            self._told.clear()
        await self._stop(list(self._keepers))
        self._layout.status_file.unlink(missing_ok=True)
        self._layout.pid_file("supervisor").unlink(missing_ok=True)

    def _ask_to_stop(self) -> None:
        self._stopping = True
        self._told.set()

    async def _follow(self, plan: Plan | None) -> None:
        if plan is None:
            logger.error("no plan to read in %s", self._layout.plan_file)
            return
        wanted = {spec.name: spec for spec in plan.processes}
        await self._stop([name for name, keeper in self._keepers.items() if wanted.get(name) != keeper.spec])
        for spec in sorted(plan.processes, key=lambda spec: spec.stage):
            if spec.name not in self._keepers:
                self._keepers[spec.name] = Keeper(spec, self._layout, self._publish)
        self._plan_id = plan.id
        self._publish()

    async def _stop(self, names: list[str]) -> None:
        """Stage by stage, the last started first: services may still need their servers to finish."""
        leaving = [self._keepers[name] for name in names]
        for stage in sorted({keeper.spec.stage for keeper in leaving}, reverse=True):
            now = [keeper for keeper in leaving if keeper.spec.stage == stage]
            await asyncio.gather(*(keeper.stop() for keeper in now))
            for keeper in now:
                logger.info("%s stopped", keeper.spec.name)
                del self._keepers[keeper.spec.name]
            self._publish()

    def _publish(self) -> None:
        states = {name: keeper.state for name, keeper in self._keepers.items()}
        try:
            write_status(self._layout.status_file, Status(plan_id=self._plan_id, processes=states))
        except OSError as error:  # a full disk must not end the one who keeps the others alive
            logger.error("cannot write the status: %s", error)


def make_room(log: Path) -> None:
    """A log that has grown too large becomes `<name>.log.1`, in place of the one before."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_name(log.name + ".1"))


def write_pid(path: Path, pid: int) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(str(pid))
    partial.replace(path)


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    asyncio.run(Supervisor(Layout(Path(os.environ[MARKER]))).run())


if __name__ == "__main__":
    main()
