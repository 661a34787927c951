"""The integration tier against servers of other versions, in containers: `python -m tests.matrix [SIDE ...]`.

Needs a Docker engine, or BASE_IMAGES: a folder with `start-docker` and `build-base-images` where no registry answers.
Without both it says that it did not run, and ends well. The wheels' versions are what `make test` runs on.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.compose import engine
from tests.compose.docker import CommandFailed
from tests.matrix.containers import Servers, running

SIDES = {
    "new": {"rabbitmq": "rabbitmq:4-management-alpine", "postgres": "postgres:17-alpine", "redis": "redis:8-alpine"},
    "old": {"rabbitmq": "rabbitmq:3.10-management", "postgres": "postgres:15-alpine", "redis": "redis:7-alpine"},
}
TESTS = ("tests/integration", "tests/matrix")
PORT_OFFSET = 2500


class Result(NamedTuple):
    side: str
    versions: str
    passed: int
    failed: int
    seconds: float
    code: int

    def __str__(self) -> str:
        outcome = f"{self.passed} passed, {self.failed} failed in {self.seconds:.0f} s"
        return f"  {self.side:<5} {self.versions:<48} {outcome}"


def main(names: list[str]) -> int:
    wrong = set(names) - set(SIDES)
    if wrong:
        print(f"no such side: {', '.join(sorted(wrong))}; there are {', '.join(SIDES)}", file=sys.stderr)
        return 2
    sides = {name: SIDES[name] for name in names or SIDES}
    try:
        engine.start_engine()
        missing = engine.provide(image for images in sides.values() for image in images.values())
        if missing:
            raise engine.NotRun(f"these images cannot be had: {sorted(missing)}")
    except engine.NotRun as reason:
        print(f"the version matrix did not run: {reason}")
        return 0
    results = [_run(name, images) for name, images in sides.items()]
    print("\nversion matrix:", *results, sep="\n")
    return max(result.code for result in results)


def _run(side: str, images: dict[str, str]) -> Result:
    began_at = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
            with running(images, f"matrix-{os.getpid()}-{side}", Path(folder)) as servers:
                versions = ", ".join(f"{name} {version}" for name, version in servers.versions.items())
                print(f"{side}: {versions}", flush=True)
                code, passed, failed = _tests(servers)
    except CommandFailed as error:
        print(f"{side}: {error}", file=sys.stderr)
        code, passed, failed, versions = 1, 0, 0, "does not start"
    return Result(side, versions, passed, failed, time.monotonic() - began_at, code)


def _tests(servers: Servers) -> tuple[int, int, int]:
    """(exit code, passed, failed) of the tier; its output goes where ours goes."""
    environ = {
        "TEST_PORT_OFFSET": str(PORT_OFFSET),
        "TEST_STACK_DIR": str(engine.ROOT / ".local" / "matrix"),
        "TEST_AMQP_URL": servers.plain["rabbitmq"],
        "TEST_POSTGRES_URL": servers.plain["postgres"],
        "TEST_REDIS_URL": servers.plain["redis"],
        "TEST_BROKER_CONTAINER": servers.broker_container,
        "CI": "true",  # a test that skips here would pass for one that passed
    } | {f"TEST_TLS_{server.upper()}_URL": url for server, url in servers.secured.items()}
    command = [sys.executable, "-m", "pytest", "-q", *TESTS]
    running = subprocess.Popen(command, cwd=engine.ROOT, env=os.environ | environ, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    last = ""
    for line in running.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    return running.wait(), _count("passed", last), _count("failed", last) + _count("error", last)


def _count(what: str, summary: str) -> int:
    found = re.search(rf"(\d+) {what}", summary)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
