"""`up` and `down` as stories: what happens in which order, and nothing about how."""

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from deploy.local import control, ports, readiness, servers, services
from deploy.local.environment import Environment, environment, reachable, write_env_file
from deploy.local.errors import StackError
from deploy.local.layout import ADMIN_PORTS, MARKER, PROJECT, Layout, replica_name
from deploy.local.plan import Override, Plan, ProcessSpec, Status, read_status

SERVERS_TIMEOUT_S = 90.0
SERVICES_TIMEOUT_S = 90.0
SETUP_TIMEOUT_S = 120.0
LINK_TIMEOUT_S = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What `up` is asked for."""

    layout: Layout
    replicas: int = 1
    servers_only: bool = False
    service_package: str = "services"
    setup_module: str = "deploy.setup"
    overrides: Mapping[str, Override] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What shall run when `up` is done."""

    environment: Environment
    server_names: list[str]
    servers: list[ProcessSpec]
    services: list[ProcessSpec]


def up(request: Request, environ: Mapping[str, str], say: Say) -> Environment:
    """Bring the stack to what is asked for and wait until it is ready. Raises `StackError` if that fails."""
    told = _bring_up(request, environ, say)
    if control.supervisor_pid(request.layout) is None:  # killed a moment ago, it was still there when we looked
        told = _bring_up(request, environ, say)
    return told


def first_link(request: Request, environment: Environment) -> str | None:
    """A one-time link that makes the console's first admin; None when there is a user."""
    module = f"{request.service_package}.ingest.users"
    try:
        done = subprocess.run(  # noqa: S603  our own words
            (sys.executable, "-m", module, "link"),
            cwd=PROJECT,
            env=_own_environ(request.layout, environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LINK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def down(layout: Layout) -> bool:
    """End everything of this stack; False when nothing was running. Data, logs and mails stay."""
    return control.end(layout)


@contextlib.contextmanager
def one_at_a_time(layout: Layout, say: Say) -> Iterator[None]:
    """A second `up` or `down` on the same folder waits for the first."""
    with layout.lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another up or down is at work on {layout.root}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bring_up(request: Request, environ: Mapping[str, str], say: Say) -> Environment:
    layout = request.layout
    _make_folders(layout)
    target = _target(request, environ, say)
    running = control.running_plan(layout)
    _check_servers_stay(running, target)
    if running is None and control.end_orphans(layout):
        say("ended what the last supervisor left behind")
    _check_ports(request, target, running)
    servers.prepare([name for name in target.server_names if not _runs(running, name)], layout)
    write_env_file(layout, target.environment, with_services=not request.servers_only)
    if _is_met(target, running):
        say("already running")
        status = read_status(layout.status_file)
    else:
        status = _change(request, target, running, say)
    everything = _server_questions(target) | _service_questions(request, target)
    _wait(everything, layout, status, SERVICES_TIMEOUT_S)
    return target.environment


def _target(request: Request, environ: Mapping[str, str], say: Say) -> Target:
    told = environment(environ, request.layout)
    names = servers.own_servers(told)
    return Target(told, names, servers.specs(names, request.layout, say), _services(request, told))


def _services(request: Request, told: Environment) -> list[ProcessSpec]:
    if request.servers_only:
        return []
    return services.specs(request.layout, told, request.replicas, request.service_package, request.overrides)


def _change(request: Request, target: Target, running: Plan | None, say: Say) -> Status:
    """Servers first, then the set-up step while no service runs, then the services."""
    if running is not None and running.services():
        say("stopping the services: they change")
    starting = [name for name in target.server_names if not _runs(running, name)]
    if starting:
        say(f"starting {', '.join(starting)}")
    status = control.follow(request.layout, _plan(target.servers))
    _wait(_server_questions(target), request.layout, status, SERVERS_TIMEOUT_S)
    if request.servers_only:
        return status
    say("setting up: migrations, exchanges, queues")
    _set_up(request, target)
    say(f"starting {', '.join(spec.name for spec in target.services)}")
    return control.follow(request.layout, _plan(target.servers + target.services))


def _set_up(request: Request, target: Target) -> None:
    """Run the set-up step. It carries the marker: an `up` that is cut off leaves nothing that `down` cannot find."""
    layout = request.layout
    with layout.log_file("setup").open("w") as log:
        try:
            done = subprocess.run(  # noqa: S603  our own words
                (sys.executable, "-m", request.setup_module),
                cwd=PROJECT,
                env=_own_environ(layout, target.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=SETUP_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            why = f"did not end within {SETUP_TIMEOUT_S:.0f} s"
        else:
            why = f"failed with {done.returncode}" if done.returncode else ""
    if why:
        tail = readiness.log_tail(layout, "setup")
        raise StackError(f"the set-up step {why}; the end of {layout.log_file('setup')}:\n{tail}")


def _own_environ(layout: Layout, environment: Environment) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")}
    return inherited | environment.shared | {MARKER: str(layout.root)}


def _make_folders(layout: Layout) -> None:
    for folder in (layout.logs, layout.mail, layout.pids, layout.root / "data"):
        folder.mkdir(parents=True, exist_ok=True)


def _check_servers_stay(running: Plan | None, target: Target) -> None:
    present = running.servers() if running else {}
    moved = [spec.name for spec in target.servers if spec.name in present and present[spec.name] != spec]
    if moved:
        raise StackError(
            f"the stack is running with other ports or another version of {', '.join(moved)}: run `down` first"
        )


def _check_ports(request: Request, target: Target, running: Plan | None) -> None:
    wanted = servers.listeners(target.server_names, request.layout)
    if not request.servers_only:
        wanted += services.listeners(request.layout, request.replicas)
    ports.check_free(listener for listener in wanted if not _runs(running, listener.process))


def _runs(running: Plan | None, process: str) -> bool:
    return running is not None and any(spec.name == process for spec in running.processes)


def _is_met(target: Target, running: Plan | None) -> bool:
    wanted = {spec.name: spec for spec in target.servers + target.services}
    return running is not None and running.servers() | running.services() == wanted


def _plan(processes: list[ProcessSpec]) -> Plan:
    return Plan(id=uuid.uuid4().hex, processes=tuple(processes))


def _wait(questions: Mapping[str, readiness.Question], layout: Layout, before: Status, timeout_s: float) -> None:
    asyncio.run(readiness.wait_until_ready(questions, layout, before, timeout_s))


def _server_questions(target: Target) -> dict[str, readiness.Question]:
    return {name: servers.is_ready(name, target.environment) for name in target.server_names}


def _service_questions(request: Request, target: Target) -> dict[str, readiness.Question]:
    if not target.services:
        return {}
    host = reachable(target.environment.shared["CARILLON_ADMIN_HOST"])
    return {
        replica_name(service, replica): readiness.service(
            f"http://{host}:{request.layout.admin_port(service, replica)}"
        )
        for service in ADMIN_PORTS
        for replica in range(1, request.replicas + 1)
    }
