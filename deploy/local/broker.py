"""RabbitMQ as a private node: which installation, and how its two processes are started.

The port mapper (epmd) is ours too, on its own port, so that stacks do not meet and the node's name can be the same
in all of them: the name is part of the data and must not change with the ports.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local import debian
from deploy.local.errors import StackError
from deploy.local.layout import LOOPBACK, PROJECT, Layout
from deploy.local.plan import ProcessSpec

CONFIG = PROJECT / "deploy" / "rabbitmq"
NODE_NAME = "carillon@localhost"
OLDEST = (3, 10)
"""The first release whose dead-lettering loses nothing (at-least-once)."""
INSTALLED = ("/usr/lib/rabbitmq/lib",)
SCRIPT = "rabbitmq_server-*/sbin/rabbitmq-server"
"""Where the packages keep the real start script; the one on PATH switches to the user rabbitmq."""
ERLANG = "/usr/lib/erlang"
ERL_ARGS = "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"


@dataclass(frozen=True)
class Installation:
    server: Path
    """The start script."""
    epmd: Path | None
    erlang: Path | None = None
    """Where its own Erlang is unpacked; None where Erlang is the machine's."""


def find(say: Callable[[str], None]) -> Installation:
    """The RabbitMQ of this machine, else the one unpacked from its packages; may take a minute at first use."""
    installation = _on_path() or _unpacked(debian.unpacked(say))
    if installation is None:
        raise StackError(
            "RabbitMQ is missing: install rabbitmq-server 3.10 or newer so that it is on PATH, set CARILLON_AMQP_URL "
            "to a broker that runs elsewhere, or use Docker (docker compose up --build)"
        )
    _check_version(installation.server)
    return installation


def specs(layout: Layout, installation: Installation) -> list[ProcessSpec]:
    """The port mapper, where there is one to start, and the node."""
    node = _node(layout, installation)
    return [node] if installation.epmd is None else [_port_mapper(layout, installation.epmd), node]


def prepare(layout: Layout) -> None:
    """No plugins: the management one alone would cost more CPU than the idle node."""
    home = layout.data("rabbitmq")
    home.mkdir(parents=True, exist_ok=True)
    (home / "enabled_plugins").write_text("[].\n")


def _node(layout: Layout, installation: Installation) -> ProcessSpec:
    home = layout.data("rabbitmq")
    private = {
        "HOME": str(home),  # of the Erlang cookie
        "RABBITMQ_MNESIA_BASE": str(home / "nodes"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",  # the machine's own, which may name the machine's own folders
        "RABBITMQ_CONFIG_FILE": str(CONFIG / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(CONFIG / "advanced.config"),
        "RABBITMQ_NODENAME": NODE_NAME,
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_NODE_PORT": str(layout.server_port("rabbitmq")),
        "RABBITMQ_DIST_PORT": str(layout.server_port("rabbitmq-dist")),
        "ERL_EPMD_PORT": str(layout.server_port("epmd")),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(layout.logs),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERL_ARGS,
        # The script then becomes the node instead of being its parent: the pid that we hold is the beam's.
        "RUNNING_UNDER_SYSTEMD": "true",
        "LANG": "C.UTF-8",
    }
    return ProcessSpec(
        name="rabbitmq",
        argv=_command(installation),
        cwd=str(layout.root),
        env=private | ({debian.ERLANG_ROOT: str(installation.erlang)} if installation.erlang else {}),
        stage=1,
        stop_timeout_s=30,
    )


def _command(installation: Installation) -> tuple[str, ...]:
    if installation.erlang is None:
        return (str(installation.server),)
    # The script looks for erl on PATH. Extended at the start, so that the plan does not hold the caller's PATH.
    extend_path = 'PATH="$1:$PATH" exec "$2"'
    return ("/bin/sh", "-c", extend_path, "rabbitmq", str(installation.erlang / "bin"), str(installation.server))


def _port_mapper(layout: Layout, epmd: Path) -> ProcessSpec:
    listen = ("-address", LOOPBACK, "-port", str(layout.server_port("epmd")))
    return ProcessSpec(name="epmd", argv=(str(epmd), *listen), cwd=str(layout.root), stage=0)


def _on_path() -> Installation | None:
    on_path = shutil.which("rabbitmq-server")
    if on_path is None:
        return None
    scripts = [script for place in INSTALLED for script in Path(place).glob(SCRIPT)]
    return Installation(server=max(scripts, default=Path(on_path)), epmd=_installed_epmd())


def _installed_epmd() -> Path | None:
    # Without one the node starts its own, which carries the marker and ends with the stack.
    on_path = shutil.which("epmd")
    return Path(on_path) if on_path else max(Path(ERLANG).glob("erts-*/bin/epmd"), default=None)


def _unpacked(root: Path | None) -> Installation | None:
    if root is None:
        return None
    erlang = root / ERLANG.lstrip("/")
    servers, mappers = root.glob(f"usr/lib/rabbitmq/lib/{SCRIPT}"), erlang.glob("erts-*/bin/epmd")
    return Installation(server=next(servers), epmd=next(mappers), erlang=erlang)


def _check_version(server: Path) -> None:
    match = re.search(r"rabbitmq_server-(\d+)\.(\d+)", str(server.resolve()))
    if match and (int(match[1]), int(match[2])) < OLDEST:
        raise StackError(
            f"RabbitMQ {match[1]}.{match[2]} of this system is too old: Carillon needs 3.10 for retries that are "
            "never lost. Set CARILLON_AMQP_URL to a newer broker, or use Docker (docker compose up --build)"
        )
