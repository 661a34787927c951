"""Which CARILLON_* variables the services and the clients of a stack get.

The caller's variables win over the stack's defaults. A server URL given by the caller is used in place of a server
of our own, unless it is the stack's own one come back, because somebody sourced DIR/env.
"""

import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.local.layout import LOOPBACK, SERVER_PORTS, SERVICES, Layout, replica_name
from deploy.local.plan import replace_private

PREFIX = "CARILLON_"
SERVER_URLS = {
    "postgres": "CARILLON_POSTGRES_URL",
    "redis": "CARILLON_REDIS_URL",
    "rabbitmq": "CARILLON_AMQP_URL",
    "smtp": "CARILLON_SMTP_URL",
}
CLIENT_NAMES = frozenset({"CARILLON_URL", "CARILLON_KEY", "CARILLON_API_KEY"})
PER_PROCESS_NAMES = frozenset({"CARILLON_PORT", "CARILLON_ADMIN_PORT", "CARILLON_REPLICA"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not listened on

GIVEN = "  # given"
_EXPORT = re.compile(rf"export (\w+)=(.*?)({GIVEN})?")


@dataclass(frozen=True)
class Environment:
    """What all services are told alike, and which of the servers in it are not ours to start."""

    shared: dict[str, str]
    given_servers: frozenset[str]

    def of(self, layout: Layout, service: str, replica: int) -> dict[str, str]:
        """The CARILLON_* variables of one process."""
        own = {
            "CARILLON_ADMIN_PORT": str(layout.admin_port(service, replica)),
            "CARILLON_REPLICA": replica_name(service, replica),
        }
        if service == "ingest":
            own["CARILLON_PORT"] = str(layout.http_port(replica))
        return self.shared | own

    @property
    def api_key(self) -> str:
        return self.shared["CARILLON_BOOTSTRAP_KEY"]

    def url(self, layout: Layout) -> str:
        """Where a client finds the API."""
        return f"http://{reachable(self.shared['CARILLON_HOST'])}:{layout.http_port(1)}"


def environment(environ: Mapping[str, str], layout: Layout) -> Environment:
    """The stack's defaults under the caller's `environ`. Makes the stack's secrets if it has none yet."""
    given = _given(environ, layout)
    shared = _defaults(layout) | given
    servers = frozenset(server for server, name in SERVER_URLS.items() if name in given)
    return Environment(shared=shared, given_servers=servers)


def secret(layout: Layout, name: str) -> str:
    """A random value that stays the same for the life of the stack's folder."""
    path = layout.secrets / name
    if not path.exists():
        layout.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_private(path, secrets.token_urlsafe(24).encode())
    return path.read_text().strip()


def reachable(host: str) -> str:
    """The address to call for something that listens on `host`."""
    if host in ANY_ADDRESS:
        return LOOPBACK
    return f"[{host}]" if ":" in host else host


def write_env_file(layout: Layout, environment: Environment, *, with_services: bool) -> None:
    """DIR/env: what a client sources. A server that is not ours is marked, to be known again as not ours."""
    lines = []
    if with_services:
        lines.append(_export("CARILLON_URL", environment.url(layout)))
        lines.append(_export("CARILLON_API_KEY", environment.api_key))
    for server, name in SERVER_URLS.items():
        mark = GIVEN if server in environment.given_servers else ""
        lines.append(_export(name, environment.shared[name]) + mark)
    replace_private(layout.env_file, "".join(f"{line}\n" for line in lines).encode())


def _given(environ: Mapping[str, str], layout: Layout) -> dict[str, str]:
    own = _own_urls_of_last_time(layout) | _own_urls(layout).items()
    return {
        name: value
        for name, value in environ.items()
        # An empty variable counts as an absent one, as in the services.
        if name.startswith(PREFIX) and value
        if name not in CLIENT_NAMES | PER_PROCESS_NAMES and (name, value) not in own
    }


def _defaults(layout: Layout) -> dict[str, str]:
    return _own_urls(layout) | {
        "CARILLON_DIGEST_TO": "ops@carillon.local",
        "CARILLON_DIGEST_FROM": "carillon@carillon.local",
        "CARILLON_ALLOW_NETWORKS": "127.0.0.0/8,::1/128",
        "CARILLON_DENY_PORTS": ",".join(str(port) for port in _own_ports(layout)),
        "CARILLON_BOOTSTRAP_KEY": secret(layout, "bootstrap-key"),
        "CARILLON_SIGNING_MASTER_KEY": secret(layout, "signing-master-key"),
        # There is no TLS here: with http:// the console's cookie goes without.
        "CARILLON_PUBLIC_URL": f"http://{LOOPBACK}:{layout.http_port(1)}",
        "CARILLON_HOST": LOOPBACK,
        "CARILLON_ADMIN_HOST": LOOPBACK,
    }


def _own_ports(layout: Layout) -> list[int]:
    """Of servers on loopback, which is open to calls: RabbitMQ and Redis are known to who calls, the others are not."""
    return [layout.server_port(server) for server in SERVER_PORTS] + [layout.admin_port(name, 1) for name in SERVICES]


def _own_urls(layout: Layout) -> dict[str, str]:
    at = {server: f"{LOOPBACK}:{layout.server_port(server)}" for server in SERVER_URLS}
    password = secret(layout, "postgres-password")
    return {
        "CARILLON_POSTGRES_URL": f"postgresql://carillon:{password}@{at['postgres']}/carillon?sslmode=disable",
        "CARILLON_REDIS_URL": f"redis://{at['redis']}/0",
        "CARILLON_AMQP_URL": f"amqp://guest:guest@{at['rabbitmq']}/",
        "CARILLON_SMTP_URL": f"smtp://{at['smtp']}",
    }


def _own_urls_of_last_time(layout: Layout) -> set[tuple[str, str]]:
    """Names and values: they may be other ones than now, when the ports have been shifted since."""
    try:
        lines = layout.env_file.read_text().splitlines()
    except FileNotFoundError:
        return set()
    exports = (match for line in lines if (match := _EXPORT.fullmatch(line)))
    return {(match[1], "".join(shlex.split(match[2]))) for match in exports if not match[3]}


def _export(name: str, value: str) -> str:
    quoted = value.replace("'", "'\\''")
    return f"export {name}='{quoted}'"
