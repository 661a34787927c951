"""What an entry of the Redis list asks for: the ancestor's four fields, or a task as in `POST /v1/tasks`. Pure.

Everything follows from the entry and its id, also the moment that relative times count from: whoever publishes an
entry, and however often, publishes the same task.
"""

import base64
import hashlib
from datetime import datetime
from uuid import UUID

import msgspec

from libs.common.clock import format_utc, from_ms
from libs.common.contracts import Task
from libs.common.egress import EgressRules
from services.ingest.creation import Sender, create
from services.ingest.legacy import LegacyFields, LegacyRules, new_task
from services.ingest.problems import FieldError, Problem
from services.ingest.requests import names_of, read_json, read_task
from services.ingest.times import LENGTH_MAX


class LegacyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The ancestor wrote `plan_time` as RFC 3339; others push unix seconds, as in the form."""

    notify_url: str
    plan_time: str | int | float | None = None
    method_name: str | None = None
    notify_param: str | None = None


class Rejected(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry that became no task, and why. `entry_base64` in place of `entry` when it is no UTF-8."""

    rejected_at: str
    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    entry: str | None = None
    entry_base64: str | None = None
    is_cut: bool = False


class _LegacyMark(msgspec.Struct):
    notify_url: msgspec.Raw = msgspec.Raw(b"")


_decode_mark = msgspec.json.Decoder(_LegacyMark).decode
_decode_legacy = msgspec.json.Decoder(LegacyEntry).decode
_LEGACY_NAMES = names_of(LegacyEntry)


class EntryReader:
    """`rules.project` owns what is read; an entry above `bytes_max` is refused as a request body would be."""

    def __init__(self, project: str, rules: LegacyRules, egress: EgressRules, bytes_max: int) -> None:
        self._project = project
        self._rules = rules
        self._egress = egress
        self._bytes_max = bytes_max

    def task(self, id_: UUID, raw: bytes) -> Task:
        """Raises: Problem."""
        if len(raw) > self._bytes_max:
            raise Problem(413, "entry_too_large", f"The entry has {len(raw)} bytes; push at most {self._bytes_max}.")
        now, is_legacy = moment_of(id_), _is_legacy(raw)
        sender = Sender(
            id=id_,
            project=self._project,
            fingerprint=hashlib.sha256(raw).hexdigest(),
            now=now,
            expect_json_success=is_legacy and self._rules.is_json_success,
        )
        new = new_task(_legacy_fields(raw), now, self._rules) if is_legacy else read_task(raw)
        return create(new, sender, self._egress)

    def rejected(self, raw: bytes, problem: Problem, now: datetime) -> bytes:
        """The JSON of `Rejected`."""
        kept = raw[: self._bytes_max]
        try:
            text, encoded = kept.decode(), None
        except UnicodeDecodeError:
            text, encoded = None, base64.b64encode(kept).decode()
        return msgspec.json.encode(
            Rejected(
                rejected_at=format_utc(now),
                code=problem.code,
                detail=problem.detail,
                errors=tuple(problem.errors),
                entry=text,
                entry_base64=encoded,
                is_cut=len(kept) < len(raw),
            )
        )


def moment_of(id_: UUID) -> datetime:
    """When this UUIDv7 was made."""
    return from_ms(id_.int >> 80)


def _is_legacy(raw: bytes) -> bool:
    try:
        return bool(bytes(_decode_mark(raw).notify_url))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # `read_task` says what is wrong with it


def _legacy_fields(raw: bytes) -> LegacyFields:
    entry = read_json(raw, _decode_legacy, _LEGACY_NAMES)
    plan_time = entry.plan_time or 0
    if isinstance(plan_time, str) and len(plan_time) <= LENGTH_MAX and plan_time.lstrip("-").isdecimal():
        plan_time = int(plan_time)
    if not isinstance(plan_time, str):
        plan_time = max(plan_time, 0)
    return LegacyFields(entry.notify_url.strip(), plan_time, entry.method_name or "", entry.notify_param or "")
