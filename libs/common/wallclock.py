"""What a wall clock in some zone shows, and the instant that is.

A wall time that clocks skip is the first instant after the gap; one that they show twice is the first of the two.
Rules come from the tzdata package, not from the system's zoneinfo, so that every image computes the same instants.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Literal
from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)
_NAME_CHARACTERS_MAX = 64  # the longest of IANA has 32; comparing costs length x names


class UnknownZone(ValueError):
    """The text says what to write instead."""


@dataclass(frozen=True, slots=True)
class Instant:
    """`at`: aware UTC. `local`: the naive wall time it stands for, as asked: inside the gap when `dst` is "gap".

    `dst` "repeated": clocks show `local` twice, and this is the first (`fold` 0) or the second (`fold` 1).
    """

    at: datetime
    local: datetime
    fold: Literal[0, 1]
    dst: Literal["", "gap", "repeated"]


def zone(name: str) -> ZoneInfo:
    """The IANA zone of exactly that name. Raises: UnknownZone, also for paths and names of the system's own."""
    if name not in zone_names():
        raise UnknownZone(_refusal(name))
    return _load(name)


def resolve(local: datetime, zone: ZoneInfo, fold: Literal[0, 1] = 0) -> Instant:
    """The instant at which clocks in `zone` show the naive `local`; `fold` 1 asks for the second, where there is one.

    Raises: ValueError when `local` has a time zone, OverflowError at the ends of the years 1 to 9999.
    """
    if local.tzinfo is not None:
        raise ValueError(f"{local!r} has a time zone: give the wall time alone")
    first, second = _at(local, zone, 0), _at(local, zone, 1)
    if first < second:
        return Instant(second if fold else first, local, fold, "repeated")
    if first > second:  # PEP 495: in a gap the order is reversed, with the change in between
        return Instant(_change_between(second, first, zone), local, 0, "gap")
    return Instant(first, local, 0, "")


def shown(at: datetime, zone: ZoneInfo) -> Instant:
    """What clocks in `zone` show at the aware `at`."""
    local = at.astimezone(zone)
    return resolve(local.replace(tzinfo=None, fold=0), zone, 1 if local.fold else 0)


def second_pass(at: datetime, zone: ZoneInfo) -> datetime | None:
    """While clocks show times that they will show again: the instant they are set back. None otherwise."""
    seen = shown(at, zone)
    if seen.dst != "repeated" or seen.fold:
        return None
    return _change_between(seen.at, resolve(seen.local, zone, 1).at, zone)


def _at(local: datetime, zone: ZoneInfo, fold: Literal[0, 1]) -> datetime:
    return local.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _change_between(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The first whole second in (before, after] with another offset than at `before`; zoneinfo does not list them."""
    offset = before.astimezone(zone).utcoffset()
    low = before.replace(microsecond=0)
    high = after.replace(microsecond=0)
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        low, high = (middle, high) if middle.astimezone(zone).utcoffset() == offset else (low, middle)
    return high


@cache
def zone_names() -> frozenset[str]:
    """All that `zone` takes."""
    # "Factory" is IANA's word for a clock that nobody has set up.
    return frozenset(files("tzdata").joinpath("zones").read_text().split()) - {"Factory"}


@cache
def _load(name: str) -> ZoneInfo:
    with files("tzdata.zoneinfo").joinpath(*name.split("/")).open("rb") as rules:
        return ZoneInfo.from_file(rules, key=name)


def _refusal(name: str) -> str:
    asked = name.strip().lower().replace(" ", "_")[:_NAME_CHARACTERS_MAX]
    known = {key: full for full in sorted(zone_names()) for key in (full.lower(), full.lower().rpartition("/")[2])}
    nearest = get_close_matches(asked, known, n=1, cutoff=0.75)
    return f"is no IANA time zone; did you mean {known[nearest[0]]}?" if nearest else _REFUSAL


_REFUSAL = "is no IANA time zone such as Europe/Paris"
