"""The services of a stack: a process for each replica, and the ports they take."""

import sys

from deploy.local.environment import Environment
from deploy.local.layout import PROJECT, SERVICES, Layout, Listener, replica_name
from deploy.local.plan import SERVICE_STAGE, ProcessSpec

DRAIN_S = 45


def specs(layout: Layout, environment: Environment, replicas: int, package: str) -> list[ProcessSpec]:
    """Every replica of every service, as modules of `package`."""
    return [
        ProcessSpec(
            name=replica_name(service, replica),
            argv=(sys.executable, "-m", f"{package}.{service}"),
            cwd=str(PROJECT),
            env=environment.of(layout, service, replica),
            stage=SERVICE_STAGE,
            stop_timeout_s=DRAIN_S,
        )
        for service in SERVICES
        for replica in range(1, replicas + 1)
    ]


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
