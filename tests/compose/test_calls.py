"""What a user is promised, seen from outside the containers."""

from datetime import UTC, datetime, timedelta

import aiohttp

from libs.common.clock import to_ms
from tests.compose.conftest import RETRY_SCHEDULE_S
from tests.compose.outside import URL, Mailpit, Prometheus, Sink
from tests.compose.project import OURS
from tests.compose.waiting import eventually
from tests.e2e.conftest import create, task_in


async def test_a_task_is_called_once_and_not_before_its_time(api: aiohttp.ClientSession, sink: Sink) -> None:
    due_at = datetime.now(UTC) + timedelta(seconds=2)
    task = await create(api, url=f"{URL}/ok/on-time", due_at=due_at.isoformat())
    await task_in(api, task["id"], "succeeded")
    [call] = await sink.calls_of(task["id"])
    assert call.at_ms >= to_ms(due_at)


async def test_a_task_that_fails_climbs_the_rung_and_succeeds(api: aiohttp.ClientSession, sink: Sink) -> None:
    task = await create(api, url=f"{URL}/flaky/climbs")
    finished = await task_in(api, task["id"], "succeeded")
    first, second = await sink.calls_of(task["id"])
    assert [(first.attempt, first.status), (second.attempt, second.status)] == [(1, 503), (2, 200)]
    assert second.at_ms - first.at_ms >= RETRY_SCHEDULE_S[0] * 1000
    assert finished["attempt_count"] == 2


async def test_a_task_that_never_works_ends_as_failed_and_in_a_mail(
    api: aiohttp.ClientSession, sink: Sink, mailpit: Mailpit
) -> None:
    task = await create(api, url=f"{URL}/never/works")
    finished = await task_in(api, task["id"], "failed", within_s=30)
    assert finished["attempt_count"] == len(RETRY_SCHEDULE_S) + 1 == len(await sink.calls_of(task["id"]))
    [mail] = await eventually("the digest in Mailpit", lambda: mailpit.containing(task["id"]))
    assert "HTTP 503" in mail["Text"]
    assert "failed" in mail["Subject"]


async def test_an_address_that_nobody_allowed_is_not_called(api: aiohttp.ClientSession) -> None:
    task = await create(api, url="http://redis:8000/")
    finished = await task_in(api, task["id"], "failed")
    assert finished["last_attempt"]["error"] == "blocked_address"


async def test_prometheus_has_the_metrics_of_all_four_services(
    api: aiohttp.ClientSession, prometheus: Prometheus
) -> None:
    await create(api, url=f"{URL}/ok/counted")

    async def scraped() -> bool:
        found = await prometheus.query("up == 1")
        return {labels["job"] for labels, _ in found} >= {f"carillon-{name}" for name in OURS} | {"rabbitmq"}

    await eventually("up == 1 for the four services and RabbitMQ", scraped, within_s=60)
    for expression in (
        'sum(carillon_ingest_http_requests_total{status="201"})',
        "sum(carillon_scheduler_fired_total)",
        "sum(carillon_dispatcher_attempts_total)",
        "sum(carillon_mailer_mails_total)",
    ):
        await _is_above_zero(prometheus, expression)


async def _is_above_zero(prometheus: Prometheus, expression: str) -> None:
    async def look() -> bool:
        return any(value > 0 for _, value in await prometheus.query(expression))

    await eventually(f"{expression} > 0 in Prometheus", look, within_s=45)
