"""What an operator is promised: probes, metrics, and that no single death is noticed."""

import asyncio
import os
import signal

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import PORT_OFFSET, STACK, Receiver, create, eventually, task_in

ADMIN_PORTS = {"ingest": 9101, "scheduler": 9102, "dispatcher": 9103, "mailer": 9104}
PROCESSES = [(service, replica) for service in ADMIN_PORTS for replica in (1, 2)]


def admin(service: str, replica: int) -> str:
    return f"http://127.0.0.1:{ADMIN_PORTS[service] + PORT_OFFSET + 10 * (replica - 1)}"


async def is_ready(api: aiohttp.ClientSession, service: str, replica: int) -> bool:
    try:
        async with api.get(admin(service, replica) + "/readyz") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


@pytest.mark.parametrize(("service", "replica"), PROCESSES)
async def test_every_process_answers_probes_and_scrapes(api: aiohttp.ClientSession, service: str, replica: int) -> None:
    # Another test may have killed it a moment ago.
    was_ready: bool = await eventually(f"{service}-{replica} to be ready", lambda: is_ready(api, service, replica))
    assert was_ready
    async with api.get(admin(service, replica) + "/livez") as response:
        assert response.status == 200, await response.text()
    async with api.get(admin(service, replica) + "/metrics") as response:
        families = {family.name: family for family in text_string_to_metric_families(await response.text())}
    [build] = families["carillon_build_info"].samples
    assert build.labels["service"] == service
    assert all(family.documentation for name, family in families.items() if name.startswith("carillon_"))


@pytest.mark.parametrize("service", ["ingest", "scheduler", "dispatcher"])
async def test_the_death_of_one_replica_loses_nothing(
    api: aiohttp.ClientSession, receiver: Receiver, service: str
) -> None:
    """The first ingest is the one the client talks to, so there the second is killed."""
    # A call that the kill cuts off is repeated when its claim ends, 8 s after the kill at most.
    tasks = [await create(api, url=f"{receiver.url}/{service}-{n}", delay=n / 20, timeout_s=1) for n in range(40)]
    replica = 2 if service == "ingest" else 1
    pid_file = STACK / "pids" / f"{service}-{replica}"
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*(task_in(api, task["id"], "succeeded", within_s=30) for task in tasks))
    assert all(receiver.calls.get(f"{service}-{n}") for n in range(40))
    await eventually(f"{service} restarted", lambda: int(pid_file.read_text()) != pid)
    # The tests that follow need it.
    was_ready: bool = await eventually(f"{service} ready again", lambda: is_ready(api, service, replica))
    assert was_ready
