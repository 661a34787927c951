"""Which service talks to which server: the links that can be cut, and the ports at which proxies stand in them."""

from typing import NamedTuple

from deploy.local.layout import Layout, replica_name

SERVERS_OF = {
    "ingest": ("rabbitmq", "postgres", "redis"),
    "scheduler": ("rabbitmq", "postgres"),
    "dispatcher": ("rabbitmq", "redis"),
    "mailer": ("rabbitmq", "smtp"),
}
PORT = 20_000
"""Of the first proxy; far below the servers' own, and shifted as they are."""


class Link(NamedTuple):
    process: str
    server: str

    def __str__(self) -> str:
        return f"{self.process}>{self.server}"


def links(replicas: int) -> tuple[Link, ...]:
    """One for each process and server: one can be cut while its like goes on."""
    return tuple(
        Link(replica_name(service, replica), server)
        for service, servers in SERVERS_OF.items()
        for replica in range(1, replicas + 1)
        for server in servers
    )


def ports(layout: Layout, replicas: int) -> dict[Link, int]:
    return {link: PORT + layout.port_offset + number for number, link in enumerate(links(replicas))}
