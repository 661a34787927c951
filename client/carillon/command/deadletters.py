"""`carillon dlq ...`"""

from typing import Annotated

import typer

from carillon.command.declare import command, group
from carillon.command.options import Limit
from carillon.command.session import Session
from carillon.command.show import Column
from carillon.models import Parked

app = group("Dead letters: messages that no service could process.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id, as `dlq list` shows it.")]

COLUMNS = (
    Column("ID", lambda parked: parked.id),
    Column("PARKED", lambda parked: parked.parked_at),
    Column("ORIGIN", lambda parked: parked.origin),
    Column("TASK", lambda parked: parked.task_id),
    Column("CAUSE", lambda parked: parked.cause, folds=True),
)


@command(app, "list")
async def list_(
    session: Session,
    origin: Annotated[
        str | None, typer.Option("--origin", metavar="QUEUE", help="Those that its consumer gave up.")
    ] = None,
    limit: Limit = 20,
) -> None:
    """Dead letters, newest first."""
    await session.out.many(session.client.parked.list(origin=origin), COLUMNS, limit)


@command(app, "show")
async def show(session: Session, id: Id) -> None:
    """One of them, with what is in it."""
    parked = await session.client.parked.get(id)
    session.out.one(parked, card(parked))


@command(app, "redrive")
async def redrive(session: Session, id: Id) -> None:
    """Back to where it came from, once what was wrong is mended."""
    redriven = await session.client.parked.redrive(id)
    session.out.done(redriven, f"{id} redriven: {redriven.items} items to {redriven.origin}")


@command(app, "drop")
async def drop(
    session: Session,
    id: Id,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="It stands in Carillon's log.")],
) -> None:
    """Away for good."""
    await session.client.parked.drop(id, reason=reason)
    session.out.done({"id": id}, f"{id} dropped")


def card(parked: Parked) -> dict[str, object]:
    return {
        "id": parked.id,
        "parked": parked.parked_at,
        "origin": parked.origin,
        "cause": parked.cause,
        "crashes": parked.crashes or None,
        "project": parked.project,
        "task": parked.task_id,
        "headers": parked.headers,
        "body": parked.body or parked.body_base64,
    }
