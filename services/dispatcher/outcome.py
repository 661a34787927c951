"""What an answer means.

    2xx, and `expect` holds                            succeeded
    408 425 429 5xx, network error, timeout,
      `expect` not met, 3xx (never followed)           retry
    410; 4xx with `Carillon-No-Retry: true`;
      an address that the policy refuses               failed
    any other 4xx (the receiver may be mid-deploy)     retry

Pure: an answer in, an outcome out; it knows no ladder and no clock.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from libs.common.contracts import Call, Timing

ErrorClass = Literal[
    "dns", "connect", "tls", "timeout", "disconnected", "protocol", "blocked_address",  # no answer came
    "redirect", "gone", "refused_retry", "client_error", "server_error", "expectation",  # one came
]  # fmt: skip

STATUS_GONE = 410


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one call met: an HTTP answer (`status_code` set) or the error that came instead of one.

    `body` is what was read of it (see `caller.py` for how much). Header names are lower case.
    """

    started_at: datetime
    duration_ms: int
    status_code: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    error: ErrorClass | None = None
    error_detail: str | None = None
    timing: Timing = Timing()

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Outcome(msgspec.Struct, frozen=True):
    """`error` is None exactly when it succeeded."""

    kind: Literal["succeeded", "retry", "failed"]
    error: ErrorClass | None = None
    detail: str | None = None


def judge(call: Call, answer: Answer) -> Outcome:
    """The outcome of one attempt, by the table above."""
    status = answer.status_code
    if status is None:
        kind: Literal["retry", "failed"] = "failed" if answer.error == "blocked_address" else "retry"
        return Outcome(kind, answer.error, answer.error_detail)
    if unmet := _unmet(call, answer, status):
        return _judge_status(answer, status) or Outcome("retry", "expectation", unmet)
    return Outcome("succeeded")


def _judge_status(answer: Answer, status: int) -> Outcome | None:
    """What the status alone says of an answer that did not succeed."""
    detail = f"HTTP {status}"
    if status == STATUS_GONE:
        return Outcome("failed", "gone", detail)
    if 400 <= status < 500 and (answer.header("carillon-no-retry") or "").strip().lower() == "true":
        return Outcome("failed", "refused_retry", f"{detail} with Carillon-No-Retry: true")
    if 300 <= status < 400:
        return Outcome("retry", "redirect", f"{detail}, not followed")
    if 400 <= status < 500:
        return Outcome("retry", "client_error", detail)
    if status >= 500:
        return Outcome("retry", "server_error", detail)
    return None


def _unmet(call: Call, answer: Answer, status: int) -> str | None:
    """Which expectation the answer does not meet; None when all are met."""
    if call.expect_json_success:
        return None if status == 200 and _says_success(answer.body) else f"HTTP {status} without JSON success: true"
    if not any(_matches(expected, status) for expected in call.expect_status):
        return f"HTTP {status}, expected {' or '.join(call.expect_status)}"
    wanted = call.expect_body_contains
    if wanted is not None and wanted.encode() not in answer.body:
        return f"HTTP {status}, but the body lacks the expected text"
    return None


def _matches(expected: str, status: int) -> bool:
    return expected == str(status) or (expected.endswith("xx") and expected[0] == str(status)[0])


def _says_success(body: bytes) -> bool:
    try:
        answer: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # all that a hostile body makes it raise
        return False
    return isinstance(answer, Mapping) and answer.get("success") is True
