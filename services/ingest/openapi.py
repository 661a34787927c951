"""The OpenAPI 3.1 document, made from the same rows and types that serve.

What a schema cannot say stands in words: in the summaries of the rows, in `_ABOUT`, and in the texts of the problems,
whose examples are made by the constructors that the handlers use.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, get_args

import msgspec

from libs.common.finished import FinishedTask
from services.ingest.auth import Scope
from services.ingest.constraints import BEYOND, Schema
from services.ingest.endpoint import JSON, Endpoint
from services.ingest.examples import EXAMPLES
from services.ingest.problems import PROBLEM_JSON, Problem, ProblemDocument
from services.ingest.schemas import REF, published, schemas
from services.ingest.vocabulary import (
    BY_STATUS,
    OF_A_LIMIT,
    PATH,
    PROBLEMS,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    TAGS,
)
from services.ingest.webhooks import webhooks

SECURITY = "key"
_REQUEST_ID = "0199c0de-0000-7000-8000-000000000000"
_ABOUT = """\
Calls any URL at the time you said, keeps trying until it answers, and tells a person when it never did.

- Times in: RFC 3339 with an offset, or unix seconds. Times out: RFC 3339 in UTC with `Z`, milliseconds.
- Errors are `application/problem+json` (RFC 9457): `code` is for programs, `errors` points at each wrong field.
- Lists are newest first: `?limit=&cursor=`, `next_cursor`, and a `Link` header with `rel="next"`.
- A 201 means the broker has confirmed the task. After a 503 it may exist all the same: repeat the request with the
  same `Idempotency-Key`, and there will be one.
- A name that stands twice in an object is a 422, except inside `body`, which travels byte for byte.

Some refusals no schema can tell before. Each is a 422 with its code at the field:

{beyond}

