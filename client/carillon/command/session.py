"""Runs what a command does: opens the client, and turns what goes wrong into one or two lines and an exit code."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import typer

from carillon.client import KEY_VARIABLES, URL_VARIABLE, Client
from carillon.command.show import Output, safe
from carillon.errors import APIError, CarillonError, NotReachable, Unauthorized, Unavailable

TIMEOUT_S = 10.0
"""A person waits; a script that wants to wait longer runs it again."""

NO, USAGE, UNREACHABLE = 1, 2, 3
"""Exit codes beside 0: the API said no, or a task that was waited for has not succeeded; a mistake in the command
line; nobody there."""


@dataclass(frozen=True)
class Connection:
    """The options that every command has."""

    base_url: Annotated[
        str | None, typer.Option("--url", envvar=URL_VARIABLE, metavar="URL", help="Where Carillon is.")
    ] = None
    api_key: Annotated[
        str | None, typer.Option("--key", envvar=list(KEY_VARIABLES), metavar="KEY", help="The API key.")
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, for scripts.")] = False


class Session(NamedTuple):
    """What a command works with."""

    client: Client
    out: Output


def run(connection: Connection, work: Callable[[Session], Awaitable[None]]) -> None:
    """Raises: typer.Exit, with a code that says what happened."""
    try:
        asyncio.run(_with_client(connection, work))
        sys.stdout.flush()  # here typer knows what a reader who has gone away means
    except CarillonError as error:
        _complain(error_lines(error))
        raise typer.Exit(NO if isinstance(error, APIError) else UNREACHABLE) from None
    except ValueError as error:  # what was given is wrong, which the client says before it asks anybody
        _complain([str(error)])
        raise typer.Exit(USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def _with_client(connection: Connection, work: Callable[[Session], Awaitable[None]]) -> None:
    async with _client(connection) as client:
        await work(Session(client, Output(as_json=connection.as_json)))


def _client(connection: Connection) -> Client:
    """Raises: ValueError."""
    if not connection.base_url:
        raise ValueError(f"where is Carillon? Set {URL_VARIABLE}, or give --url")
    if not connection.api_key:
        raise ValueError(f"who are you? Set {KEY_VARIABLES[0]}, or give --key")
    return Client(connection.base_url, connection.api_key, timeout_s=TIMEOUT_S, answer_timeout_s=TIMEOUT_S)


def error_lines(error: CarillonError) -> Iterator[str]:
    """What went wrong and what to do, for a person."""
    match error:
        case Unauthorized():
            yield f"the key is not accepted ({error.status}): check {KEY_VARIABLES[0]} or --key, and the URL"
        case APIError() if error.errors:
            for each in error.errors:
                yield f"{each.pointer.strip('/').replace('/', '.') or 'body'}: {each.detail}"
        case APIError():
            yield error.detail
            if isinstance(error, Unavailable) and error.request_id:
                yield f"request_id {error.request_id}"
        case NotReachable():
            yield f"{error}; check {URL_VARIABLE} or --url, and that Carillon is up"
            if error.is_maybe_taken:
                yield "what was asked for may have happened: look before you repeat it"
        case _:
            yield str(error)


def _complain(lines: Iterator[str] | list[str]) -> None:
    for line in lines:
        print(f"error: {safe(line)}", file=sys.stderr)
