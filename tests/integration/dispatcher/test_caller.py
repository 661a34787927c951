"""What a receiver gets of a task: the client's headers, and ours. How it is called: `test_caller_conformance.py`."""

from datetime import timedelta

import msgspec

from services.dispatcher.caller import request_of
from tests.integration.dispatcher.rig import LOOPBACK, a_caller, receiver
from tests.unit.dispatcher.samples import NOW, SIGNER, a_call, a_task


async def test_the_headers_that_are_documented_come_on_top_of_the_clients() -> None:
    task = a_task(attempt=2, due_at=NOW)
    wanted = a_call(headers=(("X-A", "b"), ("x-a", "c"), ("user-agent", "mine")), traceparent="00-1-2-01")
    async with receiver() as made, a_caller(*LOOPBACK) as caller:
        wanted = msgspec.structs.replace(wanted, url=made.url)
        await caller.call(request_of(task, wanted, 7, NOW + timedelta(seconds=1, milliseconds=999), SIGNER))
    [got] = made.requests
    assert [value for name, value in got.headers if name.lower() == "x-a"] == ["b", "c"]
    assert [value for name, value in got.headers if name.lower() == "user-agent"] == ["mine"]
    assert got.header("webhook-id") == got.header("idempotency-key") == str(task.id)
    assert got.header("webhook-timestamp") == str(int(NOW.timestamp()) + 1)
    assert got.header("carillon-attempt") == "2/7"
    assert got.header("carillon-due-at") == "2027-03-01T09:00:00.000Z"
    assert got.header("traceparent") == "00-1-2-01"
