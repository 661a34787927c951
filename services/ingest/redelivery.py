"""How a parked message gets back to where it failed: each of its items, published alone. For door and console alike."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from libs.common.intake import CRASHES_HEADER, UNREADABLE
from libs.common.topology import REPUBLISH, Route
from services.ingest.problems import Problem
from services.ingest.store_parked import DeadLetter

_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Republishes(Protocol):
    """The part of `Publisher` that this needs."""

    async def publish_alone(self, route: Route, item: bytes, headers: Mapping[str, str | int]) -> None:
        """Return when it is confirmed. Raises: NotPublished."""


async def send_back(publisher: Republishes, letter: DeadLetter) -> int:
    """How many items went. The row may go then: who dies in between leaves both, and a message may come twice.

    Raises: Problem (409) when nobody takes it back, NotPublished.
    """
    route, items = way_back(letter)
    for item in items:
        await publisher.publish_alone(route, item, {CRASHES_HEADER: 0})
    return len(items)


def way_back(letter: DeadLetter) -> tuple[Route, list[bytes]]:
    """Raises: Problem (409)."""
    route = REPUBLISH.get(letter.origin)
    if route is None:
        raise Problem(
            409, "unknown_origin", f"No queue takes it back: its origin is {letter.origin!r}. Drop it instead."
        )
    try:
        return route, [bytes(item) for item in _items(letter.body)]
    except UNREADABLE as error:
        detail = "Its body is no JSON array of items, so no consumer could ever read it. Drop it instead."
        raise Problem(409, "unreadable_message", detail) from error
