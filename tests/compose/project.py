"""One compose project of the repository's own compose.yaml: up, down, and what can be done to its containers.

Its name, images, ports and addresses are its own, so that it meets neither a stack in use nor another test run.
`sink.yaml` adds who is called; nothing of compose.yaml is changed but by the variables that a user may set too.
"""

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.compose import engine
from tests.compose.docker import CommandFailed, docker, inspect, run

FILES = (engine.ROOT / "compose.yaml", Path(__file__).with_name("sink.yaml"))
PROFILES = "observability"
OURS = ("ingest", "scheduler", "dispatcher", "mailer")
UP_WITHIN_S = 240
_PORT_VARIABLE = re.compile(r"\$\{(\w+_PORT)\b")
_LABEL = "com.docker.compose"


class Project:
    """`left_out`: images that cannot be had here, so their services are not started."""

    def __init__(self, name: str, settings: Mapping[str, str], *more_files: Path) -> None:
        self._files = (*FILES, *more_files)
        self.name = name
        self.left_out: set[str] = set()
        self._env = _environment(name, settings)

    def provide_images(self) -> None:
        """Raises: NotRun, CommandFailed."""
        services = self._config()["services"]
        wanted = {service["image"] for service in services.values() if "build" not in service}
        self.left_out = engine.provide(wanted | engine.base_images_of(engine.ROOT / "Dockerfile"))

    def up(self, *words: str) -> None:
        """`docker compose up --build --wait`, of everything that can be had."""
        self.compose("up", "--build", "--wait", "--wait-timeout", str(UP_WITHIN_S), *words, *self._services())

    def down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "15")

    def remove_images(self) -> None:
        """Those built for this project; what they were built from stays in the engine's cache."""
        built = docker("image", "ls", "--quiet", "--filter", f"reference=*:{self.name}").split()
        if built:
            docker("image", "rm", "--force", *set(built))

    def compose(self, *words: str, timeout_s: float = UP_WITHIN_S + 300.0) -> str:
        files = [word for path in self._files for word in ("--file", str(path))]
        # Not the .env of whoever works in this checkout.
        return run(
            "docker", "compose", "--project-directory", str(engine.ROOT), "--env-file", os.devnull,
            "--progress", "plain", "--ansi", "never", *files, *words, timeout_s=timeout_s, env=self._env,
        )  # fmt: skip

    def url(self, service: str, port: int) -> str:
        """Where a container's port is on this host."""
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def secret(self, name: str, service: str = "ingest") -> str:
        return self.compose("exec", "--no-TTY", service, "cat", f"/run/secrets/{name}").strip()

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """The engine's view of all containers of the project, stopped ones too; of these services if any are named."""
        found = inspect(*self.ids("container"))
        return [each for each in found if not services or service_of(each) in services]

    def container(self, service: str) -> dict[str, Any]:
        [found] = self.containers(service)
        return found

    def ids(self, kind: str) -> list[str]:
        """Of the project's containers, networks or volumes, as the engine lists them by label."""
        everything = ["--all"] if kind == "container" else []
        wanted = f"label={_LABEL}.project={self.name}"
        return docker(kind, "ls", "--quiet", *everything, "--filter", wanted).split()

    def crash(self, service: str) -> None:
        """SIGKILL to the main process, from outside: `docker kill` would count as a stop that was asked for."""
        pid = self.container(service)["State"]["Pid"]
        image = self.container("sink")["Config"]["Image"]
        kill = f"import os; os.kill({pid}, 9)"
        docker("run", "--rm", "--pid", "host", "--cap-add", "KILL", "--user", "0", image, "python", "-c", kill)

    def cut_off(self, service: str) -> list[str]:
        """Take the container off all its networks; gives them, for `join`."""
        container = self.container(service)
        networks = list(container["NetworkSettings"]["Networks"])
        for network in networks:
            docker("network", "disconnect", network, container["Id"])
        return networks

    def join(self, service: str, networks: list[str]) -> None:
        for network in networks:
            docker("network", "connect", "--alias", service, network, self.container(service)["Id"])

    def logs(self) -> str:
        """How each container is, and the last lines it wrote."""
        try:
            return self.compose("ps", "--all") + self.compose("logs", "--no-color", "--tail", "25", timeout_s=30)
        except CommandFailed as error:
            return str(error)

    def _services(self) -> list[str]:
        """All that can be had, or none: then compose takes all."""
        if not self.left_out:
            return []
        services = self._config()["services"]
        return [name for name, service in services.items() if service.get("image") not in self.left_out]

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(self.compose("config", "--format", "json"))
        return config


def service_of(container: Mapping[str, Any]) -> str:
    return str(container["Config"]["Labels"][f"{_LABEL}.service"])


def name_of(container: Mapping[str, Any]) -> str:
    return str(container["Name"]).lstrip("/")


def is_healthy(container: Mapping[str, Any]) -> bool:
    return bool(container["State"].get("Health", {}).get("Status") == "healthy")


def _environment(name: str, settings: Mapping[str, str]) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("CARILLON_", "COMPOSE_"))}
    variables = sorted({variable for path in FILES for variable in _PORT_VARIABLE.findall(path.read_text())})
    # 198.18.0.0/15 is set aside for tests (RFC 2544): nobody's network, and private to the dispatcher's guard.
    prefix = f"198.{18 + (os.getpid() >> 8) % 2}.{os.getpid() % 256}"
    own = {"COMPOSE_PROJECT_NAME": name, "COMPOSE_PROFILES": PROFILES, "CARILLON_IMAGE_TAG": name}
    own |= {"DEMO_PREFIX": prefix, "CARILLON_ALLOW_NETWORKS": f"{prefix}.3/32"}
    return plain | dict(zip(variables, map(str, _free_ports(len(variables))), strict=True)) | own | dict(settings)


def _free_ports(count: int) -> list[int]:
    """Fixed ones, because a port that the engine chooses changes with each restart of its container."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
