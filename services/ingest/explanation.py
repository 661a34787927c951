"""What an explanation is made of (`Facts`), and what it says: values only. `explain.py` makes one of the other."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from libs.common.contracts import Call
from services.ingest.stored import StoredAttempt, StoredTask

Code = Literal[
    "waiting_for_time", "being_called", "put_off", "overdue", "waiting_for_retry", "succeeded", "failed", "cancelled",
    "expired", "parked",
]  # fmt: skip
CauseCode = Literal[
    "target_paused", "breaker_open", "rate_limited", "not_visible", "expires_first", "retry_after", "last_answer",
    "ladder_used_up", "gone", "refused_retry", "blocked_address", "cancelled", "expires_at_passed", "unprocessable",
]  # fmt: skip
MoveCode = Literal[
    "wait", "run", "resume_target", "raise_limit", "fix_receiver", "redrive", "redrive_message", "create_again", "none"
]


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    code: CauseCode
    detail: str
    since: str | None = None
    until: str | None = None


class Move(msgspec.Struct, frozen=True):
    code: MoveCode
    detail: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`next_at` is when the task moves by itself, as far as that is known."""

    status: str
    code: Code
    sentence: str
    because: list[Cause]
    next_at: str | None
    what_would_move_it: list[Move]


class Rule(NamedTuple):
    """What holds for the project's calls to the host."""

    is_paused: bool
    per_s: float | None
    changed_at: datetime


class OpenBreaker(NamedTuple):
    replica: str
    until: datetime


class Facts(NamedTuple):
    """`last` is the latest call of this generation in full, where it is still kept."""

    task: StoredTask
    call: Call
    host: str
    rule: Rule | None = None
    breakers: Sequence[OpenBreaker] = ()
    last: StoredAttempt | None = None
