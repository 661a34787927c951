"""Clocks that a test moves while processes run: libfaketime in front of their C library, told by a file that it reads
at each look at the clock.

Only the time of day moves. CLOCK_MONOTONIC, durations and the times of files stay true, as where a real clock steps.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy.local import postgres
from deploy.local.debian import unpacked_alone
from deploy.local.layout import LOOPBACK, MARKER, Layout
from deploy.local.processes import is_alive
from tests.conftest import ROOT, fresh_folder
from tests.local.offsets import free_offset

PASSWORD = "clocks"
LIBRARY = "usr/lib/*/faketime/libfaketimeMT.so.1"
STOP_S = 30


def library() -> Path | None:
    """The installed one, else out of the system's package; None where packages are not Debian's. Raises: StackError."""
    installed = next(Path("/").glob(LIBRARY), None)
    if installed is None and (root := unpacked_alone("libfaketime", ROOT / ".local" / "libfaketime")):
        return next(root.glob(LIBRARY))
    return installed


@dataclass
class Dial:
    """The clock of the processes that are started with `environ`."""

    library: Path
    file: Path

    def __post_init__(self) -> None:
        self.turn(timedelta(0))

    @property
    def environ(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def turn(self, offset: timedelta) -> None:
        """Ahead of the true time by so much, from now on and at once."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{offset.total_seconds():+f}\n")
        new.chmod(0o644)  # Postgres may run as somebody else
        new.replace(self.file)

    def show(self, moment: datetime) -> None:
        self.turn(moment - datetime.now(UTC))


def sweep_up() -> None:
    """Remove the shared memory that dead processes left: the library does so only at an orderly end."""
    for path in Path("/dev/shm").glob("*faketime_*_*"):
        if not is_alive(int(path.name.rpartition("_")[2])):
            path.unlink(missing_ok=True)


@contextmanager
def postgres_on(dial: Dial, folder: Path) -> Iterator[str]:
    """A Postgres of its own by the clock of `dial`; gives its URL. The postmaster's children inherit the clock."""
    fresh_folder(folder, dict(os.environ))
    layout = Layout(folder, free_offset())
    layout.data("postgres").parent.mkdir(parents=True)
    postgres.prepare(layout, PASSWORD)
    spec = postgres.spec(layout)
    with (folder / "postgres.log").open("wb") as log:
        running = subprocess.Popen(
            [*spec.argv, "-c", "fsync=off"], cwd=spec.cwd, env=os.environ | {MARKER: str(folder)} | dial.environ,
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"postgresql://{postgres.USER}:{PASSWORD}@{LOOPBACK}:{layout.server_port('postgres')}/{postgres.DATABASE}"
    finally:
        running.send_signal(spec.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            running.wait(STOP_S)
        fresh_folder(folder, dict(os.environ))
