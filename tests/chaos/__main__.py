"""`make chaos SEED=n MINUTES=m`: everything that can break breaks, under load; were the promises kept?

    python -m tests.chaos [--seed N] [--minutes 3]
    python -m tests.chaos --faults kill --targets scheduler,rabbitmq,postgres --per-minute 8 --minutes 4
    python -m tests.chaos --faults latency,half_open --targets '>rabbitmq'
    python -m tests.chaos --seed 7 --plan
    python -m tests.chaos --previous REF
    python -m tests.chaos --broken 'a claim for every call' --minutes 0.5

A stack of its own, two of every service, a proxy in every link. Faults come at random times: processes die, are
restarted and freeze, servers too; links lag, break and go dead; the broker runs out of memory, its queues are full or
gone; Redis forgets; clocks are wrong. Exit status 0 only if nothing was lost, nothing came early, every history is
complete, a fault explains whatever came twice, and everything serves in the end. The same seed asks for the same tasks
and makes the same plan; the rest is the machine's.

With --previous the second replica of every service is the release REF. With --broken a rule is switched off, under the
faults that it guards against: exit status 0 only if the run reports what it should.
"""

import argparse
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec

from deploy.local.errors import StackError
from tests.chaos import previous
from tests.chaos.controls import CONTROLS, RULES, broken, is_noticed
from tests.chaos.fault import KINDS, Kind
from tests.chaos.plan import PER_MINUTE
from tests.chaos.report import Report
from tests.chaos.run import FOLDER, PORT_OFFSET, Run, chaos
from tests.chaos.trial import RATE
from tests.simulation.world import Rule
from tests.upgrade.release import ReleaseError


def main() -> int:
    options = _parser().parse_args()
    try:
        run = _run(options)
        planned = run.plan()
        say(f"seed {run.seed}: {len(planned)} faults in {run.over_s:g} s, {run.rate:g} tasks a second")
        if options.plan:
            say("\n".join(f"{fault.at_s:7.1f} s  {fault}, for {fault.for_s:.1f} s" for fault in planned))
            return 0
        report = chaos(run, say)
    except (StackError, ReleaseError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("interrupted; the stack is down")
        return 130
    summary = run.folder / f"seed-{run.seed}.json"
    summary.write_bytes(msgspec.json.format(msgspec.json.encode(report.as_json()), indent=1))
    say(f"{report.text()}\n  summary     {summary}; every call, emission and log in {run.folder / 'stack'}")
    if options.broken:
        return _control(report, options.broken)
    return 1 if report.faults else 0


def _control(report: Report, rule: Rule) -> int:
    noticed, wanted = is_noticed(report, rule), ", ".join(sorted(CONTROLS[rule].shows))
    say(f"without '{rule}' the run {'shows' if noticed else 'does NOT show'} one of {wanted}")
    return 0 if noticed else 1


def say(line: str) -> None:
    print(line, flush=True)


def _run(options: argparse.Namespace) -> Run:
    run = Run(
        seed=secrets.randbelow(2**32) if options.seed is None else options.seed,
        minutes=options.minutes,
        kinds=options.faults or KINDS,
        targets=options.targets,
        per_minute=options.per_minute,
        rate=options.rate,
        replicas=options.replicas,
        folder=options.folder,
        port_offset=options.port_offset,
    )
    if options.previous:
        run = replace(run, overrides=previous.overrides(options.previous, options.folder / "previous"))
    return broken(run, options.broken) if options.broken else run


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _kinds(text: str) -> list[Kind]:
    known = {kind: kind for kind in get_args(Kind)}
    try:
        return [known[name] for name in _names(text)]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"no fault is called {error}: choose from {', '.join(KINDS)}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="of tasks and faults; random unless given, and printed")
    parser.add_argument("--minutes", type=float, default=3.0, help="over which tasks fall due (%(default)s)")
    parser.add_argument("--rate", type=float, default=RATE, help="tasks a second (%(default)s)")
    parser.add_argument("--faults", type=_kinds, default=[], help=f"comma between: {', '.join(KINDS)}; else all")
    parser.add_argument(
        "--targets", type=_names, default=[], help="processes, services, servers or links, comma between; else all"
    )
    parser.add_argument("--per-minute", type=float, default=PER_MINUTE, help="faults (%(default)s)")
    parser.add_argument("--replicas", type=int, default=2, help="processes per service (%(default)s)")
    parser.add_argument("--previous", metavar="REF", help="a git revision: the second replica of every service")
    parser.add_argument("--broken", choices=RULES, metavar="RULE", help=f"to be switched off: {'; '.join(RULES)}")
    parser.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of stack and summaries (%(default)s)")
    parser.add_argument("--port-offset", type=int, default=PORT_OFFSET, help="added to every port (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
