"""The call that a task or a schedule makes, as values for `parts/request.html`. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from libs.common.contracts import Call
from services.ingest.console.payload import Payload, payload
from services.ingest.console.redaction import HeaderLine, header_lines


class Callback(NamedTuple):
    """`task`: where the callback's own task is, once there must be one."""

    when: str
    url: str
    task: str | None = None


class Request(NamedTuple):
    method: str
    url: str
    headers: Sequence[HeaderLine]
    body: Payload
    expect: str
    ladder: str
    timeout: str
    callbacks: Sequence[Callback]


def request_of(call: Call) -> Request:
    callbacks = [("succeeded", call.callback_success), ("failed", call.callback_failure)]
    return Request(
        method=call.method,
        url=call.url,
        headers=header_lines(call.headers),
        body=payload(call.body, call.headers),
        expect=_expectation(call),
        ladder=_ladder(call),
        timeout=f"{call.timeout_s:g} s",
        callbacks=[Callback(when, url) for when, url in callbacks if url is not None],
    )


def _expectation(call: Call) -> str:
    if call.expect_json_success:
        return "status 200 and a JSON object whose success is true"
    wanted = f"status {' or '.join(call.expect_status)}"
    contains = call.expect_body_contains
    return wanted if contains is None else f"{wanted}, and a body that contains {contains!r}"


def _ladder(call: Call) -> str:
    if call.schedule_s is None:
        steps = "as the installation says"
    elif not call.schedule_s:
        steps = "none: one attempt only"
    else:
        steps = f"after {', '.join(f'{step_s:g} s' for step_s in call.schedule_s)}"
    return f"{steps}; a longer Retry-After is {'respected' if call.respect_retry_after else 'not respected'}"
