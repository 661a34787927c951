"""`carillon task ...`"""

from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer

from carillon.command.declare import command, group
from carillon.command.options import CallOptions, Limit, Texts, pairs, when
from carillon.command.session import NO, Session
from carillon.command.show import safe
from carillon.command.taskview import ATTEMPT_COLUMNS, COLUMNS, card, explanation_columns, show_answer
from carillon.command.watching import follow
from carillon.fields import TaskFilter
from carillon.models import Bulk

app = group("Tasks: calls to be made at their time.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]


@dataclass(frozen=True)
class WhenOptions:
    """When a task is due; at most one of the first three."""

    delay: Annotated[str | None, typer.Option("--delay", metavar="5m", help="Seconds, 90s, 5m, 2h, 1d or PT5M.")] = None
    due_at: Annotated[
        str | None, typer.Option("--due-at", metavar="TIME", help="2027-03-01T09:00:00Z, or unix seconds.")
    ] = None
    local_time: Annotated[
        str | None, typer.Option("--local-time", metavar="TIME", help="2027-03-28T09:00:00; needs --timezone.")
    ] = None
    timezone: Annotated[
        str | None, typer.Option("--timezone", metavar="ZONE", help="Of --local-time: Europe/Berlin.")
    ] = None

    def fields(self) -> dict[str, Any]:
        """As the client takes them. Raises: typer.BadParameter."""
        if (self.local_time is None) != (self.timezone is None):
            raise typer.BadParameter("give both of them, or neither", param_hint="--local-time and --timezone")
        local = None if self.local_time is None else {"at": self.local_time, "timezone": self.timezone}
        given = {"delay": when(self.delay), "due_at": when(self.due_at), "local_time": local}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class FilterOptions:
    """Which tasks."""

    status: Annotated[str | None, typer.Option("--status", metavar="STATUS", help="scheduled, failed, ...")] = None
    label: Annotated[Texts, typer.Option("--label", "-l", metavar="NAME=VALUE", help="May be repeated.")] = None
    url_prefix: Annotated[str | None, typer.Option("--url-prefix", metavar="URL")] = None
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="Any port unless one is given.")] = None
    due_from: Annotated[str | None, typer.Option("--due-from", metavar="TIME")] = None
    due_to: Annotated[str | None, typer.Option("--due-to", metavar="TIME")] = None
    created_from: Annotated[str | None, typer.Option("--created-from", metavar="TIME")] = None
    created_to: Annotated[str | None, typer.Option("--created-to", metavar="TIME")] = None
    ended_from: Annotated[str | None, typer.Option("--ended-from", metavar="TIME")] = None
    ended_to: Annotated[str | None, typer.Option("--ended-to", metavar="TIME")] = None
    schedule: Annotated[str | None, typer.Option("--schedule", metavar="NAME", help="Made by it.")] = None

    def filter(self) -> TaskFilter:
        given = {
            "status": self.status,
            "labels": pairs(self.label, "=", "--label") or None,
            "url_prefix": self.url_prefix,
            "host": self.host,
            "due_from": when(self.due_from),
            "due_to": when(self.due_to),
            "created_from": when(self.created_from),
            "created_to": when(self.created_to),
            "ended_from": when(self.ended_from),
            "ended_to": when(self.ended_to),
            "schedule": self.schedule,
        }
        return cast("TaskFilter", {name: value for name, value in given.items() if value is not None})


OptionalId = Annotated[str | None, typer.Argument(metavar="ID", help="One task; else all that the options name.")]
All = Annotated[bool, typer.Option("--all", help="All tasks there are, where no option names some.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many tasks the options name.")]


