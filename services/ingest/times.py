"""Reads the moments and delays that clients write. Pure; arithmetic in Decimal, because floats lose milliseconds.

A moment is rounded up to a whole millisecond: a call may be late and never early.
"""

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from libs.common.clock import ceil_to_ms, from_ms

FURTHEST = timedelta(days=3652)  # ten years

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHORT = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_NUMBER = r"([0-9]+(?:[.,][0-9]+)?)"
# ISO 8601 without years and months, whose length depends on the day they begin.
_ISO = re.compile(rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?")
_ISO_UNIT_S = (604_800, 86_400, 3600, 60, 1)
_LENGTH_MAX = 64


class BadTime(Exception):
    """The text says what to write instead; `code` is for programs."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def parse_moment(value: str | float, now: datetime) -> datetime:
    """RFC 3339 with an offset, or unix seconds. Raises: BadTime, also beyond ten years from `now`."""
    moment = _from_text(value) if isinstance(value, str) else _from_unix(value)
    if moment > now + FURTHEST:
        hint = " (unix times are seconds, not milliseconds)" if not isinstance(value, str) else ""
        raise BadTime("too_far", f"is more than 10 years ahead{hint}; give an earlier time")
    return moment


def parse_delay(value: str | float, now: datetime) -> datetime:
    """The moment that is seconds, or `90s` `5m` `2h` `1d`, or ISO 8601 (`PT5M`), after `now`. Raises: BadTime."""
    seconds = _seconds(value) if isinstance(value, str) else Decimal(str(value))
    if seconds < 0:
        raise BadTime("negative", "is negative; give 0 or more, or leave it out to call now")
    if seconds > FURTHEST.total_seconds():
        raise BadTime("too_far", "is more than 10 years; give a shorter delay")
    return ceil_to_ms(now + timedelta(milliseconds=math.ceil(seconds * 1000)))


def _from_text(text: str) -> datetime:
    if len(text) > _LENGTH_MAX:
        raise _not_a_time()
    try:
        moment = msgspec.convert(text, datetime)
        if moment.tzinfo is None:
            raise BadTime("naive_time", "has no offset from UTC; end it with Z or an offset such as +02:00")
        return ceil_to_ms(moment.astimezone(UTC))
    except (msgspec.ValidationError, OverflowError) as error:
        raise _not_a_time() from error


def _from_unix(seconds: float) -> datetime:
    try:
        return from_ms(math.ceil(Decimal(str(seconds)) * 1000))
    except OverflowError as error:
        raise BadTime("too_far", "is no unix time in seconds; give seconds since 1970") from error


def _not_a_time() -> BadTime:
    return BadTime("not_a_time", "is no RFC 3339 time; write it as 2027-03-01T09:00:00Z, or as unix seconds")


def _seconds(text: str) -> Decimal:
    if len(text) <= _LENGTH_MAX:
        if short := _SHORT.fullmatch(text):
            return Decimal(short[1]) * _UNIT_S[short[2]]
        iso = _ISO.fullmatch(text)
        if iso is not None and any(iso.groups()):
            parts = zip(iso.groups(), _ISO_UNIT_S, strict=True)
            return sum((Decimal(part.replace(",", ".")) * unit for part, unit in parts if part), Decimal(0))
    raise BadTime("not_a_delay", "is no delay; write seconds as a number, or 90s, 5m, 2h, 1d, or ISO 8601 as PT5M")
