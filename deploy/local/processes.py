"""Which processes of this machine belong to a stack, from /proc, and how they are ended.

A process is ours when it inherited the stack's marker variable. Postgres' children overwrite their environment with
their title, so they are known by what they run and where.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from deploy.local.layout import MARKER, Layout

PROC = Path("/proc")
LOOK_AGAIN_S = 0.05


def is_alive(pid: int) -> bool:
    """A zombie counts as dead."""
    stat = _read(pid, "stat")
    return bool(stat) and stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def is_ours(pid: int, layout: Layout) -> bool:
    """Does this process belong to this stack?"""
    marker = f"{MARKER}={layout.root}".encode()
    return marker in _read(pid, "environ").split(b"\0") or _is_our_postgres(pid, layout.data("postgres"))


def ours(layout: Layout) -> set[int]:
    """Every living process of this stack, except the one that asks and its ancestors."""
    pids = {int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()} - _line_of_ancestors()
    return {pid for pid in pids if is_ours(pid, layout) and is_alive(pid)}


def read_pid(path: Path) -> int | None:
    """What a pid file says, if there is one."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def signal_ours(pids: Iterable[int], signal_number: int, layout: Layout) -> None:
    """Signal those that are still ours: a pid may have passed on to a stranger."""
    for pid in pids:
        if is_ours(pid, layout):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)


def wait_for_end(pids: Iterable[int], timeout_s: float) -> set[int]:
    """Wait until all have ended; those still alive at the timeout are returned."""
    alive, deadline = set(pids), time.monotonic() + timeout_s
    while alive := {pid for pid in alive if is_alive(pid)}:
        if time.monotonic() > deadline:
            break
        time.sleep(LOOK_AGAIN_S)
    return alive


def kill_all(layout: Layout) -> set[int]:
    """SIGKILL whatever of the stack is alive, until nothing is; returns whom it met."""
    met: set[int] = set()
    while alive := ours(layout):
        met |= alive
        signal_ours(alive, signal.SIGKILL, layout)
        wait_for_end(alive, timeout_s=2)
    return met


def _is_our_postgres(pid: int, data: Path) -> bool:
    if _link(pid, "exe").rpartition("/")[2] == "postgres" and _link(pid, "cwd") == str(data):
        return True
    # Where the links of another user's process are hidden from root (containers), its arguments are not.
    arguments = _read(pid, "cmdline").split(b"\0")
    return arguments[0].endswith(b"/bin/postgres") and str(data).encode() in arguments


def _line_of_ancestors() -> set[int]:
    line, pid = {os.getpid()}, os.getppid()
    while pid > 1:
        line.add(pid)
        stat = _read(pid, "stat")
        if not stat:
            break
        pid = int(stat.rpartition(b")")[2].split()[1])
    return line


def _read(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:  # it ended, or it is another user's
        return b""


def _link(pid: int, name: str) -> str:
    try:
        return str((PROC / str(pid) / name).readlink())
    except OSError:
        return ""
