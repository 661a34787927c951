"""Keeps the processes of a plan alive, and knows nothing else about them.

One per stack, in a session of its own, so that it outlives the terminal. It reads the plan when it starts and at
each SIGHUP, then stops what is no longer in it, or stands in it differently, and starts what is new. SIGTERM: stop
everything, end.
"""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from deploy.local.keeper import Keeper, write_pid
from deploy.local.layout import MARKER, Layout
from deploy.local.plan import Plan, Status, read_plan, write_status

logger = logging.getLogger("supervisor")


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


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    asyncio.run(Supervisor(Layout(Path(os.environ[MARKER]))).run())


if __name__ == "__main__":
    main()
