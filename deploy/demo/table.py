"""How the demo looks: one row per task, and the summary below."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich import box
from rich.table import Table

from deploy.demo.script import Line

COLOURS = {"succeeded": "green", "failed": "red", "retrying": "yellow"}


def table(lines: Sequence[Line], calls: Mapping[str, Sequence[datetime]], mail: str | None) -> Table:
    grid = Table(title="Carillon", caption=f"digest mail: {mail or 'not yet'}", box=box.SIMPLE_HEAD)
    for column in ("task", "what", "due", "called", "lateness", "calls", "state"):
        grid.add_column(
            column, justify="right" if column in ("lateness", "calls") else "left", no_wrap=column != "what"
        )
    for line in lines:
        came = calls.get(line.name, ())
        state = str(line.task.get("status", "sent"))
        lateness = lateness_ms(line, came)
        grid.add_row(
            line.name,
            line.what,
            _clock(due_at(line)),
            _clock(came[0] if came else None),
            "" if lateness is None else f"{lateness:.0f} ms",
            str(len(came)),
            f"[{COLOURS.get(state, 'white')}]{state}[/]",
        )
    return grid


def due_at(line: Line) -> datetime | None:
    text = line.task.get("due_at")
    return datetime.fromisoformat(text) if text else None


def lateness_ms(line: Line, came: Sequence[datetime]) -> float | None:
    """From the task's time to its first call, as the receiver saw it; negative would be early."""
    due = due_at(line)
    return (came[0] - due).total_seconds() * 1000 if due and came else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]


def _clock(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}" if moment else ""
