"""The port: what a call is asked with and what every caller promises. The one that makes it is in `http/`.

One HTTP request under one time limit; nothing is followed, remembered or decoded.
"""

from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, Protocol

from libs.common.clock import format_utc
from libs.common.contracts import Call, Task
from libs.common.ids import text_of
from libs.common.version import VERSION
from services.dispatcher.outcome import Answer
from services.dispatcher.signature import Signer

# Enough to look for an expected text in; the rest is not read, and the connection is dropped with it.
BODY_READ_MAX = 64 * 1024
CONNECT_TIMEOUT_S = 10.0
DNS_CACHE_S = 30
USER_AGENT = f"Carillon/{VERSION}"

Headers = tuple[tuple[str, str], ...]


class Request(NamedTuple):
    """One attempt, ready to be sent."""

    call: Call
    headers: Headers


class Caller(Protocol):
    async def call(self, request: Request) -> Answer:
        """Send it and read the answer. A failure is an `Answer` with an `error`, never an exception.

        Sent once; but what is idempotent (RFC 9110 section 9.2.2) is sent again, on a new connection, when a kept one
        ended before a byte of an answer came.
        """


def request_of(task: Task, call: Call, attempts_max: int, now: datetime, signer: Signer) -> Request:
    """The client's headers, then ours. One of its own wins over ours, but for `webhook-`, which ingest refuses too."""
    id_ = text_of(task.id)
    ours = [
        ("User-Agent", USER_AGENT),
        *signer.headers(task, call.body, now),
        ("Idempotency-Key", id_),
        ("Carillon-Attempt", f"{task.attempt}/{attempts_max}"),
        ("Carillon-Due-At", format_utc(task.due_at)),
    ]
    if call.traceparent:
        ours.append(("traceparent", call.traceparent))
    theirs, named = _theirs(call.headers)
    return Request(call, (*theirs, *[header for header in ours if header[0].lower() not in named]))


@lru_cache(maxsize=256)  # the tasks of one client have the same ones
def _theirs(headers: Headers) -> tuple[Headers, frozenset[str]]:
    """With their names in lower case."""
    kept = tuple(header for header in headers if not header[0].lower().startswith("webhook-"))
    return kept, frozenset(name.lower() for name, _value in kept)
