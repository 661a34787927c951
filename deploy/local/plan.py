"""What the supervisor is asked to run (the plan) and what it says is running (the status), as files.

`up` writes the plan and reads the status; the supervisor does the reverse. Both are replaced in one step, and
readable by their owner only: a plan holds passwords.
"""

import os
import signal
from pathlib import Path

import msgspec

from deploy.local.errors import StackError

SERVER_STAGES = frozenset({0, 1})
SERVICE_STAGE = 2


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process to keep alive. Stages start in ascending order and stop in descending order."""

    name: str
    argv: tuple[str, ...]
    cwd: str
    stage: int
    env: dict[str, str] = {}
    """On top of the supervisor's own environment."""
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = 10.0
    """After this long SIGKILL follows."""


class Override(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one process of a service gets otherwise than its like: for runs that mix releases or break links."""

    env: dict[str, str] = {}
    """On top of what it is told. Empty: as if it were not told."""
    server_ports: dict[str, int] = {}
    """Where it finds a server, by its name: a proxy's port in place of the server's own."""
    cwd: str | None = None
    """The folder whose `services` it runs; None: this project's."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    processes: tuple[ProcessSpec, ...]

    def servers(self) -> dict[str, ProcessSpec]:
        return {spec.name: spec for spec in self.processes if spec.stage in SERVER_STAGES}

    def services(self) -> dict[str, ProcessSpec]:
        return {spec.name: spec for spec in self.processes if spec.stage == SERVICE_STAGE}


class ProcessState(msgspec.Struct, kw_only=True):
    pid: int | None = None
    exits: int = 0
    """How often it ended without being asked to, since it came into the plan."""
    last_exit: int | None = None
    """Exit status; minus the number of the signal that ended it."""


class Status(msgspec.Struct, kw_only=True):
    plan_id: str = ""
    """The last plan that is fully in force."""
    processes: dict[str, ProcessState] = {}


def read_overrides(path: Path) -> dict[str, Override]:
    """By the name of the process. Raises: StackError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Override])
    except (OSError, msgspec.MsgspecError) as error:
        raise StackError(f"cannot read overrides from {path}: {error}") from error


def write_plan(path: Path, plan: Plan) -> None:
    replace_private(path, msgspec.json.format(msgspec.json.encode(plan), indent=1))


def read_plan(path: Path) -> Plan | None:
    """The plan, or None where there is none that this version can read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError):
        return None


def write_status(path: Path, status: Status) -> None:
    replace_private(path, msgspec.json.encode(status))


def read_status(path: Path) -> Status:
    """The status, empty where there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except (OSError, msgspec.MsgspecError):
        return Status()


def replace_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read; a reader sees the old content or the new, never half."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)
