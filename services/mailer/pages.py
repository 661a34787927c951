"""What shares a mail. Pure: entries in, pages out.

A batch is made of whole messages where they fit, so that one publish covers what one ack settles.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from libs.common.contracts import DigestPage, FailedTask, FallbackEntry, Notice
from libs.common.ids import new_id
from libs.common.topology import MIB

ITEMS_MAX = 500
BYTES_MAX = MIB


class Line(NamedTuple):
    """One entry of the digest and the bytes that it has in its message."""

    entry: FallbackEntry
    size: int


class Batch:
    """The lines of the messages gathered for the next page."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._bytes = 0
        self._settle: Callable[[], Awaitable[object]] | None = None

    def has_room_for(self, lines: Sequence[Line]) -> bool:
        """An empty batch takes any message: one that is larger than a page is cut later, by `pages`."""
        fits = len(self.lines) + len(lines) <= ITEMS_MAX and self._bytes + _bytes(lines) <= BYTES_MAX
        return fits or not self.lines

    def add(self, lines: Sequence[Line], settle: Callable[[], Awaitable[object]]) -> None:
        """`lines` are one message's; `settle` acks that message and all before it."""
        self._settle = settle
        self.lines += lines
        self._bytes += _bytes(lines)

    async def settle(self) -> None:
        if self._settle is not None:
            await self._settle()

    def pages(self, first_number: int, created_at: datetime) -> list[DigestPage]:
        """One page as a rule; none when nothing was readable, several when one message is larger than a page."""
        numbered = enumerate(_cut(unique(self.lines)), first_number)
        return [_page(number, created_at, lines) for number, lines in numbered]


def unique(lines: Iterable[Line]) -> list[Line]:
    """Without repeats: a redelivered event is the same (id, generation, state)."""
    seen: dict[object, Line] = {}
    for line in lines:
        seen.setdefault(_identity(line.entry), line)
    return list(seen.values())


def _identity(entry: FallbackEntry) -> object:
    return (entry.id, entry.generation, entry.state) if isinstance(entry, FailedTask) else entry.id


def _cut(lines: Sequence[Line]) -> Iterator[list[Line]]:
    part: list[Line] = []
    for line in lines:
        if part and (len(part) == ITEMS_MAX or _bytes(part) + line.size > BYTES_MAX):
            yield part
            part = []
        part.append(line)
    if part:
        yield part


def _bytes(lines: Iterable[Line]) -> int:
    return sum(line.size for line in lines)


def _page(number: int, created_at: datetime, lines: Sequence[Line]) -> DigestPage:
    entries = [line.entry for line in lines]
    return DigestPage(
        id=new_id(),
        created_at=created_at,
        number=number,
        failed=tuple(entry for entry in entries if isinstance(entry, FailedTask)),
        notices=tuple(entry for entry in entries if isinstance(entry, Notice)),
    )
