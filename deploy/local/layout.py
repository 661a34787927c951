"""Where the local stack keeps everything: folders, files, names and ports. Pure: touches neither disk nor network.

Ports below 32768 stay clear of the range Linux hands out to outgoing connections.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"

MARKER = "STACK_DIR"
"""Environment variable that every process of a stack inherits; its value is the stack's folder.
Not CARILLON_*: the services refuse names of that kind that they do not know."""

SERVICES = ("ingest", "scheduler", "dispatcher", "mailer")
HTTP_PORT = 8080
ADMIN_PORTS = {"ingest": 9101, "scheduler": 9102, "dispatcher": 9103, "mailer": 9104}
SERVER_PORTS = {
    "postgres": 28432,
    "redis": 28379,
    "rabbitmq": 28672,
    "rabbitmq-dist": 28673,
    "epmd": 28369,
    "smtp": 28025,
}
REPLICA_STEP = 10
"""The second replica of a service listens this much higher than the first."""


class Listener(NamedTuple):
    """A port that a process of the stack will take, and what for."""

    process: str
    purpose: str
    port: int


@dataclass(frozen=True)
class Layout:
    """One stack: its folder (absolute) and how far its ports are shifted."""

    root: Path
    port_offset: int = 0

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def mail(self) -> Path:
        return self.root / "mail"

    @property
    def pids(self) -> Path:
        return self.root / "pids"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def env_file(self) -> Path:
        """Shell file that a client sources."""
        return self.root / "env"

    @property
    def plan_file(self) -> Path:
        """What the supervisor is asked to keep running."""
        return self.root / "plan.json"

    @property
    def status_file(self) -> Path:
        """What the supervisor says is running."""
        return self.root / "status.json"

    @property
    def lock_file(self) -> Path:
        """Held by the `up` or `down` at work."""
        return self.root / "lock"

    def data(self, server: str) -> Path:
        return self.root / "data" / server

    def log_file(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def pid_file(self, process: str) -> Path:
        return self.pids / process

    def server_port(self, purpose: str) -> int:
        return SERVER_PORTS[purpose] + self.port_offset

    def http_port(self, replica: int) -> int:
        return HTTP_PORT + self.port_offset + REPLICA_STEP * (replica - 1)

    def admin_port(self, service: str, replica: int) -> int:
        return ADMIN_PORTS[service] + self.port_offset + REPLICA_STEP * (replica - 1)


def replica_name(service: str, replica: int) -> str:
    """`ingest-1`: the name of the process, of its log and of its pid file."""
    return f"{service}-{replica}"


def broker_cache(platform: str) -> Path:
    """Where an unpacked RabbitMQ lives; `platform` like debian-12-x86_64. Shared by every stack of the project."""
    return PROJECT / ".local" / "rabbitmq" / platform
