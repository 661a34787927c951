"""`make cluster-test`: RabbitMQ nodes of a cluster of three die under load; what was lost, and how long was the pause?

    python -m tests.cluster [--tasks-per-s 50]

The stack of compose.yaml and compose.cluster.yaml, with the sink, client and checker of the compose tier. Exit
status 0 only if nothing was lost or came early, every history is complete and the cluster was whole after each act.
Not in CI: it takes about five minutes, and three RabbitMQ nodes and everything else on one machine.
"""

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.client import Client, session
from tests.cluster.nodes import NODES, Cluster, NotWhole
from tests.cluster.pauses import SETTLES_MS, longest_pause_ms
from tests.compose import engine
from tests.compose.docker import CommandFailed
from tests.compose.load import Aftermath, aftermath, steady_load
from tests.compose.outside import Mailpit, Sink
from tests.compose.project import Project

SETTINGS = {"CARILLON_RETRY_SCHEDULE_S": "1,2,5", "CARILLON_DIGEST_CRON": "*/3 * * * * *", "COMPOSE_PROFILES": ""}
QUIET_LOAD_S = 15.0
"""Of load on a whole cluster, before each act."""
DEAD_S = 20.0
SAMPLE_S = 0.05
LOGS = engine.ROOT / ".local" / "cluster.log"


@dataclass(frozen=True)
class Act:
    """Nodes that died together. Times in ms since 1970: dead from, started again, whole again."""

    victims: tuple[str, ...]
    from_ms: int
    started_ms: int
    whole_ms: int
    refused: int
    """Answers 503 while they were dead."""

    @property
    def has_majority(self) -> bool:
        return len(self.victims) < 2


@dataclass
class Run:
    cluster: Cluster
    client: Client
    acts: list[Act] = field(default_factory=list)
    accepted_ms: list[int] = field(default_factory=list)
    """When the number of 201s was seen to have grown."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--tasks-per-s", type=float, default=50.0, help="how many are scheduled (%(default)s)")
    options = parser.parse_args()
    files = (engine.ROOT / "compose.cluster.yaml",)
    project = Project(f"carillon-cluster-{os.getpid()}", SETTINGS, *files)
    try:
        engine.start_engine()
        project.provide_images()
        project.up()
        faults = asyncio.run(run(project, options.tasks_per_s))
    except engine.NotRun as reason:
        say(f"the cluster test did not run: {reason}")
        return 1
    except (CommandFailed, NotWhole) as error:
        faults = [str(error)]
    finally:
        LOGS.parent.mkdir(exist_ok=True)
        LOGS.write_text(project.compose("logs", "--no-color", "--timestamps"))
        project.down()
    say("\n".join([*(f"FAULT: {fault}" for fault in faults), f"what the containers wrote: {LOGS}"]))
    return 1 if faults else 0


def say(line: str) -> None:
    print(line, flush=True)


async def run(project: Project, tasks_per_s: float) -> list[str]:
    key = await asyncio.to_thread(project.secret, "carillon_bootstrap_key")
    seed = secrets.randbelow(2**32)
    async with session(key) as http:
        client = Client(http, [project.url("ingest", 8080)], run=f"cluster-{seed}")
        sink = Sink(http, project.url("sink", 8000))
        now = Run(Cluster(project), client)
        say(f"up; seed {seed}, {tasks_per_s:g} tasks/s; whole after {await now.cluster.whole():.1f} s")
        sampling = asyncio.create_task(_sample(now))
        try:
            async with steady_load(client, seed, tasks_per_s):
                await _play(now)
        except TimeoutError:
            return [f"requests go unanswered; instead of a 201: {dict(client.answers)}"]
        finally:
            sampling.cancel()
        with tempfile.TemporaryDirectory() as folder:
            mailpit = Mailpit(http, project.url("mailpit", 8025), Path(folder))
            found = await aftermath(client, http, sink, mailpit)
    faults = [*found.faults, *_unheard(now.acts)]
    say("\n".join([*_rows(now, found, sink), found.text()]))
    return faults


async def _play(now: Run) -> None:
    """The leader of the busiest queue, then one of the others, then two."""
    first = await asyncio.to_thread(now.cluster.leader_of, "dispatcher.due")
    second = next(node for node in NODES if node != first)
    for victims in ((first,), (second,), (first, second)):
        await asyncio.sleep(QUIET_LOAD_S)
        say(f"queues led: {await asyncio.to_thread(now.cluster.leaders)}; kill -9 {', '.join(victims)}")
        now.acts.append(await _kill(now, victims))
        say(f"  {now.acts[-1]}; {len(now.client.accepted)} accepted, {dict(now.client.answers)}")
    await asyncio.sleep(SETTLES_MS / 1000)


async def _kill(now: Run, victims: Sequence[str]) -> Act:
    refused, from_ms = now.client.answers["HTTP 503"], now_ms()
    await asyncio.to_thread(now.cluster.kill, victims)
    await asyncio.sleep(DEAD_S)
    refused, started_ms = now.client.answers["HTTP 503"] - refused, now_ms()
    await asyncio.to_thread(now.cluster.start, victims)
    await now.cluster.whole()
    return Act(tuple(victims), from_ms, started_ms, now_ms(), refused)


async def _sample(now: Run) -> None:
    seen = 0
    while True:
        if len(now.client.accepted) != seen:
            seen = len(now.client.accepted)
            now.accepted_ms.append(now_ms())
        await asyncio.sleep(SAMPLE_S)


def _unheard(acts: Sequence[Act]) -> list[str]:
    return [f"two of three nodes were dead, and ingest answered no 503: {act}" for act in acts if _is_unheard(act)]


def _is_unheard(act: Act) -> bool:
    return not act.has_majority and not act.refused


def _rows(now: Run, found: Aftermath, sink: Sink) -> list[str]:
    due_ms = {task.id: task.due_ms for task in found.accepted}
    called_ms = [call.at_ms for call in sink.calls]
    rows = []
    for act in now.acts:
        # What the act held up; the next one begins a quiet time later.
        until_ms = act.whole_ms + int(QUIET_LOAD_S * 1000)
        late = [
            call.at_ms - due_ms[call.id]
            for call in sink.calls
            if call.attempt == 1 and call.id in due_ms and act.from_ms <= due_ms[call.id] <= act.whole_ms
        ]
        rows.append(
            f"{' and '.join(act.victims)} dead for {(act.started_ms - act.from_ms) / 1000:.1f} s, "
            f"whole {(act.whole_ms - act.started_ms) / 1000:.1f} s after the start: "
            f"longest pause {longest_pause_ms(called_ms, act.from_ms, until_ms) / 1000:.1f} s without a call, "
            f"{longest_pause_ms(now.accepted_ms, act.from_ms, until_ms) / 1000:.1f} s without a 201; "
            f"first calls at most {max(late) / 1000:.1f} s late, median {sorted(late)[len(late) // 2]} ms; "
            f"{act.refused} answers 503"
        )
    return rows


def now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    sys.exit(main())
