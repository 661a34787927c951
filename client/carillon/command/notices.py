"""`carillon notice`"""

from typing import Annotated

import typer

from carillon.command.declare import command
from carillon.command.session import Session


def declare(app: typer.Typer) -> None:
    command(app, "notice")(notice)


async def notice(
    session: Session,
    message: Annotated[str, typer.Argument(metavar="TEXT", help="What a person should read.")],
    subject: Annotated[str | None, typer.Option("--subject", "-s", metavar="TEXT")] = None,
) -> None:
    """Put a text of your own into the next digest mail."""
    made = await session.client.notify(message, subject=subject)
    session.out.done(made, made.id)
