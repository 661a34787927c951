"""The wall clock of one process goes wrong, and right again: Debian's libfaketime, preloaded into the services.

Unpacked below .local/faketime/ at first use (47 kB): no root, nothing installed. Elsewhere the machine's own.
It reads how far the clock is off from a file, one for each process; the monotonic clock is left alone, as in a step.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.local.debian import unpacked_alone
from deploy.local.errors import StackError
from deploy.local.layout import PROJECT

PACKAGE = "libfaketime"
LIBRARY = "faketime/libfaketime.so.1"
INSTALLED = (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))
TOLD_AGAIN_S = "1"
"""So often a process reads its file; each time would cost more than all else it does."""


class Clocks:
    """`folder`: where the files are. Raises: StackError without the library."""

    def __init__(self, folder: Path, processes: Iterable[str]) -> None:
        self._folder = folder.resolve()
        self._library = _library()
        self._folder.mkdir(parents=True, exist_ok=True)
        for process in processes:
            self._tell(process, 0)

    def environ(self, process: str) -> dict[str, str]:
        """What the process must be started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._folder / process),
            "FAKETIME_CACHE_DURATION": TOLD_AGAIN_S,
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    @asynccontextmanager
    async def stepped(self, process: str, by_s: float) -> AsyncIterator[None]:
        self._tell(process, by_s)
        try:
            yield
        finally:
            self._tell(process, 0)

    def _tell(self, process: str, by_s: float) -> None:
        partial = self._folder / f".{process}.partial"
        partial.write_text(f"{by_s:+g}\n")
        partial.replace(self._folder / process)


def _library() -> Path:
    root = unpacked_alone(PACKAGE, PROJECT / ".local" / "faketime")
    places = (root / "usr" / "lib",) if root else INSTALLED
    found = [file for place in places for pattern in (LIBRARY, f"*/{LIBRARY}") for file in place.glob(pattern)]
    if not found:
        raise StackError("clocks cannot be stepped without libfaketime: install it, or leave out the fault 'clock'")
    return found[0]
