"""Reads the moments and delays that clients write. Pure; arithmetic in Decimal, because floats lose milliseconds.

A moment is rounded up to a whole millisecond: a call may be late and never early.
"""

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec

from libs.common import duration
from libs.common.clock import ceil_to_ms, from_ms
from libs.common.wallclock import UnknownZone, resolve, zone

FURTHEST = timedelta(days=3652)  # ten years

LENGTH_MAX = 64


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


def parse_local(at: str, timezone: str, now: datetime) -> datetime:
    """When clocks in `timezone` show `at`: the first instant after a gap that swallows it, the first of two otherwise.

    Raises: BadTime, whose `code` is "unknown_zone" where the zone is at fault.
    """
    try:
        where = zone(timezone)
    except UnknownZone as error:
        raise BadTime("unknown_zone", str(error)) from error
    moment = _at(_wall_time(at), where)
    if moment > now + FURTHEST:
        raise BadTime("too_far", "is more than 10 years ahead; give an earlier time")
    return moment


def _wall_time(text: str) -> datetime:
    try:
        wall = msgspec.convert(text if len(text) <= LENGTH_MAX else "", datetime)
    except msgspec.ValidationError as error:
        raise BadTime("not_a_time", "is no local time; write it as 2027-03-28T02:30:00") from error
    if wall.tzinfo is not None:
        raise BadTime("offset", "has an offset beside its timezone; leave the offset out, or give due_at instead")
    return wall


def _at(wall: datetime, where: ZoneInfo) -> datetime:
    try:
        return ceil_to_ms(resolve(wall, where).at)
    except OverflowError as error:
        raise BadTime("too_far", "is no time that can be kept; give one of this century") from error


def _from_text(text: str) -> datetime:
    if len(text) > LENGTH_MAX:
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
    seconds = duration.seconds(text)
    if seconds is None:
        raise BadTime("not_a_delay", "is no delay; write seconds as a number, or 90s, 5m, 2h, 1d, or ISO 8601 as PT5M")
    return seconds
