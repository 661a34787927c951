"""Makes a command of an async function `work(session, ...)`: its parameters become arguments and options.

A parameter whose type is a dataclass stands for all fields of it, so that commands share options by name; those of
`Connection` every command has.
"""

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import typer

from carillon.command.session import Connection, run

Work = TypeVar("Work", bound=Callable[..., Coroutine[Any, Any, None]])


def group(help: str) -> typer.Typer:
    """Commands that stand under one word."""
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None)


def command(app: typer.Typer, name: str) -> Callable[[Work], Work]:
    def register(work: Work) -> Work:
        hints = get_type_hints(work, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in list(inspect.signature(work).parameters.values())[1:]
        ]
        groups = {parameter.name: parameter.annotation for parameter in own if is_dataclass(parameter.annotation)}

        def invoke(**given: Any) -> None:
            connection = _taken(Connection, given)
            values = {name: _taken(kind, given) for name, kind in groups.items()}
            run(connection, lambda session: work(session, **given, **values))

        flat = [one for each in own for one in _options(each)] + _fields(Connection)
        invoke.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
        invoke.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
        invoke.__doc__ = work.__doc__
        app.command(name)(invoke)
        return work

    return register


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    if is_dataclass(parameter.annotation):
        return _fields(parameter.annotation)
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]


def _fields(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(kind)
    ]


def _taken(kind: Any, given: dict[str, Any]) -> Any:
    """The dataclass, of those of `given` that are its fields."""
    return kind(**{field.name: given.pop(field.name) for field in fields(kind)})
