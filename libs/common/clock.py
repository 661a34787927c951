"""What time it is, and the one way we write it down. No other file reads the time.

Everything inside is aware UTC; the wire carries milliseconds. Arithmetic is on integers: a float of seconds
cannot hold every microsecond of today, and rounds some of them the wrong way.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class Clock(Protocol):
    """Where a component takes the time from; a test hands in one that it moves by hand."""

    def now(self) -> datetime:
        """The wall clock, aware UTC. May step; never measure a duration with it."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back. For durations and deadlines."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """The wall clock, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment."""
        return time.monotonic()


def ceil_to_ms(moment: datetime) -> datetime:
    """The first whole millisecond at or after `moment`: up, because a call may be late and never early."""
    return moment + timedelta(microseconds=-moment.microsecond % 1000)


def to_ms(moment: datetime) -> int:
    """Whole milliseconds since 1970, rounded down, exact. A naive `moment` raises TypeError."""
    return (moment - EPOCH) // _MS


def from_ms(epoch_ms: int) -> datetime:
    """The aware UTC moment `epoch_ms` milliseconds after 1970. OverflowError outside the years 1 to 9999."""
    return EPOCH + timedelta(milliseconds=epoch_ms)


def format_utc(moment: datetime) -> str:
    """RFC 3339 in whole milliseconds, rounded down: `2027-03-01T09:00:00.000Z`.

    A naive `moment` raises ValueError: astimezone would take it for local time.
    """
    if moment.tzinfo is not UTC:
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone: give it one, tzinfo=UTC")
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
