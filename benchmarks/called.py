"""The sink's process as the benchmark sees it: started, asked, ended."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from deploy.local.layout import LOOPBACK, PROJECT


@dataclass(frozen=True)
class SinkProcess:
    pid: int
    port: int
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def count(self) -> int:
        """Distinct ids called so far."""
        return int(await self._get("/count"))

    async def total(self) -> int:
        """Calls so far."""
        return int(await self._get("/total"))

    async def calls(self) -> list[tuple[str, int]]:
        """Every call so far, in the order they came: id, and ms since 1970."""
        pairs = (line.split(" ") for line in (await self._get("/calls")).splitlines())
        return [(id_, int(at_ms)) for at_ms, id_ in pairs]

    async def _get(self, path: str) -> str:
        async with self.session.get(self.url + path) as response:
            return await response.text()


@asynccontextmanager
async def sink_process(session: aiohttp.ClientSession) -> AsyncIterator[SinkProcess]:
    """Up while the block runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.sink", cwd=PROJECT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        yield SinkProcess(process.pid, port, session)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
