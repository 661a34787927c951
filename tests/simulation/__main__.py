"""`python -m tests.simulation`: many seeds, on all cores, and what was wrong with them."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.life import live


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--faults", type=float, default=1.0, help="0: good times, 1: bad ones (%(default)s)")
    options = parser.parse_args()
    started = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        seeds = range(options.first, options.first + options.seeds)
        reports = list(pool.map(partial(live, faults=options.faults), seeds, chunksize=20))
    bad = [report for report in reports if report.faults]
    for report in bad[:20]:
        for kind, what in report.faults:
            print(f"seed {report.seed}: {kind}: {what}")
    print(
        f"{len(reports)} seeds in {time.monotonic() - started:.0f} s: {sum(each.tasks for each in reports)} tasks,"
        f" {sum(each.calls for each in reports)} calls, {sum(each.repeated for each in reports)} of them repeated;"
        f" {len(bad)} seeds with faults"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
