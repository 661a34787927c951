"""Follows a task until no call follows: a line for each change, and on a terminal a clock that runs."""

from contextlib import AbstractContextManager, nullcontext

from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from carillon.client import Client
from carillon.command.show import Output, distance, moment, safe, status
from carillon.models import Task


async def follow(client: Client, out: Output, id: str) -> Task:
    """The task in its final state."""
    clock = _Clock()
    with clock.shown_on(out):
        async for task in client.tasks.watch(id):
            clock.task = task
            if out.as_json:
                out.json(task)
            else:
                out.line(_line(task))
    assert clock.task is not None  # watch ends with the final one
    return clock.task


class _Clock:
    """The last line of a terminal: where the task is, and how long until something happens."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self._spinner = Spinner("dots")

    def shown_on(self, out: Output) -> AbstractContextManager[object]:
        if not out.is_live:
            return nullcontext()
        return Live(console=out.console, get_renderable=self._now, refresh_per_second=5, transient=True)

    def _now(self) -> Spinner:
        self._spinner.update(text=Text("asking" if self.task is None else _clock_of(self.task)))
        return self._spinner


def _clock_of(task: Task) -> str:
    """`scheduled, call in 4m 58s`."""
    if task.next_attempt_at is None:
        return safe(task.status)
    left = distance(task.next_attempt_at)
    return f"{safe(task.status)}, call {left if left.startswith('in') else 'now'}"


def _line(task: Task) -> Text:
    """`retrying  attempt 1: 503 server_error after 12 ms, next at 2027-03-01 09:00:05Z`."""
    line = status(task.status)
    last = task.last_attempt
    if last is not None:
        met = " ".join(safe(str(part)) for part in (last.status_code, last.error) if part is not None)
        line.append(f"  attempt {last.number}: {met} after {last.duration_ms} ms", style="default")
    if task.next_attempt_at is not None:
        line.append(f"{',' if last else ' '} call at {moment(task.next_attempt_at)}", style="default")
    return line
