"""`make chaos`: kill -9 everything under load and count what was lost.

    python -m tests.chaos.kill [--tasks 2000] [--over 120] [--kills 3] [--seed N] [--replicas 2]
    python -m tests.chaos.kill --victims scheduler,rabbitmq,postgres --kills-in-all 30 --over 240 --tasks 4000

A stack of its own, two of every service. While a client schedules tasks, every service process and every server dies
`--kills` times by SIGKILL, or some of them so many times in all. Exit status 0 only if nothing was lost, nothing came
early, every history is complete, a death explains whatever came twice and everything was really killed. The same seed
asks for the same tasks and the same deaths; the rest is the machine's.
"""

import argparse
import asyncio
import random
import secrets
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deploy.local.errors import StackError
from deploy.local.private import PrivateStack, private_stack
from tests.chaos import aftermath, killer
from tests.chaos.checker import Accepted, check, is_kept, unfinished
from tests.chaos.client import Client, session
from tests.chaos.duplicates import reckon
from tests.chaos.load import notice_times_s, orders
from tests.chaos.report import Report, text
from tests.chaos.sink import Sink
from tests.chaos.tap import emissions, open_tap

FOLDER = Path(".local") / "chaos"
SETTINGS = {"CARILLON_RETRY_SCHEDULE_S": "1,2,5", "CARILLON_DIGEST_CRON": "*/5 * * * * *"}
QUIET_S = 180.0
"""So long without a call, and what is missing counts as lost."""
ACCEPT_WITHIN_S = 120.0
"""After the last request was due to be sent."""
TELL_EVERY_S = 10.0


def main() -> int:
    options = _parser().parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    deaths = f"{options.kills_in_all} kills" if options.kills_in_all else f"each killed {options.kills} times"
    say(f"seed {seed}: {options.tasks} tasks over {options.over:g} s, {', '.join(options.victims) or 'all'}: {deaths}")
    try:
        with private_stack(
            FOLDER, port_offset=options.port_offset, replicas=options.replicas, settings=SETTINGS
        ) as stack:
            report = asyncio.run(run(stack, options, seed))
            summary = FOLDER / "summary.json"
            summary.write_bytes(msgspec.json.format(msgspec.json.encode(report.as_json()), indent=1))
            say(
                text(report)
                + f"\n  summary     {summary}; every call in calls.jsonl, emission in emissions.jsonl, logs in logs/"
            )
    except (StackError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say(f"interrupted; the stack is down (seed {seed})")
        return 130
    return 1 if report.faults else 0


def say(line: str) -> None:
    print(line, flush=True)


async def run(stack: PrivateStack, options: argparse.Namespace, seed: int) -> Report:
    dice, began, sink = random.Random(seed), time.monotonic(), Sink()
    wanted = orders(options.tasks, options.over, dice)
    amqp_url = stack.variables["CARILLON_AMQP_URL"]
    await open_tap(amqp_url)
    async with sink.listening() as sink_url, session(stack.api_key) as http:
        client = Client(http, stack.api_urls(), run=f"{seed}")
        reaper = killer.Killer(stack, say, options.victims)
        if options.kills_in_all:
            deaths = killer.plan_at_random(reaper.victims, options.kills_in_all, options.over, dice)
        else:
            deaths = killer.plan(reaper.victims, options.kills, options.over, dice)
        killing = asyncio.create_task(reaper.run(deaths))
        asking = [client.schedule(order, sink_url) for order in wanted]
        asking += [client.notify(at_s, number) for number, at_s in enumerate(notice_times_s(options.over))]
        await _ask(asking, options.over + ACCEPT_WITHIN_S)
        not_back = await killing
        await _calls_made(client.accepted, sink, settled_at=time.monotonic())
        calls = [call for made in sink.calls.values() for call in made]
        (FOLDER / "calls.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(calls))
        emitted = await emissions(amqp_url)
        (FOLDER / "emissions.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(emitted))
        states = await aftermath.histories(http, stack.api_urls(), client.accepted)
        failed = sum(task.should_end == "failed" for task in client.accepted)
        return Report(
            seed=seed,
            wanted=options.tasks,
            kills_wanted={victim: len(times_s) for victim, times_s in deaths.items()},
            verdict=check(client.accepted, calls),
            reckoning=reckon(emitted, calls, [kill.death for kill in reaper.kills]),
            states=states,
            unfinished=unfinished(client.accepted, states),
            answers=dict(client.answers),
            kills=tuple(reaper.kills),
            kills_by_victim={victim: reaper.count()[victim] for victim in reaper.victims},
            not_back=tuple(not_back),
            failed=failed,
            mails=await aftermath.mails(stack.layout.mail, client.notices, failed),
            notices=len(notice_times_s(options.over)),
            parked=tuple(await aftermath.parked(stack.variables["CARILLON_POSTGRES_URL"])),
            wall_s=time.monotonic() - began,
        )


async def _ask(asking: Sequence[Coroutine[Any, Any, None]], within_s: float) -> None:
    """Until all is accepted, or `within_s` has passed. Raises: what a request could not be repeated after."""
    tasks = [asyncio.create_task(one) for one in asking]
    done, late = await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_EXCEPTION)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in done:
        task.result()


async def _calls_made(accepted: Sequence[Accepted], sink: Sink, settled_at: float) -> None:
    """Until every promise is kept, or nothing new has come for `QUIET_S`. `settled_at`: when the last one was due."""
    missing = [task for task in accepted if not is_kept(task, sink.calls.get(task.id, ()))]
    told_at = time.monotonic()
    while missing and time.monotonic() - max(sink.last_call_at, settled_at) < QUIET_S:
        await asyncio.sleep(0.2)
        missing = [task for task in missing if not is_kept(task, sink.calls.get(task.id, ()))]
        if missing and time.monotonic() - told_at > TELL_EVERY_S:
            say(f"waiting for {len(missing)} tasks to be called")
            told_at = time.monotonic()


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kill", description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000, help="how many are scheduled (%(default)s)")
    parser.add_argument("--over", type=float, default=120.0, help="seconds over which they fall due (%(default)s)")
    parser.add_argument("--kills", type=int, default=3, help="how often each process is killed (%(default)s)")
    parser.add_argument("--kills-in-all", type=int, help="instead: how often anybody is killed, chosen at random")
    parser.add_argument("--victims", type=_names, default=[], help="processes or services, comma between; else all")
    parser.add_argument("--seed", type=int, help="of tasks and deaths; random unless given, and printed")
    parser.add_argument("--replicas", type=int, default=2, help="processes per service (%(default)s)")
    parser.add_argument("--port-offset", type=int, default=3500, help="added to every port (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
