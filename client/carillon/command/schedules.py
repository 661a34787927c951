"""`carillon schedule ...`"""

from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer

from carillon.command.declare import command, group
from carillon.command.options import CallOptions, Limit, when
from carillon.command.session import Session
from carillon.command.show import Column, status
from carillon.fields import Template
from carillon.models import Schedule

app = group("Schedules: tasks that come again, under a name of your own.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]


def _when(schedule: Schedule) -> str:
    base = schedule.cron if schedule.cron is not None else f"every {schedule.every}" if schedule.every else ""
    return f"{base} {schedule.timezone}" if base and schedule.timezone else base


COLUMNS = (
    Column("NAME", lambda schedule: schedule.name),
    Column("STATUS", lambda schedule: status(schedule.status)),
    Column("NEXT", lambda schedule: schedule.next_at),
    Column("CHANGED", lambda schedule: schedule.changed_at),
)
FIRE_COLUMNS = (
    Column("UTC", lambda fire: fire.at),
    Column("LOCAL", lambda fire: fire.local),
    Column("CLOCK CHANGE", lambda fire: " ".join(filter(None, (fire.dst, fire.meant)))),
)


@dataclass(frozen=True)
class WhenOptions:
    """One of the first two."""

    cron: Annotated[
        str | None, typer.Option("--cron", metavar="'0 9 * * 1-5'", help="5 fields, or 6 with the seconds first.")
    ] = None
    every: Annotated[str | None, typer.Option("--every", metavar="5m", help="90s, 5m, 2h, 1d or PT5M.")] = None
    timezone: Annotated[
        str | None, typer.Option("--timezone", metavar="ZONE", help="Europe/Berlin; UTC if left out.")
    ] = None
    start_at: Annotated[str | None, typer.Option("--start-at", metavar="TIME")] = None
    end_at: Annotated[str | None, typer.Option("--end-at", metavar="TIME")] = None

    def fields(self) -> dict[str, Any]:
        """As the client takes them. Raises: typer.BadParameter."""
        if (self.cron is None) == (self.every is None):
            raise typer.BadParameter("give one of them", param_hint="--cron or --every")
        given = {
            "cron": self.cron,
            "every": self.every,
            "timezone": self.timezone,
            "start_at": when(self.start_at),
            "end_at": when(self.end_at),
        }
        return {name: value for name, value in given.items() if value is not None}


@command(app, "put")
async def put(
    session: Session,
    name: Name,
    url: Annotated[str, typer.Argument(metavar="URL", help="What to call each time.")],
    when: WhenOptions,
    call: CallOptions,
    catch_up: Annotated[
        str | None, typer.Option("--catch-up", metavar="latest|all|none", help="Of what an outage has missed.")
    ] = None,
    expires_after_s: Annotated[
        float | None, typer.Option("--expires-after-s", help="Seconds after which a late one is not called any more.")
    ] = None,
) -> None:
    """Create a schedule, or replace the one of this name."""
    fields = {**when.fields(), "catch_up": catch_up, "expires_after_s": expires_after_s}
    schedule = await session.client.schedules.put(name, **fields, task=cast("Template", {"url": url, **call.fields()}))
    session.out.one(schedule, card(schedule))


@command(app, "get")
async def get(session: Session, name: Name) -> None:
    """A schedule, and when it comes next."""
    schedule = await session.client.schedules.get(name)
    session.out.one(schedule, card(schedule))


@command(app, "list")
async def list_(session: Session, limit: Limit = 100) -> None:
    """All schedules."""
    await session.out.many(session.client.schedules.list(), COLUMNS, limit)


@command(app, "pause")
async def pause(session: Session, name: Name) -> None:
    """It does not come until it is resumed."""
    schedule = await session.client.schedules.pause(name)
    session.out.one(schedule, card(schedule))


@command(app, "resume")
async def resume(session: Session, name: Name) -> None:
    """From its next time on; what the pause has missed is not made up for."""
    schedule = await session.client.schedules.resume(name)
    session.out.one(schedule, card(schedule))


@command(app, "run")
async def run(session: Session, name: Name) -> None:
    """Make its task once, now."""
    made = await session.client.schedules.run(name)
    session.out.done(made, made.task_id)


@command(app, "delete")
async def delete(session: Session, name: Name) -> None:
    """It comes no more, and what it had made ahead is taken back."""
    await session.client.schedules.delete(name)
    session.out.done({"name": name}, f"{name} deleted")


@command(app, "preview")
async def preview(
    session: Session,
    when: WhenOptions,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="So many times.")] = 10,
) -> None:
    """The next times of a schedule that need not exist, with what clock changes do to them."""
    told = await session.client.schedules.preview(**when.fields(), count=count)
    if session.out.as_json:
        session.out.json(told)
        return
    if told.words:
        session.out.line(told.words)
    session.out.rows(told.fires, FIRE_COLUMNS)


def card(schedule: Schedule) -> dict[str, object]:
    """What a person wants to know of a schedule."""
    task = schedule.task
    return {
        "name": schedule.name,
        "status": status(schedule.status),
        "when": _when(schedule),
        "words": schedule.words,
        "next": schedule.next_at,
        "local": schedule.next_local,
        "start": schedule.start_at,
        "end": schedule.end_at,
        "call": None if task is None else f"{task.method} {task.url}",
    }
