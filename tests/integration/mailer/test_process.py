"""The real mailer process: killed at the worst moments, asked for a digest, and given a hundred thousand entries."""

import asyncio
import dataclasses
import math
import os
import random
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aio_pika.abc import AbstractConnection

from libs.common import topology
from libs.common.asking import Asker
from libs.common.contracts import AskDigest, DigestAnswer, FailedTask, Notice, encode
from libs.common.ids import new_id
from libs.common.publisher import Publisher
from libs.common.topology import Route
from services.dispatcher.urgent import Urgent
from services.mailer.collect import HELD_MAX
from tests.conftest import ROOT
from tests.integration.mailer.rig import Mailbox, until
from tests.integration.rig import publishing
from tests.unit.mailer.samples import failed, notice

Start = Callable[..., Awaitable[asyncio.subprocess.Process]]
NEVER = "0 0 29 2 *"
# A broker that stands still for a second in the middle would make two digests of what waits, rightly.
PATIENT = """
import services.mailer.collect
from libs.common.lifecycle import run
from services.mailer.__main__ import main

services.mailer.collect.SILENCE_S = 15.0
run(main)
"""
KILLS = 5


@pytest.fixture
async def start(broker: str, mailbox: Mailbox, tmp_path: Path) -> AsyncIterator[Start]:
    started: list[asyncio.subprocess.Process] = []

    async def starting(*, is_patient: bool = False, **settings: str) -> asyncio.subprocess.Process:
        environ = {
            "PATH": os.environ["PATH"],
            "CARILLON_AMQP_URL": broker,
            "CARILLON_SMTP_URL": str(mailbox.server),
            "CARILLON_DIGEST_TO": "ops@example.org",
            "CARILLON_DIGEST_FROM": "carillon@example.org",
            "CARILLON_DIGEST_CRON": NEVER,
            "CARILLON_ADMIN_HOST": "127.0.0.1",
            "CARILLON_ADMIN_PORT": "0",
            **settings,
        }
        what = ("-c", PATIENT) if is_patient else ("-m", "services.mailer")
        with (tmp_path / f"mailer-{len(started)}.log").open("w") as log:
            running = await asyncio.create_subprocess_exec(
                sys.executable, *what, cwd=ROOT, env=environ, stdout=log, stderr=log
            )
        started.append(running)
        return running

    yield starting
    for running in started:
        if running.returncode is None:
            running.kill()
        await running.wait()


@pytest.fixture
async def publisher(broker: str) -> AsyncIterator[Publisher]:
    async with publishing(broker) as publisher:
        yield publisher


@pytest.fixture
async def ask(amqp: AbstractConnection) -> Callable[[str], Awaitable[DigestAnswer]]:
    asker = Asker(DigestAnswer)
    await asker.opened(amqp, asyncio.Event())

    async def asked(action: str) -> DigestAnswer:
        command = AskDigest(command_id=new_id(), action=action)  # type: ignore[arg-type]
        answer = await asker.ask(topology.MAILER_COMMAND, command, timeout_s=60)
        assert answer is not None
        assert answer.command_id == command.command_id
        return answer

    return asked


async def put(publisher: Publisher, *entries: FailedTask | Notice, route: Route = topology.FALLBACK_ENTRY) -> None:
    assert not any(await publisher.publish_many(route, [encode(entry) for entry in entries]))


def hosts(mail: bytes) -> set[str]:
    return set(re.findall(r"h[0-9]+[.]example", mail.decode().replace("=\r\n", "")))


@pytest.mark.timeout(120)
async def test_killed_around_the_servers_yes_it_loses_nothing_and_repeats_a_mail_at_most_once_a_kill(
    start: Start, publisher: Publisher, mailbox: Mailbox
) -> None:
    kills, dice = 0, random.Random(7)
    running = await start(CARILLON_DIGEST_CRON="* * * * * *")

    async def kill() -> None:
        await asyncio.sleep(dice.uniform(0, 0.01))  # between its acceptance and the ack, before and after the 250
        running.kill()

    killing: set[asyncio.Task[None]] = set()

    async def sometimes() -> None:
        nonlocal kills
        if kills < KILLS:
            kills += 1
            task = asyncio.create_task(kill())
            killing.add(task)
            task.add_done_callback(killing.discard)

    mailbox.before_answer = sometimes
    for number in range(8):
        host = f"h{number}.example"
        await put(publisher, failed(number, url=f"https://{host}/"))

        async def is_told(host: str = host) -> bool:
            nonlocal running
            if running.returncode is not None:
                running = await start(CARILLON_DIGEST_CRON="* * * * * *")
            return any(host in hosts(mail) for mail in mailbox.mails)

        await until(f"{host} to be in a mail", is_told, 30)
    assert kills == KILLS
    repeats = sum(times - 1 for times in Counter(mailbox.ids()).values())
    print(f"{kills} kills, {len(mailbox.mails)} mails, {repeats} repeated")
    assert repeats <= kills


