"""One system as the measurement sees it: started, asked for tasks, killed, stopped. And a peer as one of these."""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks.peers.catalogue import Peer
from benchmarks.peers.install import Environment
from deploy.local.private import PrivateStack

VERB_LIMIT_S = 300.0
STOP_LIMIT_S = 15.0


class Failed(Exception):
    """It did not do what was asked of it; what it said."""


@dataclass(frozen=True)
class Batch:
    """Tasks of one measurement, each due `step_ms` after the one before."""

    prefix: str
    tasks: int
    first_ms: int
    step_ms: float = 0.0
    bulk: bool = False

    def due_ms(self, number: int) -> int:
        return self.first_ms + int(number * self.step_ms)


@dataclass(frozen=True)
class Submitted:
    due_ms: Mapping[str, int]
    """By the id that the sink sees."""
    seconds: float

    @property
    def per_s(self) -> float:
        return len(self.due_ms) / self.seconds


class Contestant(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def bulk(self) -> bool: ...

    @property
    def servers(self) -> tuple[str, ...]: ...

    @property
    def recovery_s(self) -> float:
        """How long after a kill it has begun to run again all that it will."""
        ...

    @property
    def recovers(self) -> bool:
        """Does an operator have to act after a kill?"""
        ...

    @property
    def lead_s(self) -> float:
        """What it needs between the last submission and the first due time, beyond the usual."""
        ...

    async def set_up(self) -> None:
        """Once, before it starts. Raises: Failed."""
        ...

    async def start(self) -> None: ...

    async def submit(self, batch: Batch) -> Submitted:
        """Returns when every task is accepted, as durably as it is ever going to be. Raises: Failed."""
        ...

    async def settled(self, called: int) -> None:
        """Returns when it has done with `called` tasks; a peer does so with the call itself."""

    def pids(self) -> dict[str, int]:
        """Its own processes that run now, by name."""

    async def kill(self) -> None:
        """SIGKILL to all that works on tasks."""

    async def recover(self) -> None:
        """What its documentation tells an operator to do after a kill."""

    async def stop(self) -> None: ...


@dataclass
class PeerContestant:
    peer: Peer
    environment: Environment
    stack: PrivateStack
    call_url: str
    log: Path
    _running: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.peer.name

    @property
    def bulk(self) -> bool:
        return self.peer.bulk

    @property
    def servers(self) -> tuple[str, ...]:
        return self.peer.servers

    @property
    def recovery_s(self) -> float:
        return self.peer.recovery_s

    @property
    def recovers(self) -> bool:
        return self.peer.recovers

    @property
    def lead_s(self) -> float:
        return 0.0 if self.peer.shares_store else 4.0  # its worker starts in it

    async def set_up(self) -> None:
        if self.peer.sets_up:
            await self._verb("setup")

    async def start(self) -> None:
        command = self.peer.worker or (*self._adapter(), "worker")
        for _ in range(self.peer.processes):
            with self.log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *self._located([*command]), cwd=self.environment.adapters, env=self._environ(),
                    stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            self._running.append(process)

    async def submit(self, batch: Batch) -> Submitted:
        if not self.peer.shares_store:
            await self.stop()
        told = await self._verb("submit", msgspec.json.encode(asdict(batch)).decode())
        if not self.peer.shares_store:
            await self.start()
        seconds = float(msgspec.json.decode(told.splitlines()[-1])["seconds"])
        return Submitted({f"{batch.prefix}-{n}": batch.due_ms(n) for n in range(batch.tasks)}, seconds)

    async def settled(self, called: int) -> None:
        pass

    def pids(self) -> dict[str, int]:
        alive = ((number, each) for number, each in enumerate(self._running, 1) if each.returncode is None)
        return {f"worker-{number}": process.pid for number, process in alive}

    async def kill(self) -> None:
        self._signal(signal.SIGKILL)
        await self._ended()

    async def recover(self) -> None:
        await self._verb("recover")

    async def stop(self) -> None:
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self._ended()
        except TimeoutError:
            await self.kill()

    def _signal(self, number: int) -> None:
        for process in self._running:
            if process.returncode is None:
                os.killpg(process.pid, number)

    async def _ended(self) -> None:
        await asyncio.gather(*(process.wait() for process in self._running))
        self._running.clear()

    async def _verb(self, *words: str) -> str:
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._located([*self._adapter(), *words]), cwd=self.environment.adapters, env=self._environ(),
                stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        try:
            async with asyncio.timeout(VERB_LIMIT_S):
                out, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            raise Failed(f"{words[0]} takes longer than {VERB_LIMIT_S:.0f} s") from None
        if process.returncode:
            raise Failed(f"{words[0]} failed with status {process.returncode}: see {self.log}")
        return out.decode()

    def _adapter(self) -> tuple[str, str]:
        return ("node" if self.peer.adapter.endswith(".mjs") else "python", self.peer.adapter)

    def _located(self, words: list[str]) -> list[str]:
        return [str(self.environment.bin / words[0]), *words[1:]]

    def _environ(self) -> dict[str, str]:
        variables = self.stack.variables
        plain = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")}
        return (
            plain
            | dict(self.peer.environ)
            | {
                "PATH": self.environment.path,
                "PYTHONPATH": str(self.environment.adapters),
                "BENCH_SINK_URL": self.call_url,
                "BENCH_AMQP_URL": variables["CARILLON_AMQP_URL"],
                "BENCH_POSTGRES_URL": variables["CARILLON_POSTGRES_URL"],
                "BENCH_REDIS_URL": variables["CARILLON_REDIS_URL"],
            }
        )
