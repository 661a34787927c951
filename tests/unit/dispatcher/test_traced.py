from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from libs.common.contracts import Call
from services.dispatcher.caller import Request
from services.dispatcher.outcome import Answer
from services.dispatcher.traced import traced_call
from tests.collector import Recorder
from tests.unit.dispatcher.samples import NOW, a_call, a_task, an_answer

ORIGIN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Fake:
    answer: Answer
    requests: list[Request] = field(default_factory=list)

    async def call(self, request: Request) -> Answer:
        self.requests.append(request)
        return self.answer

    def traceparents(self) -> list[str]:
        return [value for name, value in self.requests[0].headers if name.lower() == "traceparent"]


async def traced(call: Call, answer: Answer) -> tuple[Recorder, Fake]:
    """The request as `request_of` makes it, as far as this goes."""
    recorder, fake, task = Recorder(), Fake(answer), a_task(call, attempt=3)
    given = {name.lower() for name, _value in call.headers}
    ours = [("webhook-id", str(task.id)), ("traceparent", call.traceparent)]
    headers = (*call.headers, *((name, value) for name, value in ours if value and name not in given))
    assert await traced_call(recorder.tracer, fake, Request(call, headers), task, NOW - timedelta(seconds=2)) is answer
    assert (recorder.only.attributes or {})["carillon.task.id"] == str(task.id)
    return recorder, fake


async def test_a_span_says_which_attempt_called_what_and_how_late() -> None:
    call = a_call(url="https://example.com/hook%2Fa?token=secret", method="PUT", traceparent=ORIGIN)
    recorder, _fake = await traced(call, an_answer(204))
    span = recorder.only
    attributes = dict(span.attributes or {})
    del attributes["carillon.task.id"]
    assert (span.name, span.kind.name, span.status.status_code.name) == ("PUT", "CLIENT", "UNSET")
    assert attributes == {
        "http.request.method": "PUT",
        "url.full": "https://example.com/hook%2Fa",
        "server.address": "example.com",
        "server.port": 443,
        "http.response.status_code": 204,
        "carillon.attempt": 3,
        "carillon.lateness_s": 2.003,
    }


@pytest.mark.parametrize("origin", [ORIGIN, None])
async def test_the_receiver_gets_the_span_of_the_attempt(origin: str | None) -> None:
    recorder, fake = await traced(a_call(traceparent=origin), an_answer())
    context = recorder.only.context
    assert context is not None
    [sent] = fake.traceparents()
    assert sent.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
    assert ("webhook-id", (recorder.only.attributes or {})["carillon.task.id"]) in fake.requests[0].headers
    assert [f"{link.context.span_id:016x}" for link in recorder.only.links] == ([ORIGIN[36:52]] if origin else [])


async def test_the_traceparent_among_the_tasks_own_headers_stands() -> None:
    call = a_call(traceparent=ORIGIN, headers=(("X-A", "b"), ("Traceparent", "mine")))
    _recorder, fake = await traced(call, an_answer())
    assert fake.traceparents() == ["mine"]


@pytest.mark.parametrize(
    ("call", "answer", "error_type", "detail"),
    [
        ({}, an_answer(503), "503", None),
        ({}, an_answer(410), "410", None),
        ({}, an_answer(302), "redirect", "HTTP 302, not followed"),
        ({}, an_answer(None, error="timeout"), "timeout", "timeout it was"),
        (
            {"expect_body_contains": "yes"},
            an_answer(200, b"no"),
            "expectation",
            "HTTP 200, but the body lacks the expected text",
        ),
        ({"expect_status": ("404",)}, an_answer(404), None, None),
    ],
)
async def test_a_span_fails_with_its_attempt(
    call: dict[str, Any], answer: Answer, error_type: str | None, detail: str | None
) -> None:
    recorder, _fake = await traced(a_call(**call), answer)
    attributes = recorder.only.attributes or {}
    assert attributes.get("error.type") == error_type
    assert attributes.get("http.response.status_code") == answer.status_code
    assert recorder.only.status.status_code.name == ("ERROR" if error_type else "UNSET")
    assert recorder.only.status.description == detail


async def test_what_is_no_url_is_called_and_told_all_the_same() -> None:
    recorder, fake = await traced(a_call(url="http://[x"), an_answer(None, error="protocol"))
    assert len(fake.requests) == 1
    assert "url.full" not in (recorder.only.attributes or {})
