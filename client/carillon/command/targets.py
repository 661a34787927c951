"""`carillon target ...`"""

from typing import Annotated

import typer

from carillon.command.declare import command, group
from carillon.command.options import Limit
from carillon.command.session import Session
from carillon.command.show import Column, moment
from carillon.models import Breaker, Target

app = group("Targets: the hosts that are called.")

Host = Annotated[str, typer.Argument(metavar="HOST", help="As in the URL: api.example.com.")]

COLUMNS = (
    Column("HOST", lambda target: target.host),
    Column("PAUSED", lambda target: "yes" if target.is_paused else ""),
    Column("CALLS PER S", lambda target: target.per_s),
    Column("BURST", lambda target: target.burst),
    Column("BREAKER", lambda target: "" if target.breaker is None else _breaker(target.breaker)),
)


@command(app, "list")
async def list_(session: Session, limit: Limit = 100) -> None:
    """Hosts that are paused or limited, or have been."""
    await session.out.many(session.client.targets.list(), COLUMNS, limit)


@command(app, "pause")
async def pause(session: Session, host: Host) -> None:
    """No call to this host until it is resumed; its tasks wait and lose no attempt."""
    target = await session.client.targets.pause(host)
    session.out.one(target, card(target))


@command(app, "resume")
async def resume(session: Session, host: Host) -> None:
    """Its tasks are called again."""
    target = await session.client.targets.resume(host)
    session.out.one(target, card(target))


@command(app, "limit")
async def limit(
    session: Session,
    host: Host,
    per_s: Annotated[float | None, typer.Option("--per-s", help="Calls a second.")] = None,
    burst: Annotated[int, typer.Option("--burst", help="Calls at once.")] = 1,
    none: Annotated[bool, typer.Option("--none", help="Take the limit away.")] = False,
) -> None:
    """Call this host no faster than that."""
    if none == (per_s is not None):
        raise typer.BadParameter("give one of them", param_hint="--per-s or --none")
    target = await session.client.targets.limit(host, per_s=per_s, burst=burst)
    session.out.one(target, card(target))


def card(target: Target) -> dict[str, object]:
    return {
        "host": target.host,
        "paused": "yes" if target.is_paused else "no",
        "calls per s": target.per_s or "no limit",
        "burst": target.burst,
        "breaker": None if target.breaker is None else _breaker(target.breaker),
    }


def _breaker(breaker: Breaker) -> str:
    return breaker.state if breaker.until is None else f"{breaker.state} until {moment(breaker.until)}"
