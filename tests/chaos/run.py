"""One run: a stack of its own, behind proxies, under load; a plan of faults; and what was kept of the promises."""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.layout import Layout
from deploy.local.plan import Override
from deploy.local.private import private_stack
from tests.chaos import plan, proxies
from tests.chaos.engine import Engine
from tests.chaos.exits import Exits, unplanned
from tests.chaos.fault import KINDS, Fault, Kind
from tests.chaos.faults import House
from tests.chaos.faults.clock import Clocks
from tests.chaos.report import Report
from tests.chaos.trial import RATE, SETTINGS, Trial

FOLDER = Path(".local") / "chaos"
PORT_OFFSET = 3500
Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What `chaos` is asked for."""

    seed: int
    minutes: float
    kinds: Collection[Kind] = KINDS
    targets: Collection[str] = ()
    """Processes, services, servers or links by name; everything unless given."""
    per_minute: float = plan.PER_MINUTE
    rate: float = RATE
    """Tasks a second."""
    replicas: int = 2
    overrides: Mapping[str, Override] = field(default_factory=dict)
    folder: Path = FOLDER
    port_offset: int = PORT_OFFSET

    @property
    def over_s(self) -> float:
        return 60 * self.minutes

    def plan(self) -> tuple[Fault, ...]:
        """Raises: ValueError."""
        return plan.make(
            self.seed,
            self.over_s,
            replicas=self.replicas,
            kinds=self.kinds,
            targets=self.targets,
            per_minute=self.per_minute,
        )


def chaos(run: Run, say: Say) -> Report:
    """Raises: StackError; ValueError when there is nothing to be planned."""
    planned = run.plan()
    layout = Layout((run.folder / "stack").resolve(), run.port_offset)
    overrides = proxies.overrides(layout, run.replicas)
    clocks = None
    if any(fault.kind == "clock" for fault in planned):
        clocks = Clocks(run.folder / "clocks", overrides)
        overrides = merged(overrides, {process: Override(env=clocks.environ(process)) for process in overrides})
    with (
        proxies.standing(layout, run.replicas, random.Random(run.seed)) as standing,
        private_stack(
            layout.root,
            port_offset=run.port_offset,
            replicas=run.replicas,
            settings=SETTINGS,
            overrides=merged(overrides, run.overrides),
        ) as stack,
    ):
        house = House(stack, standing, clocks, SETTINGS)
        return asyncio.run(_tried(run, house, planned, say))


def merged(below: Mapping[str, Override], above: Mapping[str, Override]) -> dict[str, Override]:
    """Both; where they differ, what is said above."""
    return {name: _merged(below.get(name, Override()), above.get(name, Override())) for name in {*below, *above}}


async def _tried(run: Run, house: House, planned: Sequence[Fault], say: Say) -> Report:
    trial = Trial(house.stack, seed=run.seed, over_s=run.over_s, tasks=round(run.rate * run.over_s), say=say)
    exits, engine = Exits(house.stack.layout), Engine(house, say)
    watching = asyncio.create_task(exits.run())
    async with trial.open():
        asking = asyncio.create_task(trial.ask())
        not_healed = await engine.run(planned)
        healed_ms = time.time_ns() // 1_000_000
        say(f"all faults are over; {len(not_healed)} of what they hurt does not serve")
        watching.cancel()
        return await trial.finish(
            done=engine.done,
            planned=planned,
            healed_ms=healed_ms,
            not_healed=not_healed,
            unplanned_exits=unplanned(exits.seen, engine.done),
            asking=asking,
        )


def _merged(below: Override, above: Override) -> Override:
    return Override(
        env=below.env | above.env, server_ports=below.server_ports | above.server_ports, cwd=above.cwd or below.cwd
    )
