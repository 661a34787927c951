"""The services of a stack: a process for each replica, and the ports they take."""

import sys
from collections.abc import Mapping
from types import MappingProxyType

from yarl import URL

from deploy.local.environment import SERVER_URLS, Environment
from deploy.local.errors import StackError
from deploy.local.layout import PROJECT, SERVICES, Layout, Listener, replica_name
from deploy.local.plan import SERVICE_STAGE, Override, ProcessSpec

DRAIN_S = 45


def specs(
    layout: Layout,
    environment: Environment,
    replicas: int,
    package: str,
    overrides: Mapping[str, Override] = MappingProxyType({}),
) -> list[ProcessSpec]:
    """Every replica of every service, as modules of `package`. Raises: StackError for overrides of nobody."""
    made = [
        _spec(layout, environment, package, service, replica, overrides)
        for service in SERVICES
        for replica in range(1, replicas + 1)
    ]
    if strangers := overrides.keys() - {spec.name for spec in made}:
        raise StackError(f"overrides are for processes that there are not: {', '.join(sorted(strangers))}")
    return made


def listeners(layout: Layout, replicas: int) -> list[Listener]:
    """Every port that the services will take."""
    numbers = range(1, replicas + 1)
    http = [Listener(replica_name("ingest", number), "HTTP", layout.http_port(number)) for number in numbers]
    admin = [
        Listener(replica_name(service, number), "admin", layout.admin_port(service, number))
        for service in SERVICES
        for number in numbers
    ]
    return http + admin


def _spec(
    layout: Layout,
    environment: Environment,
    package: str,
    service: str,
    replica: int,
    overrides: Mapping[str, Override],
) -> ProcessSpec:
    override = overrides.get(replica_name(service, replica), Override())
    return ProcessSpec(
        name=replica_name(service, replica),
        argv=(sys.executable, "-m", f"{package}.{service}"),
        cwd=override.cwd or str(PROJECT),
        env=environment.of(layout, service, replica) | _moved(environment, override.server_ports) | override.env,
        stage=SERVICE_STAGE,
        stop_timeout_s=DRAIN_S,
    )


def _moved(environment: Environment, server_ports: Mapping[str, int]) -> dict[str, str]:
    """The URLs of these servers, at other ports."""
    names = {SERVER_URLS[server]: port for server, port in server_ports.items()}
    return {name: str(URL(environment.shared[name]).with_port(port)) for name, port in names.items()}
