"""Where a list goes on: the place of the last task that was shown, as text that means nothing to a client.

It says nothing secret and grants nothing, so it is not signed: a digest tells it from garbage, and from the cursor of
another project or filter.
"""

import base64
import binascii
import hashlib
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from libs.common.clock import EPOCH
from services.ingest.problems import Problem, bad_query

_US = timedelta(microseconds=1)
_TIME_BYTES, _ID_BYTES, _DIGEST_BYTES = 8, 16, 8


class Place(NamedTuple):
    """Between two tasks, in the order of (created_at, id): what is older than this comes next."""

    created_at: datetime
    id: UUID


NEWEST = Place(datetime.max.replace(tzinfo=EPOCH.tzinfo), UUID(int=(1 << 128) - 1))


def write_cursor(place: Place, scope: bytes) -> str:
    """`scope` is what the list is of: a cursor serves no other."""
    return seal(time_bytes(place.created_at) + place.id.bytes, scope)


def read_cursor(text: str, scope: bytes) -> Place:
    """Raises: Problem (400)."""
    raw = unseal(text, scope)
    return Place(time_of(raw), UUID(bytes=raw[_TIME_BYTES:]))


def time_bytes(moment: datetime) -> bytes:
    return ((moment - EPOCH) // _US).to_bytes(_TIME_BYTES, "big", signed=True)


def time_of(raw: bytes) -> datetime:
    """Of what begins with `time_bytes`."""
    return EPOCH + int.from_bytes(raw[:_TIME_BYTES], "big", signed=True) * _US


def seal(place: bytes, scope: bytes) -> str:
    return base64.urlsafe_b64encode(_digest(place, scope) + place).decode().rstrip("=")


def unseal(text: str, scope: bytes) -> bytes:
    """Raises: Problem (400)."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad() from error
    digest, place = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if digest != _digest(place, scope):
        raise _bad()
    return place


def _digest(place: bytes, scope: bytes) -> bytes:
    return hashlib.sha256(b"carillon cursor 1\0" + len(scope).to_bytes(4, "big") + scope + place).digest()[
        :_DIGEST_BYTES
    ]


def _bad() -> Problem:
    return bad_query("cursor", "it is not the next_cursor of a list with these parameters; begin without one")
