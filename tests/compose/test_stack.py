"""What an operator is promised: it comes up, keeps its passwords to itself, says what is wrong, and goes away whole."""

import json
import re

import pytest

from tests.compose.docker import CommandFailed, docker
from tests.compose.project import OURS, Project, is_healthy, service_of


def test_up_wait_returns_when_every_container_is_healthy_or_has_done_its_work(stack: Project) -> None:
    containers = stack.containers()
    assert {service_of(each) for each in containers} >= {*OURS, "rabbitmq", "postgres", "redis", "mailpit"}
    for each in containers:
        state = each["State"]
        assert is_healthy(each) or (state["Status"], state["ExitCode"]) == ("exited", 0), (service_of(each), state)


def test_our_containers_are_not_root_and_cannot_write(stack: Project) -> None:
    for each in stack.containers(*OURS):
        service = service_of(each)
        assert each["HostConfig"]["ReadonlyRootfs"], service
        assert "ALL" in each["HostConfig"]["CapDrop"], service
        uid = stack.compose("exec", "--no-TTY", service, "python", "-c", "import os; print(os.getuid())")
        assert int(uid) != 0, service
        with pytest.raises(CommandFailed, match="Read-only file system"):
            stack.compose("exec", "--no-TTY", service, "python", "-c", "open('/app/x', 'w')")


def test_no_password_stands_in_what_the_engine_tells_of_a_container(stack: Project) -> None:
    passwords = {password for service in OURS for password in _passwords(stack, service)}
    assert len(passwords) >= 7, "four RabbitMQ users, Postgres, Redis, the API key"
    told = json.dumps(stack.containers())
    assert [password for password in passwords if password in told] == []


def test_a_service_does_not_start_with_a_variable_that_nobody_knows_and_names_it(stack: Project) -> None:
    misspelt = "CARILLON_CONCURENCY"
    with pytest.raises(CommandFailed, match=rf"{misspelt}.*did you mean CARILLON_CONCURRENCY"):
        stack.compose("run", "--rm", "--no-deps", "--no-TTY", "--env", f"{misspelt}=5", "dispatcher", timeout_s=60)


def test_down_leaves_no_container_network_or_volume(stack: Project) -> None:
    before = {kind: stack.ids(kind) for kind in ("container", "network", "volume")}
    assert all(before.values()), before
    # A volume that an image declares, and nobody names, bears no label.
    anonymous = {mount["Name"] for each in stack.containers() for mount in each["Mounts"] if mount["Type"] == "volume"}
    stack.down()
    assert {kind: stack.ids(kind) for kind in before} == {kind: [] for kind in before}
    assert anonymous & set(docker("volume", "ls", "--quiet").split()) == set()


def _passwords(stack: Project, service: str) -> set[str]:
    """Of the files that `service` has in /run/secrets: whole files, and of URLs the password."""
    read = "from pathlib import Path; [print(file.read_text()) for file in Path('/run/secrets').glob('carillon_*')]"
    texts = stack.compose("exec", "--no-TTY", service, "python", "-c", read).split()
    urls = [re.search(r"://[^:/]*:([^@]+)@", text) for text in texts]
    return {text if url is None else url[1] for text, url in zip(texts, urls, strict=True)}
