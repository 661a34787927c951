"""A project as it looks at 3 a.m.: a day of calls to five hosts told as the dispatchers would have told them, and real
tasks, schedules, rules, keys and dead letters beside them. The same at each run, but for ids and the time of day.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aio_pika
import aiohttp
import msgspec
from aio_pika.abc import AbstractChannel

from libs.common import topology
from libs.common.contracts import (
    AttemptFinished,
    Call,
    FailedTask,
    Message,
    TargetChanged,
    Task,
    TaskAccepted,
    TaskFinished,
    Timing,
    encode,
)
from libs.common.ids import new_id
from libs.common.topology import Route
from tests.e2e.conftest import Receiver, create, task_in

PROJECT = "default"
SHOP, ERP = "api.shop.example", "erp-gateway.internal.example:8443"
PARTNER = "notifications.eu-central-1.partner-with-a-rather-long-name.example.com"
HOSTS = (SHOP, "hooks.billing.example", PARTNER, ERP, "mail.example")
TASKS = 240
LONG_PATH = (
    "/v2/tenants/0190f3c2-77aa-7d10-b4c6-1f0f0f0f0f0f/webhooks/inbound/orders/created?signature=" + "a1b2c3d4" * 40
)
TRACE = b'Traceback (most recent call last):\n  File "app.py", line 214, in handle\n    order = orders[order_id]\n'
FAILURES: tuple[tuple[int | None, str, str], ...] = (
    (503, "server_error", "HTTP 503"),
    (500, "server_error", "HTTP 500"),
    (None, "timeout", "no answer within 15 s"),
    (None, "connect", "Connection refused"),
    (404, "client_error", "HTTP 404"),
    (None, "tls", "certificate verify failed: certificate has expired (_ssl.c:1006)"),
)


@dataclass(frozen=True)
class Seed:
    """One object for each kind of page. `failed` failed for real; `retried` has eight attempts behind it."""

    failed: str
    retried: str
    scheduled: str
    schedule: str
    host: str
    open_host: str


async def seed(api: aiohttp.ClientSession, amqp_url: str, receiver: Receiver) -> Seed:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        retried = await _tell_of_the_day(channel)
        await _park(channel)
    receiver.answers["fails"] = [500]
    failed = await create(
        api, url=f"{receiver.url}/fails", body={"order": 42, "items": ["a", "b"]}, labels={"order": "42"}
    )
    scheduled = [await create(api, **task) for task in _ahead()]
    for name, schedule in _schedules():
        await _put(api, f"/v1/schedules/{name}", schedule)
    await _ask(api, "POST", "/v1/schedules/yearly-archive/pause")
    await _put(api, f"/v1/targets/{SHOP}", {"per_s": 20, "burst": 40})
    await _ask(api, "POST", "/v1/targets/mail.example/pause")
    await _ask(api, "POST", "/v1/keys", {"name": "shop backend", "scopes": ["tasks:write", "tasks:read"]})
    for subject in ("disk almost full on db-2", "nightly import skipped 14 rows"):
        await _ask(api, "POST", "/fallback", {"subject": subject, "message": "see the log\nof the importer"})
    await task_in(api, failed["id"], "failed")
    await task_in(api, str(retried), "retrying")
    return Seed(failed["id"], str(retried), scheduled[0]["id"], "rates-refresh", SHOP, ERP)


async def _tell_of_the_day(channel: AbstractChannel) -> UUID:
    """What the dispatchers would have told of the last 24 hours. Gives a task with many attempts."""
    dice, now = random.Random(8), datetime.now(UTC).replace(microsecond=0)
    entries: list[tuple[Route, Message]] = []
    for _ in range(TASKS):
        due = now - timedelta(seconds=dice.uniform(120, 24 * 3600))
        entries += _life(dice, dice.choices(HOSTS, (12, 6, 3, 2, 4))[0], due, now)
    long_tried, attempts = _long_tried(now)
    opened = TargetChanged(
        host=ERP, state="open", changed_at=now, until=now + timedelta(minutes=9), replica="dispatcher-1",
        reason="5 calls in a row failed: connect",
    )  # fmt: skip
    entries += [*attempts, (topology.TARGET_EVENT, opened)]
    for route, entry in entries:
        await _publish(channel, route, b"[" + encode(entry) + b"]")
    return long_tried


def _life(dice: random.Random, host: str, due: datetime, now: datetime) -> Iterable[tuple[Route, Message]]:
    fails = {ERP: 0.7, PARTNER: 0.35}.get(host, 0.04)
    path = dice.choice(
        ("/orders", f"/orders/{dice.randrange(9000)}/paid", "/hooks/in", LONG_PATH if host == PARTNER else "/")
    )
    task = _task(f"https://{host}{path}", due, order=str(dice.randrange(1000, 9999)))
    yield topology.TASK_EVENT, TaskAccepted(task=task)
    if dice.random() < 0.03:
        yield (
            topology.TASK_EVENT,
            TaskFinished(
                id=task.id, project=PROJECT, generation=1, attempt=1, hop=1, state="cancelled", finished_at=due
            ),
        )
        return
    status, error, detail = dice.choice(FAILURES)
    for number in (1, 2, 3):
        is_good = dice.random() > fails
        started = due + timedelta(seconds=(number - 1) * 20) + timedelta(milliseconds=dice.expovariate(1 / 30))
        if is_good:
            yield topology.ATTEMPT_EVENT, _attempt(task, host, number, started, "succeeded", 200, None, None, dice)
            return
        outcome = "failed" if number == 3 else "retry"
        yield topology.ATTEMPT_EVENT, _attempt(task, host, number, started, outcome, status, error, detail, dice)
    if due > now - timedelta(hours=6):
        yield topology.FALLBACK_ENTRY, FailedTask(
            id=task.id, project=PROJECT, generation=1, state="failed", method="POST", url=f"https://{host}{path}",
            due_at=due, failed_at=started, attempts=3, status_code=status, error=error, error_detail=detail,
        )  # fmt: skip


def _long_tried(now: datetime) -> tuple[UUID, list[tuple[Route, Message]]]:
    task = _task(
        f"https://{PARTNER}{LONG_PATH}", now - timedelta(hours=2, minutes=25), order="7", customer="Zo\u00eb & <Sons>"
    )
    dice = random.Random(9)
    told: list[tuple[Route, Message]] = [(topology.TASK_EVENT, TaskAccepted(task=task))]
    for number in range(1, 9):
        status, error, detail = FAILURES[number % len(FAILURES)]
        started = task.due_at + timedelta(minutes=20 * (number - 1))
        told.append(
            (topology.ATTEMPT_EVENT, _attempt(task, PARTNER, number, started, "retry", status, error, detail, dice))
        )
    return task.id, told


def _task(url: str, due: datetime, **labels: str) -> Task:
    headers = (("Authorization", "Bearer s3cret"), ("X-Shop", "eu"))
    call = Call(url=url, headers=headers, body=b'{"event": "order.paid", "order": 4711, "amount": "19.90"}')
    created = due - timedelta(minutes=5)
    return Task(
        id=new_id(), project=PROJECT, created_at=created, due_at=due, fingerprint="0" * 64, labels=labels,
        call=msgspec.Raw(encode(call)),
    )  # fmt: skip


def _attempt(
    task: Task, host: str, number: int, started: datetime, outcome: Any, status: int | None, error: str | None,
    detail: str | None, dice: random.Random,
) -> AttemptFinished:  # fmt: skip
    took = int(dice.lognormvariate(4.5, 0.8))
    return AttemptFinished(
        id=task.id, project=PROJECT, generation=1, attempt=number, hop=number,
        due_at=started - timedelta(milliseconds=5), started_at=started, duration_ms=took, outcome=outcome,
        status_code=status, error=error, error_detail=detail,
        next_attempt_at=started + timedelta(minutes=20) if outcome == "retry" else None,
        response_headers=(("content-type", "text/plain"), ("server", "nginx")) if status else (),
        response_body=(TRACE * 3 if status == 500 else b"ok") if status else b"", replica="dispatcher-1", host=host,
        timing=Timing(queue_ms=2, dns_ms=3, connect_ms=9, tls_ms=21, first_byte_ms=max(1, took - 40)),
    )  # fmt: skip


async def _park(channel: AbstractChannel) -> None:
    broken: tuple[tuple[Route, bytes], ...] = (
        (topology.CREATE, b"not json at all"),
        (topology.CREATE, b'[{"type": "CreateTask.9", "task": {}}]'),
        (topology.ATTEMPT_EVENT, b'[{"type": "AttemptFinished.1", "id": 7}]'),
        (topology.ATTEMPT_EVENT, b'[{"type": "AttemptFinished.1", "id": 8}]'),
    )
    for route, body in broken:
        await _publish(channel, route, body)


def _ahead() -> list[dict[str, Any]]:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    return [
        {"url": f"https://{SHOP}/reminders/42", "due_at": tomorrow, "labels": {"order": "42"}, "body": {"order": 42}},
        {"url": f"https://{PARTNER}{LONG_PATH}", "delay": "2h", "method": "PUT"},
        *({"url": f"https://{SHOP}/batch/{n}", "delay": f"{n + 1}h"} for n in range(5)),
    ]


def _schedules() -> list[tuple[str, dict[str, Any]]]:
    task = {"url": f"https://{SHOP}/jobs/nightly", "body": {"job": "nightly"}}
    return [
        ("nightly-report", {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "task": task}),
        ("rates-refresh", {"every": "15m", "task": {"url": f"https://{ERP}/rates", "method": "GET"}}),
        ("office-hours-sync", {"cron": "*/10 8-17 * * 1-5", "timezone": "America/New_York", "task": task}),
        ("yearly-archive", {"cron": "0 0 1 1 *", "timezone": "Asia/Tokyo", "task": task, "catch_up": "none"}),
    ]


async def _publish(channel: AbstractChannel, route: Route, body: bytes) -> None:
    exchange = await channel.get_exchange(route.exchange, ensure=False)
    await exchange.publish(aio_pika.Message(body), route.key)


async def _put(api: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
    await _ask(api, "PUT", path, body)


async def _ask(api: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    async with api.request(method, path, json=body) as response:
        assert response.status < 300, f"{method} {path}: {await response.text()}"
