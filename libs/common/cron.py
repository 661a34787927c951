"""When a schedule comes: `Cron` (5 fields, or 6 with the seconds first) and `Every` (an interval). No clock in here.

The clock changes follow Debian's cron(8). A schedule of fixed times comes once a day that has them: at the first
instant after a gap that swallowed its time, and in the first of two passes. One whose seconds, minutes or hours begin
with `*` comes whenever clocks show a matching time: never in a gap, and in both passes.

The calendar is cronsim's, asked for wall times only: with a zone it answers times of the past and skips others
around a change (2.8, Australia/Lord_Howe).
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from re import sub
from typing import Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from libs.common import duration
from libs.common.wallclock import Instant, resolve, second_pass, shown

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
INTERVAL_MIN = timedelta(seconds=1)
INTERVAL_MAX = timedelta(days=3652)  # ten years, as far as a task may be

_SECOND = timedelta(seconds=1)
EXPRESSION_CHARACTERS_MAX = 512
_YEARS_MAX = 50  # cronsim's own; 29 February on a given weekday comes at least every 40
_ANY_WALL_TIME = datetime(2026, 1, 1)  # noqa: DTZ001 - a wall time has no zone
_ANY_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
_FIELDS = (
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day-of-month", "1-31, L (last) or LW (last weekday)"),
    ("month", "1-12 or JAN-DEC"),
    ("day-of-week", "0-7 or SUN-SAT, 5L (last Friday) or MON#2 (second Monday)"),
)

Occurrence = Instant


class CronError(ValueError):
    """The text says which field, and what to write instead."""


class EveryError(ValueError):
    """The text says what to write instead."""


@dataclass(frozen=True)
class Cron:
    """Build it with `parse`. `words` is `expression` in plain English."""

    expression: str
    zone: ZoneInfo
    words: str = field(compare=False)
    _calendar: CronSim = field(compare=False, repr=False)

    @classmethod
    def parse(cls, expression: str, zone: ZoneInfo) -> Self:
        """Raises: CronError when `expression` cannot be read, or does not come within 50 years."""
        calendar = _calendar(expression)
        cron = cls(expression, zone, _words(calendar), calendar)
        if cron.after(_ANY_MOMENT) is None:
            raise CronError(
                f"is no cron expression that comes within {_YEARS_MAX} years; change the day, month or time"
            )
        return cron

    def after(self, moment: datetime) -> Occurrence | None:
        """The first occurrence strictly after the aware `moment`; None where the calendar ends.

        It depends on `moment` alone: asking from occurrence to occurrence meets each one, whoever began where.
        """
        try:
            start = _next_second(moment)
            return self._shown_from(start) if self.is_recurrent else self._asked_from(start)
        except OverflowError:
            return None

    def occurrences(self, after: datetime) -> Iterator[Occurrence]:
        """Every occurrence after the aware `after`, in order; no two at one instant."""
        return _each(self, after)

    @property
    def is_recurrent(self) -> bool:
        """It comes whenever clocks show a matching time; one that is not, once for each of its times."""
        return any(part.startswith("*") for part in self._calendar.parts[:3])

    def _asked_from(self, start: datetime) -> Occurrence | None:
        """Fixed times: the first wall time whose instant is not before `start`."""
        # Counted on from the second before: clocks at the end of a gap no longer show the times in it.
        wall = self._wall_time_from((start - _SECOND).astimezone(self.zone).replace(tzinfo=None) + _SECOND)
        while wall is not None:
            occurrence = resolve(wall, self.zone)
            if occurrence.at >= start:
                return occurrence
            wall = self._wall_time_from(wall + _SECOND)  # of a second pass, or swallowed by the gap just made up for
        return None

    def _shown_from(self, start: datetime) -> Occurrence | None:
        """Recurrent times: the first instant, not before `start`, at which clocks show a matching time."""
        year_max = start.year + _YEARS_MAX
        while start.year <= year_max:
            here = start.astimezone(self.zone)
            wall = self._wall_time_from(here)
            if wall is None:
                return None
            occurrence = resolve(wall, self.zone, 1 if here.fold else 0)
            again = second_pass(start, self.zone)
            if again is not None and occurrence.at >= again:
                start = again
            elif occurrence.dst == "gap":
                start = occurrence.at
            else:
                return occurrence
        return None

    def _wall_time_from(self, earliest: datetime) -> datetime | None:
        calendar = copy(self._calendar)
        calendar.dt = earliest.replace(tzinfo=None, fold=0) - _SECOND
        return next(calendar, None)


@dataclass(frozen=True)
class Every:
    """At `start`, and each `interval` after it, whatever clocks do; `zone` is for the wall times of its occurrences.

    Identify an occurrence by `at`: its `local` changes when the zone's rules do, its instant does not.
    """

    interval: timedelta
    start: datetime
    zone: ZoneInfo

    @classmethod
    def parse(cls, every: str | float, start: datetime, zone: ZoneInfo) -> Self:
        """`every` is seconds, `90s` `15m` `2h` `1d`, or ISO 8601 (`PT15M`); `start` is aware. Raises: EveryError."""
        seconds = duration.seconds(every)
        if seconds is None or not seconds.is_finite():
            raise EveryError("is no interval; write seconds as a number, or 90s, 15m, 2h, 1d, or ISO 8601 as PT15M")
        if not _seconds(INTERVAL_MIN) <= seconds <= _seconds(INTERVAL_MAX):
            raise EveryError("is not between 1 second and 10 years; give another interval")
        if seconds * 1000 % 1:
            raise EveryError("has a part of a millisecond; round it")
        return cls(timedelta(milliseconds=int(seconds * 1000)), start.astimezone(UTC), zone)

    @property
    def words(self) -> str:
        """Plain English, as `Cron.words`."""
        for unit, size in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
            if not self.interval % size:
                count = self.interval // size
                return f"Every {unit}" if count == 1 else f"Every {count} {unit}s"
        seconds = str(self.interval / _SECOND).removesuffix(".0")
        return "Every second" if seconds == "1" else f"Every {seconds} seconds"

    def after(self, moment: datetime) -> Occurrence | None:
        """The first occurrence strictly after the aware `moment`; None where the calendar ends."""
        passed = max(0, (moment - self.start) // self.interval + 1)
        try:
            return shown(self.start + passed * self.interval, self.zone)
        except OverflowError:
            return None

    def occurrences(self, after: datetime) -> Iterator[Occurrence]:
        """Every occurrence after the aware `after`, in order."""
        return _each(self, after)


def _each(recurrence: Cron | Every, moment: datetime) -> Iterator[Occurrence]:
    while (occurrence := recurrence.after(moment)) is not None:
        yield occurrence
        moment = occurrence.at


def _next_second(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: give it one, tzinfo=UTC")
    return moment.astimezone(UTC).replace(microsecond=0) + _SECOND


def _calendar(expression: str) -> CronSim:
    if len(expression) > EXPRESSION_CHARACTERS_MAX:
        raise CronError(f"is no cron expression: it is longer than {EXPRESSION_CHARACTERS_MAX} characters")
    fields = ALIASES.get(expression.strip().lower(), expression)
    try:
        return CronSim(fields, _ANY_WALL_TIME)
    except CronSimError:
        raise CronError("is no cron expression" + _fault(fields.upper().split())) from None


def _fault(parts: list[str]) -> str:
    """What cronsim did not say: it names a field, and neither its content nor the remedy."""
    if parts and parts[0].startswith("@"):
        return f": there is no alias {_quoted(parts[0])}; write one of {', '.join(ALIASES)}, or `every` for an interval"
    if len(parts) not in (5, 6):
        order = " ".join(name for name, _ in _FIELDS[1:])
        return f" of 5 or 6 fields: it has {len(parts)}; write {order}, if wanted with the second before them"
    parts = parts if len(parts) == 6 else ["0", *parts]
    for place, (part, (name, values)) in enumerate(zip(parts, _FIELDS, strict=True)):
        if not _reads(place, part):
            return (
                f": {_quoted(part)} is no {name}; write *, one of {values}, "
                "a list as 1,2, a range as 1-5 or a step as */2"
            )
    return f": day-of-month {_quoted(parts[3])} never comes in month {_quoted(parts[4])}; change one of them"


def _reads(place: int, part: str) -> bool:
    try:
        CronSim(" ".join(part if place == here else "*" for here in range(6)), _ANY_WALL_TIME)
    except CronSimError:
        return False
    return True


def _quoted(part: str) -> str:
    return repr(part if len(part) <= 20 else part[:20] + "...")


def _words(calendar: CronSim) -> str:
    # cronsim's ordinals end at ninth: "the 31th day", "every 52th minute".
    endings = {"1": "st", "2": "nd", "3": "rd"}
    return sub(r"(?<=[02-9])([123])th\b", lambda found: found[1] + endings[found[1]], calendar.explain())


def _seconds(interval: timedelta) -> Decimal:
    return Decimal(interval // _SECOND)
