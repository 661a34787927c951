"""A private stack for a program: made from nothing, up while a block runs, down after it, whatever happens.

For the benchmark and the chaos run, which must not meet the leftovers of their last time. The caller's CARILLON_*
reach the services, except those that name servers: a sourced `.local/env` must not aim the run at another stack.
"""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from deploy.local.environment import CLIENT_NAMES, SERVER_URLS
from deploy.local.errors import StackError
from deploy.local.layout import LOOPBACK, PROJECT, SERVICES, Layout, replica_name
from deploy.local.plan import Override, replace_private

COMMAND = (sys.executable, "-m", "deploy.local")
OUTPUT_TAIL = 4000
"""Characters of a failed `up` that are worth showing."""


@dataclass(frozen=True)
class PrivateStack:
    """A stack that is up and ready. `variables` is its DIR/env."""

    layout: Layout
    replicas: int
    variables: Mapping[str, str]

    @property
    def api_key(self) -> str:
        return self.variables["CARILLON_API_KEY"]

    def api_urls(self) -> list[str]:
        """One per replica of ingest."""
        return [f"http://{LOOPBACK}:{self.layout.http_port(number)}" for number in self._numbers()]

    def admin_urls(self) -> dict[str, str]:
        """By the name of the process: `ingest-1` and so on, every replica of every service."""
        return {
            replica_name(service, number): f"http://{LOOPBACK}:{self.layout.admin_port(service, number)}"
            for service in SERVICES
            for number in self._numbers()
        }

    def _numbers(self) -> range:
        return range(1, self.replicas + 1)


@contextmanager
def private_stack(
    folder: Path,
    *,
    port_offset: int,
    replicas: int,
    settings: Mapping[str, str],
    overrides: Mapping[str, Override] = MappingProxyType({}),
) -> Iterator[PrivateStack]:
    """Raises: StackError when it does not come up, or when another run holds the folder.

    No `replicas` means servers only. `settings` win over the caller's variables, `overrides` of a process over both.
    SIGTERM counts as Ctrl-C while the stack is there, so that it ends.
    """
    layout = Layout(folder.resolve(), port_offset)
    environ = _environ(settings)
    with _held(layout.root), _sigterm_as_interrupt():
        _down(layout, environ)  # of a run that was killed
        shutil.rmtree(layout.root, ignore_errors=True)
        try:
            _up(layout, replicas, environ, overrides)
            yield PrivateStack(layout, replicas, read_env_file(layout.env_file))
        finally:
            _down(layout, environ)


def read_env_file(path: Path) -> dict[str, str]:
    """What a shell would have after sourcing DIR/env."""
    words = (word for line in path.read_text().splitlines() for word in shlex.split(line, comments=True))
    return dict(word.split("=", 1) for word in words if "=" in word)


def _environ(settings: Mapping[str, str]) -> dict[str, str]:
    dropped = {*SERVER_URLS.values(), *CLIENT_NAMES}
    return {name: value for name, value in os.environ.items() if name not in dropped} | dict(settings)


def _up(layout: Layout, replicas: int, environ: Mapping[str, str], overrides: Mapping[str, Override]) -> None:
    processes = ("--replicas", str(replicas)) if replicas else ("--servers-only",)
    options = ("--port-offset", str(layout.port_offset), *processes)
    if overrides:
        layout.root.mkdir(parents=True, exist_ok=True)
        replace_private(file := layout.root / "overrides.json", msgspec.json.encode(overrides))
        options += ("--overrides", str(file))
    done = _run("up", layout, environ, options)
    if done.returncode:
        raise StackError(f"the stack does not come up:\n{(done.stdout + done.stderr)[-OUTPUT_TAIL:]}")


def _down(layout: Layout, environ: Mapping[str, str]) -> None:
    _run("down", layout, environ)


def _run(
    verb: str, layout: Layout, environ: Mapping[str, str], options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own words
        (*COMMAND, verb, "--dir", str(layout.root), *options),
        cwd=PROJECT,
        env=dict(environ),
        capture_output=True,
        text=True,
        check=False,
        start_new_session=verb == "down",  # a second Ctrl-C must not cut it off
    )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another run is at work in {folder}: wait for it, or end it") from None
        yield


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
