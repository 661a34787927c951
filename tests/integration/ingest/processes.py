"""Real processes of ingest and scheduler, to kill: one environment, a log file each."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.conftest import ROOT
from tests.integration.rig import until

LOOPBACK = "127.0.0.1"
BOOTSTRAP_KEY = "0123456789abcdef"
ENVIRONMENT = {
    "CARILLON_BOOTSTRAP_KEY": BOOTSTRAP_KEY,
    "CARILLON_ADMIN_HOST": LOOPBACK,
    "CARILLON_ADMIN_PORT": "0",
    "CARILLON_HOST": LOOPBACK,
    "CARILLON_PORT": "0",
    "CARILLON_LEGACY_PROJECT": "shop",
}


@dataclass
class Process:
    running: asyncio.subprocess.Process
    replica: str
    log: Path

    async def kill(self) -> None:
        self.running.send_signal(signal.SIGKILL)
        await self.running.wait()

    def freeze(self) -> None:
        self.running.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.running.send_signal(signal.SIGCONT)

    async def ended(self, within_s: float = 15) -> int:
        async with asyncio.timeout(within_s):
            return await self.running.wait()

    async def said(self, words: str, times: int = 1) -> None:
        def is_so() -> bool:
            assert self.running.returncode is None, self.log.read_text()
            return self.log.read_text().count(words) >= times

        await until(f"'{words}' in the log of {self.replica}", is_so, within_s=60)


@dataclass
class Processes:
    """`start` gives every process a replica name of its own, so that each log is kept."""

    servers: dict[str, str]
    folder: Path
    started: list[Process] = field(default_factory=list)

    async def start(self, service: str, **settings: str) -> Process:
        replica = f"{service}-{len(self.started)}"
        environ = {"PATH": os.environ["PATH"], "CARILLON_REPLICA": replica, **ENVIRONMENT, **self.servers, **settings}
        log = self.folder / f"{replica}.log"
        with log.open("w") as file:
            running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"services.{service}", cwd=ROOT, env=environ, stdout=file, stderr=file
            )
        process = Process(running, replica, log)
        self.started.append(process)
        return process


@asynccontextmanager
async def processes(servers: dict[str, str], folder: Path) -> AsyncIterator[Processes]:
    made = Processes(servers, folder)
    try:
        yield made
    finally:
        for process in made.started:
            if process.running.returncode is None:
                await process.kill()


async def metric_of(admin_url: str, name: str) -> float:
    """The sum of the samples whose line begins with `name`."""
    async with aiohttp.ClientSession() as session, session.get(f"{admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