async def test_a_digest_can_be_had_at_once(
    start: Start, publisher: Publisher, mailbox: Mailbox, ask: Callable[[str], Awaitable[DigestAnswer]]
) -> None:
    await start(CARILLON_DIGEST_TO_PROJECTS="bank=bank@example.org")
    await put(publisher, failed(1))
    status = await ask("status")
    assert (status.result, status.waiting, status.pages) == ("status", 1, 0)
    assert (status.to, status.to_projects) == (("ops@example.org",), {"bank": ("bank@example.org",)})
    assert status.next_at.month == 2
    now = await ask("now")
    assert (now.result, now.pages) == ("collected", 1)
    await mailbox.has(1)
    again = await ask("now")
    assert (again.result, again.waiting, again.pages) == ("collected", 0, 0)
    assert again.last_at is not None
    assert status.last_at is None or again.last_at > status.last_at


@pytest.mark.timeout(180)
@pytest.mark.parametrize("items_max", [100, 1])
async def test_a_huge_backlog_is_one_mail_and_little_memory(
    start: Start,
    publisher: Publisher,
    mailbox: Mailbox,
    ask: Callable[[str], Awaitable[DigestAnswer]],
    items_max: int,
) -> None:
    """`DIGEST_ENTRIES=100000` for the size that docs/operations.md speaks of."""
    entries = int(os.environ.get("DIGEST_ENTRIES", "10000"))
    route = dataclasses.replace(topology.FALLBACK_ENTRY, items_max=items_max)
    running = await start(is_patient=True)
    await put(publisher, failed(1))
    await ask("now")
    await mailbox.has(1)
    before = _rss_kib(running.pid)
    for first in range(0, entries, 1_000):
        some = [failed(n, url=f"https://h{n % 700}.example/{n}") for n in range(first, first + 1_000)]
        await put(publisher, *some, route=route)
    began = asyncio.get_running_loop().time()
    answer = await ask("now")
    took_s = asyncio.get_running_loop().time() - began
    grown = _peak_kib(running.pid) - before
    print(f"{entries} entries in {answer.waiting} messages: {took_s:.1f} s, {answer.pages} mail, +{grown} KiB")
    mails = math.ceil(answer.waiting / HELD_MAX)
    assert answer.pages == mails
    await mailbox.has(1 + mails)
    assert answer.waiting == entries // items_max
    told = [int(count) for mail in mailbox.mails[1:] for count in re.findall(rb"Subject: Carillon: (\d+) tasks", mail)]
    assert sum(told) == entries
    assert grown < 80 * 1024


async def test_readers_of_a_project_get_its_part_alone(
    start: Start, publisher: Publisher, mailbox: Mailbox, ask: Callable[[str], Awaitable[DigestAnswer]]
) -> None:
    await start(CARILLON_DIGEST_TO_PROJECTS="bank=bank@example.org, bank=audit@example.org")
    await put(publisher, failed(1), failed(2, project="bank"), notice(3))
    assert (await ask("now")).pages == 2
    await mailbox.has(2)
    subjects = {
        tuple(to): re.findall(rb"Subject: (.*)\r", mail)[0]
        for to, mail in zip(mailbox.recipients, mailbox.mails, strict=True)
    }
    assert subjects == {
        ("ops@example.org",): b"Carillon: 1 task failed, 1 notice",
        ("bank@example.org", "audit@example.org"): b"Carillon: 1 task failed",
    }


async def test_an_urgent_failure_is_a_mail_at_once_for_who_reads_of_its_project(
    start: Start, publisher: Publisher, mailbox: Mailbox
) -> None:
    await start(CARILLON_DIGEST_TO_PROJECTS="bank=bank@example.org")
    urgent = Urgent([("severity", "critical")], publisher)
    for number, project in enumerate(["shop", "bank"], 1):
        await urgent.tell(failed(number, project=project, labels={"severity": "critical"}))
    await mailbox.has(2, 30)
    assert sorted(mailbox.recipients) == [["bank@example.org"], ["ops@example.org"]]
    assert all(b"Subject: Carillon now: 1 task failed\r\n" in mail for mail in mailbox.mails)


def _rss_kib(pid: int) -> int:
    return _status_kib(pid, "VmRSS")


def _peak_kib(pid: int) -> int:
    return _status_kib(pid, "VmHWM")


def _status_kib(pid: int, name: str) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])
