"""Up, down and everything that dies in between, with stand-ins for the services and no servers."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local import readiness, stack
from deploy.local.errors import StackError
from deploy.local.layout import SERVICES, Layout
from deploy.local.processes import ours, read_pid
from deploy.local.services import listeners
from tests.local.offsets import free_offset

DEADLINE_S = 20.0
ALL_GIVEN = {
    "CARILLON_POSTGRES_URL": "postgresql://nobody@elsewhere/x",
    "CARILLON_REDIS_URL": "redis://elsewhere",
    "CARILLON_AMQP_URL": "amqp://elsewhere",
    "CARILLON_SMTP_URL": "smtp://elsewhere",
}


@pytest.fixture
def request_(tmp_path: Path) -> Iterator[stack.Request]:
    layout = Layout(tmp_path.resolve(), port_offset=free_offset())
    yield stack.Request(layout, service_package="tests.local.fakes", setup_module="tests.local.fakes.setup")
    stack.down(layout)
    assert ours(layout) == set()


def up(request: stack.Request, **variables: str) -> list[str]:
    said: list[str] = []
    stack.up(request, ALL_GIVEN | variables, said.append)
    return said


def pids(request: stack.Request) -> dict[str, int | None]:
    return {file.name: read_pid(file) for file in request.layout.pids.iterdir()}


def eventually(what: str, is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_true():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for: {what}"
        time.sleep(0.02)


def test_up_starts_every_replica_and_down_leaves_nothing(request_: stack.Request) -> None:
    up(replace(request_, replicas=2))
    names = {f"{service}-{number}" for service in SERVICES for number in (1, 2)} | {"supervisor"}
    assert pids(request_).keys() == names
    assert ours(request_.layout) == set(pids(request_).values())
    assert stack.down(request_.layout)
    assert pids(request_) == {}
    assert not stack.down(request_.layout)


def test_what_dies_is_started_again(request_: stack.Request) -> None:
    up(request_)
    before = pids(request_)["mailer-1"]
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually("another pid of mailer-1", lambda: pids(request_)["mailer-1"] != before)
    assert up(request_) == ["already running"]


def test_up_again_restarts_services_only_when_their_variables_change(request_: stack.Request) -> None:
    up(request_)
    first = pids(request_)
    assert up(request_) == ["already running"]
    assert pids(request_) == first
    up(request_, CARILLON_SHARDS="2")
    second = pids(request_)
    assert {name for name in first if first[name] == second[name]} == {"supervisor"}


def test_more_replicas_leave_the_stack_with_all_of_them(request_: stack.Request) -> None:
    up(request_)
    up(replace(request_, replicas=2))
    assert len(pids(request_)) == 1 + 2 * len(SERVICES)
    up(request_)
    assert len(pids(request_)) == 1 + len(SERVICES)


def test_orphans_of_a_killed_supervisor_end_before_a_fresh_start(request_: stack.Request) -> None:
    up(request_)
    orphans = set(pids(request_).values())
    os.kill(pids(request_)["supervisor"] or 0, signal.SIGKILL)
    assert "ended what the last supervisor left behind" in up(request_)
    assert not orphans & ours(request_.layout)
    assert ours(request_.layout) == set(pids(request_).values())


def test_down_works_without_supervisor_and_without_pid_files(request_: stack.Request) -> None:
    up(request_)
    os.kill(pids(request_)["supervisor"] or 0, signal.SIGKILL)
    for file in request_.layout.pids.iterdir():
        file.unlink()
    assert stack.down(request_.layout)
    assert ours(request_.layout) == set()


def test_a_service_that_cannot_live_is_reported_soon_and_with_its_log(request_: stack.Request) -> None:
    with pytest.raises(StackError, match=r"(?s)\w+-1 is not ready: ended \d times, last with 1.*no service can live"):
        up(request_, CARILLON_FAKE="crash")
    up(request_)


def test_a_service_that_is_not_ready_in_time_says_why(request_: stack.Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "SERVICES_TIMEOUT_S", 5.0)
    with pytest.raises(StackError, match="ingest-1 is not ready: 503 broker: connecting"):
        up(request_, CARILLON_FAKE="unready")


def test_no_service_starts_when_the_set_up_step_fails(request_: stack.Request) -> None:
    with pytest.raises(StackError, match=r"(?s)failed with 1.*durable is False, should be True"):
        up(request_, CARILLON_FAKE="setup")
    assert pids(request_).keys() == {"supervisor"}


def test_a_taken_port_is_named_with_its_purpose_before_anything_starts(request_: stack.Request) -> None:
    taken = next(wanted for wanted in listeners(request_.layout, 1) if wanted.process == "mailer-1")
    with socket.create_server(("127.0.0.1", taken.port)):
        with pytest.raises(StackError, match=rf"{taken.port}, wanted by mailer-1 \(admin\)"):
            up(request_)
        assert pids(request_) == {}


async def test_a_question_nobody_answers_has_a_reason(request_: stack.Request) -> None:
    port = request_.layout.admin_port("ingest", 1)
    for question in (
        readiness.service(f"http://127.0.0.1:{port}"),
        readiness.smtp(f"smtp://127.0.0.1:{port}"),
        readiness.valkey(f"redis://127.0.0.1:{port}"),
        readiness.rabbitmq(f"amqp://127.0.0.1:{port}"),
        readiness.postgres(f"postgresql://x@127.0.0.1:{port}/x"),
    ):
        assert await question()
