"""What a receiver gets, verified by the reference library of Standard Webhooks."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from libs.common.signing import secret, sign, whsec
from services.dispatcher.signature import Signer, Versions
from tests.integration.dispatcher.rig import LOOPBACK, Received, Receiver, Tap, a_caller, dispatcher, receiver
from tests.unit.dispatcher.samples import MASTER_KEY, SIGNER, a_call, a_task

JSON = '{"order": 42, "for": "Zo\u00eb \u2603"}'.encode()
WEBHOOK = [f"webhook-{name}" for name in ("id", "timestamp", "signature")]


@pytest.fixture
async def sink() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


def headers(got: Received) -> dict[str, str]:
    return {name.lower(): value for name, value in got.headers}


def library(version: int = 1) -> Webhook:
    return Webhook(whsec(secret(MASTER_KEY, "shop", version)))


@pytest.mark.parametrize("body", [JSON, b"", b'{"a":\r\n 1}\n'])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "HEAD"])
async def test_the_library_verifies_the_call_that_arrives(
    amqp_url: str, redis_url: str, events: Tap, sink: Receiver, method: str, body: bytes
) -> None:
    task = a_task(a_call(url=sink.url, method=method, body=body))
    async with a_caller(*LOOPBACK) as caller, dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(task)
        await events.has(1)
    [got] = sink.requests
    assert got.body == body
    library().verify(got.body, headers(got), json_parse=False)
    assert [[name for name, _ in got.headers].count(name) for name in WEBHOOK] == [1, 1, 1]


async def test_a_body_that_is_no_text_is_signed_byte_for_byte(
    amqp_url: str, redis_url: str, events: Tap, sink: Receiver
) -> None:
    body = bytes(range(256)) * 1024  # 256 KiB: what ingest takes at most
    task = a_task(a_call(url=sink.url, body=body))
    async with a_caller(*LOOPBACK) as caller, dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(task)
        await events.has(1)
    [got] = sink.requests
    timestamp = int(got.header("webhook-timestamp") or 0)
    assert got.header("webhook-signature") == sign(secret(MASTER_KEY, "shop", 1), str(task.id), timestamp, got.body)
    assert got.body == body


async def test_a_retry_has_the_same_id_and_verifies_by_itself(amqp_url: str, redis_url: str, events: Tap) -> None:
    statuses = iter([503, 200])

    async def answer(_received: Received) -> web.StreamResponse:
        return web.Response(status=next(statuses))

    async with (
        receiver(answer) as made_sink,
        a_caller(*LOOPBACK) as caller,
        dispatcher(amqp_url, redis_url, caller) as made,
    ):
        await made.due(a_task(a_call(url=made_sink.url, body=JSON)))
        await events.has(2)
    first, second = made_sink.requests
    assert first.header("webhook-id") == second.header("webhook-id")
    for got in (first, second):
        assert library().verify(got.body, headers(got))["order"] == 42


async def test_during_a_rotation_the_call_verifies_with_either_secret(
    amqp_url: str, redis_url: str, events: Tap, sink: Receiver
) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    signer = Signer(MASTER_KEY, {"shop": Versions(2, until)}.__getitem__)
    async with a_caller(*LOOPBACK) as caller, dispatcher(amqp_url, redis_url, caller, signer=signer) as made:
        await made.due(a_task(a_call(url=sink.url, body=JSON)))
        await events.has(1)
    [got] = sink.requests
    for version in (1, 2):
        library(version).verify(got.body, headers(got))
    with pytest.raises(WebhookVerificationError):
        library(3).verify(got.body, headers(got))


async def test_a_task_that_got_past_ingest_with_webhook_headers_is_called_with_ours(
    amqp_url: str, redis_url: str, events: Tap, sink: Receiver
) -> None:
    attacker = Signer("a-master-key-of-somebody-else-012345").headers(a_task(), JSON, datetime.now(UTC))
    theirs = tuple((name.title(), value) for name, value in attacker)
    task = a_task(a_call(url=sink.url, headers=theirs, body=JSON))
    async with a_caller(*LOOPBACK) as caller, dispatcher(amqp_url, redis_url, caller, signer=SIGNER) as made:
        await made.due(task)
        await events.has(1)
    [got] = sink.requests
    library().verify(got.body, headers(got))
    assert [name for name, _ in got.headers if name.lower() in WEBHOOK] == WEBHOOK
    assert got.header("webhook-id") == str(task.id)
