"""`carillon digest ...`"""

from carillon.command.declare import command, group
from carillon.command.session import Session

app = group("The mail that tells a person what failed.")


@command(app, "preview")
async def preview(session: Session) -> None:
    """The next one, as far as the project is in it. Nothing is sent."""
    shown = await session.client.digest.preview()
    session.out.done(shown, shown.text)


@command(app, "now")
async def now(session: Session) -> None:
    """Send one now, of all that waits; the schedule stays."""
    sent = await session.client.digest.send()
    session.out.done(sent, f"{sent.pages} mails on their way" if sent.pages else "nothing waits")
