"""The command line of the local stack: `python -m deploy.local up` and `down`."""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

from deploy.local import stack
from deploy.local.errors import StackError
from deploy.local.layout import Layout
from deploy.local.plan import read_overrides
from deploy.local.processes import PROC
from deploy.local.summary import summary


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    layout = Layout(options.dir.resolve(), getattr(options, "port_offset", 0))
    try:
        if not (PROC / "self" / "stat").exists():
            raise StackError("the local stack needs Linux: use Docker here (docker compose up --build)")
        if options.command == "up":
            _up(layout, options)
        else:
            _down(layout)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what has been started goes on, `down` ends it", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start servers and services, or bring a running stack up to date")
    down = commands.add_parser("down", help="end everything; data, logs and mails stay")
    for command in (up, down):
        command.add_argument("--dir", type=Path, default=Path(".local"), help="the stack's folder (%(default)s)")
    up.add_argument("--port-offset", type=int, default=0, help="added to every port (%(default)s)")
    up.add_argument(
        "--replicas",
        type=_count,
        default=os.environ.get("REPLICAS") or "1",
        help="processes per service; the variable REPLICAS is the default, else 1",
    )
    up.add_argument("--overrides", type=Path, help="JSON file: environment or folder of single processes, by name")
    up.add_argument("--servers-only", action="store_true", help="neither set-up nor services")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _up(layout: Layout, options: argparse.Namespace) -> None:
    started_at = time.monotonic()
    overrides = read_overrides(options.overrides) if options.overrides else {}
    request = stack.Request(layout, replicas=options.replicas, servers_only=options.servers_only, overrides=overrides)
    layout.root.mkdir(parents=True, exist_ok=True)
    with stack.one_at_a_time(layout, _say):
        environment = stack.up(request, os.environ, _say)
        link = None if options.servers_only else stack.first_link(request, environment)
    _say(f"ready after {time.monotonic() - started_at:.1f} s")
    print(summary(layout, environment, options.replicas, link, servers_only=options.servers_only))


def _down(layout: Layout) -> None:
    started_at = time.monotonic()
    # Without the folder its processes may live all the same: somebody removed it under them.
    lock = stack.one_at_a_time(layout, _say) if layout.root.exists() else contextlib.nullcontext()
    with lock:
        was_running = stack.down(layout)
    _say(f"down after {time.monotonic() - started_at:.1f} s" if was_running else f"nothing runs in {layout.root}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