@command(app, "add")
async def add(
    session: Session,
    url: Annotated[str, typer.Argument(metavar="URL", help="What to call.")],
    when: WhenOptions,
    call: CallOptions,
    expires_at: Annotated[
        str | None, typer.Option("--expires-at", metavar="TIME", help="After this it is not called any more.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="TEXT", help="The same text is the same task.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay until it has been called.")] = False,
) -> None:
    """Schedule a call; at once when no time is given."""
    fields = {**when.fields(), **call.fields(), "expires_at": expires_at}
    task = await session.client.tasks.create(url, idempotency_key=idempotency_key, **fields)
    session.out.one(task, card(task))
    if watch:
        await _followed(session, task.id)


@command(app, "get")
async def get(session: Session, id: Id) -> None:
    """A task, and what became of it."""
    task = await session.client.tasks.get(id)
    session.out.one(task, card(task))


@command(app, "list")
async def list_(session: Session, filter: FilterOptions, limit: Limit = 20) -> None:
    """Tasks, newest first."""
    page_size = min(limit, 250) or 250
    await session.out.many(session.client.tasks.list(page_size=page_size, **filter.filter()), COLUMNS, limit)


@command(app, "attempts")
async def attempts(
    session: Session,
    id: Id,
    number: Annotated[int | None, typer.Option("--number", "-n", help="This one, with all that was answered.")] = None,
) -> None:
    """Each call of a task so far."""
    found = [one for one in await session.client.tasks.attempts(id) if number in (None, one.number)]
    if session.out.as_json:
        for one in found:
            session.out.json(one)
    elif number is None:
        session.out.rows(found, ATTEMPT_COLUMNS)
    else:
        for one in found:
            show_answer(session.out, one)
            session.out.line(f"to repeat it: {safe(one.curl)}")


@command(app, "explain")
async def explain(session: Session, id: Id) -> None:
    """Where a task is, why it is not called yet, and what would move it."""
    told = await session.client.tasks.explain(id)
    session.out.done(told, told.sentence)
    for heading, parts in (("WHY", told.because), ("WHAT WOULD MOVE IT", told.what_would_move_it)):
        if parts and not session.out.as_json:
            session.out.rows(parts, explanation_columns(heading))


@command(app, "watch")
async def watch(session: Session, id: Id) -> None:
    """Stay until no call follows; exit code 0 when it has succeeded."""
    await _followed(session, id)


@command(app, "cancel")
async def cancel(
    session: Session, filter: FilterOptions, id: OptionalId = None, all: All = False, dry_run: DryRun = False
) -> None:
    """Take a task back, or all that the options name."""
    if _is_one(id, filter, all, dry_run):
        task = await session.client.tasks.cancel(str(id))
        said = "cancelled" if task.status == "cancelled" else f"{task.status}: not known yet, ask again with 'task get'"
        session.out.done(task, f"{task.id} {said}")
    else:
        bulk = await session.client.tasks.cancel_many(filter.filter(), all=all, dry_run=dry_run)
        session.out.done(bulk, f"{_many(bulk)} {'would be' if dry_run else 'are being'} cancelled")


@command(app, "run")
async def run(session: Session, id: Id) -> None:
    """Call a task now instead of at its time."""
    task = await session.client.tasks.run(id)
    session.out.done(task, f"{task.id} {task.status}")


@command(app, "redrive")
async def redrive(
    session: Session, filter: FilterOptions, id: OptionalId = None, all: All = False, dry_run: DryRun = False
) -> None:
    """Start a failed task again, or all that the options name: same id, fresh ladder."""
    if _is_one(id, filter, all, dry_run):
        task = await session.client.tasks.redrive(str(id))
        session.out.done(task, f"{task.id} {task.status}")
    else:
        bulk = await session.client.tasks.redrive_many(filter.filter(), all=all, dry_run=dry_run)
        session.out.done(bulk, f"{_many(bulk)} {'would start' if dry_run else 'start'} again")


async def _followed(session: Session, id: str) -> None:
    """Raises: typer.Exit, when it has not succeeded."""
    if (await follow(session.client, session.out, id)).status != "succeeded":
        raise typer.Exit(NO)


def _many(bulk: Bulk) -> str:
    return f"{bulk.matched}{'' if bulk.is_exact else ' or more'} tasks"


def _is_one(id: str | None, filter: FilterOptions, all: bool, dry_run: bool) -> bool:
    """Raises: typer.BadParameter, when neither is given or both are."""
    has_filter = bool(filter.filter()) or all
    if (id is None) != has_filter or (id is not None and dry_run):
        raise typer.BadParameter("give the id of one task, or options that name many, such as --label order=42")
    return id is not None
