"""A start that cannot work ends at once, and says what, which one and what to do."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import ROOT

SERVICES = ("ingest", "scheduler", "dispatcher", "mailer")
WITH_POSTGRES = ("ingest", "scheduler")


@pytest.fixture
def good(servers: dict[str, str], amqp_url: str, migrated_postgres_url: str, redis_url: str) -> dict[str, str]:
    """An environment that every service starts with, on ports of its own choice."""
    return {
        "PATH": os.environ["PATH"],
        "CARILLON_AMQP_URL": amqp_url,
        "CARILLON_POSTGRES_URL": migrated_postgres_url,
        "CARILLON_REDIS_URL": redis_url,
        "CARILLON_SMTP_URL": servers["CARILLON_SMTP_URL"],
        "CARILLON_DIGEST_TO": "ops@carillon.local",
        "CARILLON_DIGEST_FROM": "carillon@carillon.local",
        "CARILLON_BOOTSTRAP_KEY": "a-key-for-the-tests-of-starts",
        "CARILLON_SIGNING_MASTER_KEY": "0123456789-a-key-for-the-tests-of-starts",
        "CARILLON_HOST": "127.0.0.1",
        "CARILLON_ADMIN_HOST": "127.0.0.1",
        "CARILLON_PORT": "0",
        "CARILLON_ADMIN_PORT": "0",
    }


def start(service: str, environ: dict[str, str]) -> tuple[int, str]:
    """(exit code, stderr) of a service that ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_an_unknown_variable_is_named_with_the_nearest_known(good: dict[str, str], service: str) -> None:
    code, said = start(service, good | {"CARILLON_AMPQ_URL": "amqp://x"})
    assert code == 78
    assert "CARILLON_AMPQ_URL" in said
    assert "CARILLON_AMQP_URL" in said


@pytest.mark.parametrize("service", SERVICES)
def test_all_missing_variables_are_listed_at_once(service: str) -> None:
    code, said = start(service, {"PATH": os.environ["PATH"]})
    assert code == 78
    assert "CARILLON_AMQP_URL" in said
    if service in WITH_POSTGRES:
        assert "CARILLON_POSTGRES_URL" in said


@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_broker_password_is_told_without_repeating_it(good: dict[str, str], service: str) -> None:
    wrong = good["CARILLON_AMQP_URL"].replace("guest:guest", "guest:hunter2")
    code, said = start(service, good | {"CARILLON_AMQP_URL": wrong})
    assert code == 1
    assert "refused the login 'guest'" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("service", WITH_POSTGRES)
def test_a_wrong_database_password_is_told_without_repeating_it(good: dict[str, str], service: str) -> None:
    url = good["CARILLON_POSTGRES_URL"]
    password = url.split("://")[1].split("@")[0].split(":")[1]
    code, said = start(service, good | {"CARILLON_POSTGRES_URL": url.replace(password, "hunter2")})
    assert code == 1
    assert "CARILLON_POSTGRES_URL" in said
    assert "hunter2" not in said


@pytest.fixture
def empty_vhost(rabbitmqctl: Callable[..., str]) -> Iterator[str]:
    rabbitmqctl("add_vhost", "empty")
    rabbitmqctl("set_permissions", "--vhost", "empty", "guest", ".*", ".*", ".*")
    yield "empty"
    rabbitmqctl("delete_vhost", "empty")


def test_a_broker_without_the_topology_is_told_with_the_remedy(good: dict[str, str], empty_vhost: str) -> None:
    for service in SERVICES:
        code, said = start(
            service, good | {"CARILLON_AMQP_URL": good["CARILLON_AMQP_URL"].rstrip("/") + "/" + empty_vhost}
        )
        assert code == 1, service
        assert "python -m deploy.setup" in said


@pytest.mark.parametrize("service", SERVICES)
def test_a_taken_port_is_told_with_its_setting(good: dict[str, str], service: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, said = start(service, good | {"CARILLON_ADMIN_PORT": port})
    assert code == 1
    assert port in said
    assert "CARILLON_ADMIN_PORT" in said
