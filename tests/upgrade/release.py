"""One release of Carillon, as processes: its set-up step and its services, run from its own files."""

import asyncio
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from functools import cached_property
from io import BytesIO
from pathlib import Path

from deploy.local import readiness
from deploy.local.environment import Environment
from deploy.local.layout import LOOPBACK, MARKER, PROJECT, Layout, replica_name

SETUP_WITHIN_S = 120.0
READY_WITHIN_S = 60.0
LEAVES_WITHIN_S = 60.0
LOOK_AGAIN_S = 0.1


class ReleaseError(Exception):
    """A release does not do what it must; the text ends with what it wrote."""


def unpack(ref: str, folder: Path) -> Path:
    """The files of a git revision. Raises: ReleaseError."""
    done = subprocess.run(["git", "archive", ref], cwd=PROJECT, capture_output=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git archive {ref}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


class Release:
    """`number` tells the releases' ports and names apart, as the local stack does with replicas."""

    def __init__(self, name: str, folder: Path, number: int, layout: Layout, environment: Environment) -> None:
        self.name = name
        self._folder = folder
        self._number = number
        self._layout = layout
        self._environment = environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def api_url(self) -> str:
        return f"http://{LOOPBACK}:{self._layout.http_port(self._number)}"

    async def set_up(self) -> None:
        """Raises: ReleaseError."""
        process = self._start("deploy.setup", f"setup-{self._number}", self._environment.shared)
        if await asyncio.to_thread(process.wait, SETUP_WITHIN_S):
            raise ReleaseError(f"the set-up step of {self.name} failed:\n{self._tail(f'setup-{self._number}')}")

    async def start(self, service: str) -> None:
        """Until it is ready. Raises: ReleaseError."""
        name = replica_name(service, self._number)
        own = self._environment.of(self._layout, service, self._number)
        self._processes[service] = self._start(f"services.{service}", name, own)
        ask = readiness.service(f"http://{LOOPBACK}:{self._layout.admin_port(service, self._number)}")
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while await ask() is not None:
                    self._check_lives(service)
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            raise ReleaseError(f"{service} of {self.name} is not ready:\n{self._tail(name)}") from None

    async def leave(self, service: str) -> None:
        """SIGTERM, and its end, which must be a clean one. Raises: ReleaseError."""
        self._check_lives(service)
        process = self._processes.pop(service)
        process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(process.wait, LEAVES_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise ReleaseError(f"{service} of {self.name} does not leave") from None
        if code:
            name = replica_name(service, self._number)
            raise ReleaseError(f"{service} of {self.name} left with {code}:\n{self._tail(name)}")

    def check_all_live(self) -> None:
        """Raises: ReleaseError."""
        for service in self._processes:
            self._check_lives(service)

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _check_lives(self, service: str) -> None:
        code = self._processes[service].poll()
        if code is not None:
            tail = self._tail(replica_name(service, self._number))
            raise ReleaseError(f"{service} of {self.name} ended by itself with {code}:\n{tail}")

    @cached_property
    def _known(self) -> frozenset[str]:
        """Variables: a release refuses to start with those that only a later one knows."""
        show = "from libs.common.settings import KNOWN_VARIABLES; print(*KNOWN_VARIABLES)"
        command = (sys.executable, "-c", show)
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=True)
        return frozenset(done.stdout.split())

    def _start(self, module: str, name: str, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CARILLON_", "PYTHONPATH"))}
        told = {key: value for key, value in variables.items() if key in self._known}
        with self._layout.log_file(name).open("ab") as log:
            return subprocess.Popen(
                (sys.executable, "-m", module),
                cwd=self._folder,
                # With the stack's marker: what an interrupted run leaves behind ends with the stack.
                env=inherited | told | {MARKER: str(self._layout.root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _tail(self, name: str) -> str:
        return readiness.log_tail(self._layout, name)
