"""`carillon send-test`: does my receiver take a call of ours, and what does it answer?"""

from datetime import datetime, timezone
from typing import Annotated, Any

import typer

from carillon.command.declare import command
from carillon.command.options import CallOptions
from carillon.command.session import NO, Session
from carillon.command.taskview import show_answer
from carillon.command.watching import follow

_BODIES = {"body", "body_text", "body_bytes"}


def declare(app: typer.Typer) -> None:
    command(app, "send-test")(send_test)


async def send_test(
    session: Session,
    url: Annotated[str, typer.Argument(metavar="URL", help="What to call.")],
    call: CallOptions,
) -> None:
    """Call a URL now, once, and show what it answers. A failed test is in the next digest mail, as any task."""
    fields: dict[str, Any] = {"retry": {"schedule_s": []}, "labels": {"carillon": "test"}, **call.fields()}
    if not _BODIES & fields.keys():
        fields["body"] = {"carillon": "test", "sent_at": datetime.now(timezone.utc)}
    task = await session.client.tasks.create(url, **fields)
    task = await follow(session.client, session.out, task.id)
    for attempt in await session.client.tasks.attempts(task.id):
        if session.out.as_json:
            session.out.json(attempt)
        else:
            show_answer(session.out, attempt)
    if task.status != "succeeded":
        raise typer.Exit(NO)
