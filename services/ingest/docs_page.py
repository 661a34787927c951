"""The page at /docs: the OpenAPI document for people. Rendered once, here, without an asset from anywhere else."""

import base64
import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

Schema = Mapping[str, Any]

_FOLDER = Path(__file__).parent / "templates"
_CODE = re.compile(r"`([^`]+)`")
_CONSTRAINTS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("maxProperties", "pattern", "const", "default"),
)


class Page(NamedTuple):
    html: bytes
    headers: Mapping[str, str]


def docs_page(document: Schema) -> Page:
    style, script = ((_FOLDER / name).read_text() for name in ("docs.css", "docs.js"))
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": _words, "json": _json, "limits": _limits}
    html = environment.get_template("docs.html").render(
        document=document,
        sections=list(_sections(document)),
        style=Markup(style),  # noqa: S704  our own files
        script=Markup(script),  # noqa: S704
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Page(html.encode(), headers)


def _sections(document: Schema) -> Iterator[tuple[Schema, list[Schema]]]:
    """Each tag with its operations; then the calls that we make."""
    operations = [
        {**operation, "method": method.upper(), "path": path, "curl": _curl(document, method, path, operation)}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for tag in document["tags"]:
        yield tag, [operation for operation in operations if tag["name"] in operation["tags"]]
    about = {"name": "webhooks", "description": "The calls that your receivers get."}
    yield about, [{**item["post"], "method": "POST", "path": name} for name, item in document["webhooks"].items()]


def _curl(document: Schema, method: str, path: str, operation: Schema) -> str:
    """For a shell with the two variables of the client in it."""
    words = [f'curl -X {method.upper()} "$CARILLON_URL{path.replace("{", "<").replace("}", ">")}"']
    if operation["security"]:
        words.append('-H "Authorization: Bearer $CARILLON_API_KEY"')
    content = operation.get("requestBody", {}).get("content", {})
    for media_type, body in content.items():
        words.append(f"-H 'Content-Type: {media_type}'")
        words.append(f"-d {shlex.quote(_body(media_type, body.get('example', '...')))}")
        break
    return " \\\n     ".join(words)


def _body(media_type: str, example: Any) -> str:
    if isinstance(example, str):
        return example
    if media_type == "application/x-www-form-urlencoded":
        return "&".join(f"{name}={value}" for name, value in example.items())
    return msgspec.json.format(msgspec.json.encode(example), indent=0).decode()


def _words(text: str) -> Markup:
    """Text with `code` in it."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704  escaped before


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def _limits(schema: Schema) -> str:
    told = ((name, schema[name]) for name in _CONSTRAINTS if schema.get(name) is not None)
    return ", ".join(f"{name} {value if isinstance(value, str) else _json(value)}" for name, value in told)


def _hash(text: str) -> str:
    """As a source of a Content Security Policy, level 2."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
