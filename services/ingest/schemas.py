"""JSON Schema of what clients send and get: the shapes of the types, refined by what constraints.py knows of them."""

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from services.ingest.constraints import ANY_LABEL_NAME, KEYWORDS, RULES, Schema

OPEN = "NAME"
REF = "#/components/schemas/{name}"


def schemas(types: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """The schema of each of `types`, in their order, and the named schemas that those refer to."""
    wanted = list(types)
    structs = _structs(wanted)
    found, components = msgspec.json.schema_components([*wanted, *structs], ref_template=REF)
    by_name = {_name(schema): struct for schema, struct in zip(found[len(wanted) :], structs, strict=True)}
    for name, schema in components.items():
        _refine(schema, by_name.get(name))
    named = {published(name): {**schema, "title": published(name)} for name, schema in components.items()}
    assert len(named) == len(components), "two shapes of one name"
    return _renamed((list(found[: len(wanted)]), named))


def published(name: str) -> str:
    """`Task` is what clients call a `TaskView`."""
    return re.sub("(View|Document)$", "", name)


def _renamed(schemas: tuple[list[Schema], dict[str, Schema]]) -> tuple[list[Schema], dict[str, Schema]]:
    pattern = re.escape(REF).replace(re.escape("{name}"), r"(\w+)")
    text = re.sub(pattern, lambda ref: REF.format(name=published(ref[1])), msgspec.json.encode(schemas).decode())
    return msgspec.json.decode(text, type=tuple[list[Schema], dict[str, Schema]])


def _structs(types: Iterable[Any]) -> list[type[msgspec.Struct]]:
    """Every struct that `types` reach."""
    seen: dict[type[msgspec.Struct], None] = {}
    waiting = [msgspec.inspect.type_info(each) for each in types]
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen[info.cls] = None
        waiting += _parts(info)
    return list(seen)


def _parts(info: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """The types that `info` is made of, of whatever kind."""
    for name in info.__struct_fields__:
        value = getattr(info, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, msgspec.inspect.Field):
                yield each.type
            elif isinstance(each, msgspec.inspect.Type):
                yield each


def _name(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _refine(schema: Schema, struct: type[msgspec.Struct] | None) -> None:
    if "description" in schema:
        schema["description"] = inspect.cleandoc(schema["description"])
    for name, field in schema.get("properties", {}).items():
        for alternative in _alternatives(field):
            if alternative.get("type") == "string" and name.endswith("_at"):
                alternative.setdefault("format", "date-time")
    _open_names(schema)
    if struct is None:
        return
    for base in struct.__mro__:
        for name, keywords in KEYWORDS.get(base, {}).items():
            for alternative in _alternatives(schema["properties"][name]):
                alternative.update(keywords.get(alternative.get("type", ""), {}))
        if base in RULES:
            schema.setdefault("allOf", []).extend(RULES[base])


def _open_names(schema: Schema) -> None:
    """`label.NAME` stands for any number of names."""
    for name in [name for name in schema.get("properties", {}) if name.endswith(OPEN)]:
        [text] = [each for each in _alternatives(schema["properties"].pop(name)) if each.get("type") != "null"]
        any_name = f"^{re.escape(name.removesuffix(OPEN))}{ANY_LABEL_NAME}$"
        schema.setdefault("patternProperties", {})[any_name] = text


def _alternatives(schema: Schema) -> list[Schema]:
    if "anyOf" not in schema:
        return [schema]
    # "number" takes whole ones too.
    if {"type": "number"} in schema["anyOf"]:
        schema["anyOf"] = [each for each in schema["anyOf"] if each != {"type": "integer"}]
    return list(schema["anyOf"])
