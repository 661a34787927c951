"""`carillon key ...`"""

from typing import Annotated

import typer

from carillon.command.declare import command, group
from carillon.command.options import Limit, when
from carillon.command.session import Session
from carillon.command.show import Column, status
from carillon.models import Key

app = group("API keys; needs the scope admin.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id, not the key.")]
Project = Annotated[
    str | None, typer.Option("--project", metavar="NAME", help="Another than the key's own: for the bootstrap key.")
]

COLUMNS = (
    Column("ID", lambda key: key.id),
    Column("NAME", lambda key: key.name, folds=True),
    Column("SCOPES", lambda key: key.scopes, folds=True),
    Column("CREATED", lambda key: key.created_at),
    Column("LAST USED", lambda key: key.last_used_at),
    Column("EXPIRES", lambda key: key.expires_at),
    Column("STATUS", lambda key: status(key.status)),
)


@command(app, "create")
async def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what it is for.")],
    scope: Annotated[
        list[str],
        typer.Option("--scope", help="tasks:write tasks:read schedules:write schedules:read admin; repeat it."),
    ],
    expires_at: Annotated[str | None, typer.Option("--expires-at", metavar="TIME")] = None,
    per_s: Annotated[float | None, typer.Option("--per-s", help="Requests a second; no limit if left out.")] = None,
    burst: Annotated[int | None, typer.Option("--burst", help="Requests at once.")] = None,
    project: Project = None,
) -> None:
    """Make a key, and show it this once."""
    key = await session.client.keys.create(
        name, scopes=scope, expires_at=when(expires_at), per_s=per_s, burst=burst, project=project
    )
    session.out.one(key, card(key))


@command(app, "list")
async def list_(session: Session, limit: Limit = 100, project: Project = None) -> None:
    """All keys, by their ids."""
    await session.out.many(session.client.keys.list(project=project), COLUMNS, limit)


@command(app, "revoke")
async def revoke(session: Session, id: Id, project: Project = None) -> None:
    """It is refused everywhere within two seconds."""
    key = await session.client.keys.revoke(id, project=project)
    session.out.done(key, f"{key.id} revoked")


@command(app, "rotate")
async def rotate(
    session: Session,
    id: Id,
    overlap_s: Annotated[
        float | None, typer.Option("--overlap-s", help="So long the old one is accepted beside the new one.")
    ] = None,
    project: Project = None,
) -> None:
    """Make a key in the place of this one, and show it this once."""
    key = await session.client.keys.rotate(id, overlap_s=overlap_s, project=project)
    session.out.one(key, card(key))


def card(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "expires": key.expires_at,
        "key": key.key,
        "": "Keep it now: it is stored nowhere, and shown this once." if key.key else None,
    }