What your receivers get is under `webhooks`."""

_PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    rows = sorted(endpoints, key=lambda row: (_plain(row.path), row.method))
    types, plain = _Types(rows), {_plain(row.path) for row in rows}
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        path = _plain(row.path)
        paths.setdefault(path, {})[row.method.lower()] = _operation(row, types, operation_id(row.method, path, plain))
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": "Carillon",
            "version": version,
            "description": _ABOUT.format(beyond="\n".join(f"- `{code}`: {what}" for code, what in BEYOND.items())),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "Where this document came from"}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items() if name in _used_tags(rows)],
        "paths": paths,
        "webhooks": webhooks(),
        "components": {
            "schemas": types.components,
            "responses": {str(status): _problem(status, problem) for status, problem in PROBLEMS.items()},
            "headers": RESPONSE_HEADERS,
            "parameters": {name: _header(name) for name in REQUEST_HEADERS},
            "securitySchemes": {
                SECURITY: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key. It belongs to one project and has scopes, none of which implies"
                    f" another: {', '.join(f'`{scope}`' for scope in get_args(Scope))}.",
                }
            },
        },
    }
    return msgspec.json.decode(msgspec.json.encode(made))  # type: ignore[no-any-return]  # lists, not tuples


def operation_id(method: str, path: str, paths: Collection[str]) -> str:
    """`list_tasks`, `get_task`, `create_task`, `run_task`, `redrive_tasks`, `get_task_attempts`, `save_task`.

    What has items among `paths` is a list of them.
    """
    words = [word.replace("-", "_") for word in path.strip("/").split("/") if word not in {"v1", "api"}]
    things = [word for word in words if not word.startswith("{")]
    is_list = any(other.startswith(f"{path}/{{") for other in paths)
    verbs = {"GET": "list" if is_list else "get", "POST": "create", "PUT": "put", "PATCH": "update", "DELETE": "delete"}
    if words[-1].startswith("{"):
        return "_".join((verbs[method], *things[:-1], _one(things[-1])))
    if len(things) == 1:
        return f"{verbs[method]}_{things[0] if verbs[method] == 'list' else _one(things[0])}"
    owner = _one(things[-2]) if words[-2].startswith("{") else things[-2]
    return f"get_{owner}_{things[-1]}" if method == "GET" else f"{things[-1]}_{owner}"


class _Types:
    """The schemas of everything that the rows take and give."""

    def __init__(self, rows: Sequence[Endpoint]) -> None:
        bodies = [type_ for row in rows for type_ in (*row.takes.values(), *row.gives.values()) if type_ is not None]
        queries = [row.query for row in rows if row.query is not None]
        wanted = [*bodies, *queries, ProblemDocument, FinishedTask]
        found, components = schemas(wanted)
        self._refs = [*zip(wanted, found, strict=True)]
        self._queries = {query: components.pop(_tail(self.of(query))) for query in dict.fromkeys(queries)}
        self.components = dict(sorted(components.items()))

    def of(self, type_: Any) -> Schema:
        return next(schema for known, schema in self._refs if known is type_ or known == type_)

    def of_query(self, query: type[msgspec.Struct]) -> Schema:
        return self._queries[query]


def _operation(row: Endpoint, types: _Types, name: str) -> dict[str, Any]:
    needs = f"Needs the scope `{row.scope}`." if row.scope else "Needs no key."
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": row.summary,
        "description": needs,
        "tags": [_tag(row)],
        "parameters": list(_parameters(row, types)),
        "responses": _responses(row, types),
        "security": [{SECURITY: [row.scope]}] if row.scope else [],
    }
    if row.takes:
        contents = {media_type: _content(types.of(type_), type_) for media_type, type_ in row.takes.items()}
        operation["requestBody"] = {"required": not row.may_be_empty, "content": contents}
    return operation


def _parameters(row: Endpoint, types: _Types) -> Iterator[Schema]:
    for name in _PARAMETER.findall(row.path):
        schema = PATH.get(f"{_tag(row)} {name}") or PATH.get(name, {"type": "string"})
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if row.query is not None:
        schema = types.of_query(row.query)
        for name, of_field in schema["properties"].items():
            yield _query_parameter(name, of_field, name in schema["required"])
        for pattern, of_field in schema.get("patternProperties", {}).items():
            yield _open_parameter(pattern, of_field)
    for name in (*row.headers, "X-Request-Id"):
        yield {"$ref": f"#/components/parameters/{name}"}


def _query_parameter(name: str, schema: Schema, is_required: bool) -> Schema:
    alternatives = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    [plain] = alternatives if len(alternatives) == 1 else [{"anyOf": alternatives}]
    default = {"default": schema["default"]} if schema.get("default") is not None else {}
    about = {"description": plain.pop("description")} if "description" in plain else {}
    if plain.get("format") == "date-time":
        plain = {"anyOf": [plain, {"type": "number"}]}  # in a query both are text
    return {"name": name, "in": "query", "required": is_required, **about, "schema": {**plain, **default}}


def _open_parameter(pattern: str, schema: Schema) -> Schema:
    """Any number of parameters: the members of an object, exploded."""
    named = {"type": "object", "patternProperties": {pattern: schema}, "additionalProperties": False}
    name = re.sub(r"\W.*", "", pattern.lstrip("^"))
    about = f"`{name}.NAME=VALUE`, for any number of names. {schema.pop('description', '')}".strip()
    return {
        "name": name,
        "in": "query",
        "style": "form",
        "explode": True,
        "required": False,
        "description": about,
        "schema": named,
    }


def _header(name: str) -> Schema:
    return {"name": name, "in": "header", "required": False, **REQUEST_HEADERS[name]}


def _responses(row: Endpoint, types: _Types) -> dict[str, Any]:
    responses = {str(status): _success(row, status, types) for status in row.gives}
    of_key = (401, 403, 429, 503) if row.scope else ()
    of_body = (400, 408, 413) if row.scope and row.takes else ()
    for status in sorted({*of_key, *of_body, *row.problems}):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    return dict(sorted(responses.items()))


def _success(row: Endpoint, status: int, types: _Types) -> Schema:
    type_ = row.gives[status]
    headers = ["Location"] if status == HTTPStatus.CREATED else []
    if "Idempotency-Key" in row.headers and status == HTTPStatus.CREATED:
        headers.append("Idempotency-Replayed")
    if row.query is not None and "cursor" in row.query.__struct_fields__:
        headers.append("Link")
    if row.scope is not None:
        headers += OF_A_LIMIT
    response = {"description": HTTPStatus(status).phrase, "headers": _headers(headers)}
    return response if type_ is None else {**response, "content": {JSON: _content(types.of(type_), type_)}}


def _problem(status: int, problem: Problem) -> Schema:
    example = msgspec.to_builtins(problem.document(instance="/v1/tasks", request_id=_REQUEST_ID))
    schema = {"$ref": REF.format(name=published(ProblemDocument.__name__))}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _headers(BY_STATUS.get(status, ())),
        "content": {PROBLEM_JSON: {"schema": schema, "example": example}},
    }


def _headers(names: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, "X-Request-Id")}


def _content(schema: Schema, type_: Any) -> Schema:
    content: Schema = {"schema": schema}
    if isinstance(type_, type) and type_ in EXAMPLES:
        content["example"] = EXAMPLES[type_]
    return content


def _plain(path: str) -> str:
    """Without the patterns that the router knows."""
    return _PARAMETER.sub(r"{\1}", path)


def _tag(row: Endpoint) -> str:
    first, *_ = (word for word in row.path.strip("/").split("/") if word != "v1")
    return "legacy" if first == "api" else first


def _used_tags(rows: Iterable[Endpoint]) -> set[str]:
    return {_tag(row) for row in rows}


def _one(word: str) -> str:
    return word.removesuffix("s")


def _tail(schema: Schema) -> str:
    return str(schema["$ref"]).removeprefix(REF.format(name=""))
