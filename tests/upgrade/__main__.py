"""`make upgrade-test REF=<revision>`: from that release to this one without a pause; what was lost?

    python -m tests.upgrade REF [--tasks 1500] [--over 75]

On one set of servers: the old release works; this one's set-up step runs beside it; its services join; for a
while both work on the same queues and tables; the old services leave one by one. All under load. Exit status 0 only if
nothing was lost, came early or was parked, every history is complete, and nobody ended but when asked to.
What it guards: each release reads the other's messages, a queue's arguments stay, a migration only adds.
Both run in this virtual environment: a release that needs other libraries is not tried with its own.
"""

import argparse
import asyncio
import random
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.environment import environment
from deploy.local.errors import StackError
from deploy.local.layout import PROJECT, SERVICES
from deploy.local.private import PrivateStack, private_stack
from tests.chaos import aftermath
from tests.chaos.checker import Verdict, check, is_kept, unfinished
from tests.chaos.client import Client, session
from tests.chaos.load import orders
from tests.chaos.sink import Sink
from tests.upgrade.release import Release, ReleaseError, unpack

FOLDER = Path(".local") / "upgrade"
SETTINGS = {"CARILLON_RETRY_SCHEDULE_S": "1,2,5", "CARILLON_DIGEST_CRON": "*/5 * * * * *"}
CALLED_WITHIN_S = 60.0
"""After the last task was due."""
LOOK_AGAIN_S = 0.2
BESIDE_S = 10.0
"""At least so long both work."""
# When, as shares of the run: the new set-up step, the new services, the end of the old ones.
SET_UP_AT, JOIN_AT, LEAVE_AT = 0.10, 0.20, 0.60


@dataclass(frozen=True)
class Report:
    wanted: int
    verdict: Verdict
    unfinished: Mapping[str, str]
    parked: tuple[str, ...]
    answers: Mapping[str, int]

    @property
    def faults(self) -> list[str]:
        verdict = self.verdict
        found = {
            f"{len(verdict.lost)} tasks were lost: {verdict.lost[:5]}": bool(verdict.lost),
            f"{len(verdict.early)} calls came early": bool(verdict.early),
            f"{self.wanted - verdict.accepted} tasks were never accepted": verdict.accepted < self.wanted,
            f"histories do not end as they should: {dict(self.unfinished)}": bool(self.unfinished),
            f"messages were parked: {self.parked[:5]}": bool(self.parked),
        }
        return [text for text, is_so in found.items() if is_so]

    def text(self) -> str:
        verdict, late = self.verdict, self.verdict.lateness_ms
        answers = ", ".join(f"{name} {count}" for name, count in sorted(self.answers.items())) or "none"
        return (
            f"{verdict.accepted} of {self.wanted} accepted, {len(verdict.lost)} lost, {len(verdict.early)} early, "
            f"{verdict.repeated_successes} repeated successes, {verdict.repeated_attempts} repeated attempts, "
            f"{len(self.parked)} parked; lateness p50 {late.p50 if late else 0:.0f} ms, "
            f"max {late.max if late else 0:.0f} ms; refused and repeated requests: {answers}"
        )


def main() -> int:
    options = _parser().parse_args()
    try:
        with private_stack(FOLDER, port_offset=options.port_offset, replicas=0, settings=SETTINGS) as stack:
            report = asyncio.run(run(stack, options))
    except (StackError, ReleaseError) as error:
        say(f"FAULT: {error}")
        return 1
    say("\n".join([report.text(), *(f"FAULT: {fault}" for fault in report.faults)]))
    return 1 if report.faults else 0


def say(line: str) -> None:
    print(line, flush=True)


async def run(stack: PrivateStack, options: argparse.Namespace) -> Report:
    told = environment(SETTINGS, stack.layout)
    old_files = await asyncio.to_thread(unpack, options.ref, FOLDER / "old")
    old = Release(f"the old release ({options.ref})", old_files, 1, stack.layout, told)
    new = Release("this release", PROJECT, 2, stack.layout, told)
    sink = Sink()
    try:
        await old.set_up()
        await asyncio.gather(*(old.start(service) for service in SERVICES))
        say("the old release works")
        async with sink.listening() as sink_url, session(told.api_key) as http:
            client = Client(http, [old.api_url, new.api_url], run=f"upgrade-{secrets.token_hex(4)}")
            wanted = orders(options.tasks, options.over, random.Random(options.seed))
            asking = asyncio.gather(*(client.schedule(order, sink_url) for order in wanted))
            try:
                await roll(old, new, options.over)
                await asking
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await _called(client, sink)
            states = await aftermath.histories(http, [new.api_url], client.accepted)
            new.check_all_live()
    finally:
        old.kill()
        new.kill()
    return Report(
        wanted=options.tasks,
        verdict=check(client.accepted, [call for made in sink.calls.values() for call in made]),
        unfinished=unfinished(client.accepted, states),
        parked=tuple(await aftermath.parked(stack.variables["CARILLON_POSTGRES_URL"])),
        answers=dict(client.answers),
    )


async def roll(old: Release, new: Release, over_s: float) -> None:
    """The upgrade, as docs/operations.md tells it. Raises: ReleaseError."""
    began = time.monotonic()

    async def until(share: float) -> None:
        await asyncio.sleep(began + share * over_s - time.monotonic())

    await until(SET_UP_AT)
    await new.set_up()
    old.check_all_live()
    say(f"{time.monotonic() - began:5.1f} s  the new set-up step has run beside the old services")
    await until(JOIN_AT)
    await asyncio.gather(*(new.start(service) for service in SERVICES))
    joined = time.monotonic() - began
    say(f"{joined:5.1f} s  both releases work")
    await until(max(LEAVE_AT, (joined + BESIDE_S) / over_s))
    for service in SERVICES:
        await old.leave(service)
    left = time.monotonic() - began
    say(f"{left:5.1f} s  the old release has left")
    if left > over_s:
        raise ReleaseError(f"the load was over after {over_s:g} s, before the upgrade was: try a longer --over")


async def _called(client: Client, sink: Sink) -> None:
    deadline = time.monotonic() + CALLED_WITHIN_S
    while time.monotonic() < deadline:
        if all(is_kept(task, sink.calls.get(task.id, ())) for task in client.accepted):
            return
        await asyncio.sleep(LOOK_AGAIN_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade", description=__doc__)
    parser.add_argument("ref", help="the previous release: a tag or any git revision")
    parser.add_argument("--tasks", type=int, default=1500, help="how many are scheduled (%(default)s)")
    parser.add_argument("--over", type=float, default=75.0, help="seconds over which they fall due (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the tasks (%(default)s)")
    parser.add_argument("--port-offset", type=int, default=3900, help="added to every port (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
