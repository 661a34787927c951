"""The command `carillon`: the API for a shell.

Each module beside this one is a group of commands; `declare` makes a command of an async function, `session` runs it,
`show` prints.
"""

import typer

from carillon.command import deadletters, digest, keys, notices, schedules, sendtest, targets, tasks
from carillon.version import VERSION

app = typer.Typer(
    help="Calls any URL at the time you said. CARILLON_URL and CARILLON_KEY say where and who you are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group, name in (
    (tasks.app, "task"),
    (schedules.app, "schedule"),
    (keys.app, "key"),
    (targets.app, "target"),
    (deadletters.app, "dlq"),
    (digest.app, "digest"),
):
    app.add_typer(group, name=name)
sendtest.declare(app)
notices.declare(app)


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"carillon {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Calls any URL at the time you said. CARILLON_URL and CARILLON_KEY say where and who you are."""
