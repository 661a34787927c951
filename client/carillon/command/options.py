"""The options of a call, which `task add`, `schedule put` and `send-test` share, and how their texts are read."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

Texts = list[str] | None

Limit = Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many; 0 means all.")]


@dataclass(frozen=True)
class CallOptions:
    method: Annotated[
        str | None, typer.Option("--method", "-X", help="GET, POST, PUT, PATCH, DELETE or HEAD; POST if left out.")
    ] = None
    header: Annotated[Texts, typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="May be repeated.")] = None
    body: Annotated[
        str | None, typer.Option("--body", "-d", metavar="JSON", help="JSON; @FILE reads it from there, @- from stdin.")
    ] = None
    body_text: Annotated[str | None, typer.Option("--body-text", metavar="TEXT", help="Sent as it is.")] = None
    body_file: Annotated[str | None, typer.Option("--body-file", metavar="FILE", help="Its bytes, as they are.")] = None
    content_type: Annotated[str | None, typer.Option("--content-type", metavar="TYPE")] = None
    timeout_s: Annotated[float | None, typer.Option("--timeout-s", help="For the whole call; 15 if left out.")] = None
    retry: Annotated[
        str | None, typer.Option("--retry", metavar="5,15,30", help="Seconds before each repeat; 'never' for none.")
    ] = None
    expect_status: Annotated[
        str | None, typer.Option("--expect-status", metavar="2xx,404", help="What counts as a success.")
    ] = None
    expect_body: Annotated[
        str | None, typer.Option("--expect-body", metavar="TEXT", help="What the answer must contain.")
    ] = None
    label: Annotated[Texts, typer.Option("--label", "-l", metavar="NAME=VALUE", help="May be repeated.")] = None
    on_success: Annotated[
        str | None, typer.Option("--on-success", metavar="URL", help="Is told when it has succeeded.")
    ] = None
    on_failure: Annotated[
        str | None, typer.Option("--on-failure", metavar="URL", help="Is told when it has failed.")
    ] = None

    def fields(self) -> dict[str, Any]:
        """As the client takes them. Raises: typer.BadParameter."""
        given = {
            "method": self.method.upper() if self.method else None,
            "headers": pairs(self.header, ":", "--header"),
            "body": None if self.body is None else json_of(self.body, "--body"),
            "body_text": self.body_text,
            "body_bytes": None if self.body_file is None else bytes_of(self.body_file, "--body-file"),
            "content_type": self.content_type,
            "timeout_s": self.timeout_s,
            "retry": None if self.retry is None else {"schedule_s": ladder(self.retry)},
            "expect": _without_none(
                status=None if self.expect_status is None else self.expect_status.split(","),
                body_contains=self.expect_body,
            ),
            "labels": pairs(self.label, "=", "--label"),
            "callbacks": _without_none(success=self.on_success, failure=self.on_failure),
        }
        return {name: value for name, value in given.items() if value not in (None, {})}


def pairs(texts: Sequence[str] | None, separator: str, option: str) -> dict[str, str]:
    found = {}
    for text in texts or ():
        name, separated, value = text.partition(separator)
        if not separated or not name.strip():
            raise typer.BadParameter(f"{text!r} should be NAME{separator}VALUE", param_hint=option)
        found[name.strip()] = value.strip()
    return found


def json_of(text: str, option: str) -> msgspec.Raw:
    """The very bytes that were given, once they are known to be JSON."""
    raw = bytes_of(text[1:], option) if text.startswith("@") else text.encode("utf-8", "surrogateescape")
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "" if text.startswith("@") else "; for plain text use --body-text"
        raise typer.BadParameter(f"is no JSON ({error}){hint}", param_hint=option) from None
    return msgspec.Raw(raw)


def bytes_of(name: str, option: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{name}: {error.strerror}", param_hint=option) from None


def ladder(text: str) -> list[float]:
    if text.strip() == "never":
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} should be seconds as 5,15,30, or never", param_hint="--retry") from None


def when(text: str | None) -> str | float | None:
    """A number is seconds, anything else as it is."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _without_none(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
