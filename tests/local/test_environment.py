"""Which variables reach the services, and which servers are ours to start."""

import stat
import subprocess
from pathlib import Path

import pytest

from deploy.local.environment import environment, write_env_file
from deploy.local.layout import SERVICES, Layout
from deploy.local.servers import listeners, own_servers
from deploy.local.services import listeners as service_listeners
from libs.common.settings import EgressSettings, load


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def sourced(layout: Layout) -> dict[str, str]:
    """What a shell has after `. DIR/env`."""
    command = f". {layout.env_file}; env -0"
    printed = subprocess.run(["/bin/sh", "-c", command], env={}, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in printed.split("\0") if line.startswith("CARILLON_"))


def test_the_callers_variables_win_over_the_defaults(layout: Layout) -> None:
    told = environment({"CARILLON_SHARDS": "4", "CARILLON_DIGEST_TO": "me@here", "PATH": "/bin"}, layout)
    shared = told.shared
    assert (shared["CARILLON_SHARDS"], shared["CARILLON_DIGEST_TO"]) == ("4", "me@here")
    assert "PATH" not in shared


def test_what_belongs_to_one_process_or_to_the_client_is_not_taken_from_the_caller(layout: Layout) -> None:
    stray = {"CARILLON_PORT": "1", "CARILLON_ADMIN_PORT": "2", "CARILLON_REPLICA": "x", "CARILLON_API_KEY": "k"}
    assert environment(stray, layout) == environment({}, layout)


def test_the_secrets_stay_the_same_and_are_for_their_owner_only(layout: Layout) -> None:
    assert environment({}, layout) == environment({}, layout)
    files = [layout.secrets, *layout.secrets.iterdir()]
    assert all(not file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) for file in files)


def test_a_server_given_by_the_caller_is_not_started(layout: Layout) -> None:
    told = environment({"CARILLON_REDIS_URL": "redis://elsewhere:6379/0", "CARILLON_SMTP_URL": ""}, layout)
    assert own_servers(told) == ["postgres", "rabbitmq", "smtp"]
    assert told.shared["CARILLON_REDIS_URL"] == "redis://elsewhere:6379/0"


@pytest.mark.parametrize("given", [{}, {"CARILLON_REDIS_URL": "redis://:it's#a 'word'@elsewhere:6379/0"}])
def test_sourcing_the_stacks_own_variables_changes_nothing(layout: Layout, given: dict[str, str]) -> None:
    told = environment(given, layout)
    write_env_file(layout, told, with_services=True)
    assert environment(sourced(layout) | given, layout) == told
    assert sourced(layout)["CARILLON_REDIS_URL"] == told.shared["CARILLON_REDIS_URL"]


def test_variables_sourced_before_the_ports_were_shifted_are_still_known_as_our_own(layout: Layout) -> None:
    write_env_file(layout, environment({}, layout), with_services=True)
    shifted = Layout(layout.root, port_offset=100)
    assert environment(sourced(layout), shifted) == environment({}, shifted)


def test_loopback_is_open_to_calls_but_for_the_ports_of_the_stack(layout: Layout) -> None:
    shared = environment({}, layout).shared
    told = {name: value for name, value in shared.items() if name in {"CARILLON_ALLOW_NETWORKS", "CARILLON_DENY_PORTS"}}
    rules = load(EgressSettings, told).egress_rules()
    own = {listener.port for listener in listeners(["postgres", "redis", "rabbitmq", "smtp"], layout)}
    own |= {layout.admin_port(service, 1) for service in SERVICES}
    assert [port for port in own if rules.refusal("127.0.0.1", port) is None] == []
    assert rules.refusal("127.0.0.1", 8000) is None


def test_no_two_processes_want_the_same_port(layout: Layout) -> None:
    wanted = listeners(["postgres", "redis", "rabbitmq", "smtp"], layout) + service_listeners(layout, replicas=9)
    assert len({listener.port for listener in wanted}) == len(wanted) == 6 + 9 * (1 + len(SERVICES))
