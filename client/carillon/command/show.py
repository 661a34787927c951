"""Prints: JSON, a document a line, or tables and cards for a person. What comes from elsewhere has no control over
the terminal."""

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

T = TypeVar("T")

PIPE_WIDTH = 2000
"""Columns where there is no terminal: nothing is wrapped or cut off that a program may read."""
_STYLES = {
    "succeeded": "green", "active": "green", "revoked": "red", "failed": "red", "parked": "red", "retrying": "yellow",
    "paused": "yellow", "delivering": "cyan", "due": "cyan", "cancelled": "dim", "expired": "dim", "ended": "dim",
}  # fmt: skip
_UNITS_S = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


class Column(NamedTuple):
    """A heading, and what stands under it; in one line, unless it `folds`."""

    heading: str
    cell: Callable[[Any], object]
    folds: bool = False


class Output:
    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
        if not self.console.is_terminal:
            self.console.width = PIPE_WIDTH

    @property
    def is_live(self) -> bool:
        """A person looks on."""
        return self.console.is_terminal and not self.as_json

    def one(self, value: object, card: Mapping[str, object]) -> None:
        """`value` as JSON, or the rows of `card` that say something."""
        if self.as_json:
            self.json(value)
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, said in card.items():
            if said not in (None, "", {}, [], ()):
                table.add_row(name, cell(said))
        self.console.print(table)

    async def many(self, values: AsyncIterator[T], columns: Sequence[Column], limit: int) -> None:
        """The first `limit` of them; 0 means all. As JSON each is printed when it comes."""
        table = _table(columns)
        async for value in _first(values, limit):
            if self.as_json:
                self.json(value)
            else:
                table.add_row(*(cell(column.cell(value)) for column in columns))
        if not self.as_json:
            self._print(table)

    def rows(self, values: Iterable[T], columns: Sequence[Column]) -> None:
        table = _table(columns)
        for value in values:
            table.add_row(*(cell(column.cell(value)) for column in columns))
        self._print(table)

    def _print(self, table: Table) -> None:
        if table.row_count:
            self.console.print(table)
        else:
            print("none", file=sys.stderr)

    def json(self, value: object) -> None:
        """What says nothing is left out: a list tells less of each than the whole has names for."""
        fields = msgspec.to_builtins(value)
        print(msgspec.json.encode({name: said for name, said in fields.items() if said not in (None, {})}).decode())

    def line(self, text: Text | str) -> None:
        self.console.print(text, soft_wrap=True)

    def done(self, value: object, text: str) -> None:
        """`value` as JSON, or one line that says what has been done."""
        if self.as_json:
            self.json(value)
        else:
            self.line(safe(text))


def _table(columns: Sequence[Column]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.heading, overflow="fold", no_wrap=not column.folds)
    return table


async def _first(values: AsyncIterator[T], limit: int) -> AsyncIterator[T]:
    count = 0
    async for value in values:
        yield value
        count += 1
        if count == limit:
            return


def cell(value: object) -> Text:
    match value:
        case Text():
            return value
        case None:
            return Text("")
        case datetime():
            return Text(moment(value))
        case Mapping():
            return Text(safe(" ".join(f"{name}={said}" for name, said in value.items())))
        case list() | tuple():
            return Text(safe(" ".join(map(str, value))))
        case _:
            return Text(safe(str(value)))


def status(text: str) -> Text:
    return Text(safe(text), style=_STYLES.get(text, ""))


def moment(at: datetime) -> str:
    """`2027-03-01 09:00:00Z`."""
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z"


def distance(at: datetime | None) -> str:
    """`in 4m 58s`, `3s ago`."""
    if at is None:
        return ""
    left = at - datetime.now(timezone.utc)
    return f"in {length(left)}" if left > timedelta(0) else f"{length(-left)} ago"


def length(time: timedelta) -> str:
    """The two largest units: `1d 3h`, `4m 58s`, `0s`."""
    seconds = int(time.total_seconds())
    parts: list[str] = []
    for size, unit in _UNITS_S:
        count, seconds = divmod(seconds, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def safe(text: str) -> str:
    """`text` without what a terminal would obey, or turn around."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def safe_lines(text: str) -> str:
    return "\n".join(safe(line.expandtabs()) for line in text.splitlines())
