"""What JSON leaves open and readers settle differently: a name that stands twice, half of a surrogate pair.

msgspec takes the last of two names, other readers the first; a proxy that checked the one would let the other pass.
Names inside `body` are the client's own. Costs 3 microseconds for a small task, 4 ms for one of 256 KiB.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from services.ingest.problems import FieldError, escaped

_FREE = "body"


class _Object(dict[str, Any]):
    repeated: str | None = None


class _Repeats(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) != len(pairs):
        names = sorted(name for name, _ in pairs)
        made.repeated = next(one for one, other in itertools.pairwise(names) if one == other)
    return made


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _Repeats


def _reader(of_object: Callable[[list[tuple[str, Any]]], Any]) -> Callable[[str], Any]:
    """Numbers stay text: an int of 5,000 digits is an error in Python."""
    return json.JSONDecoder(
        object_pairs_hook=of_object, parse_int=str, parse_float=str, parse_constant=str, strict=False
    ).decode


_read, _glance = _reader(_object), _reader(_once)


def repeated_names(text: str) -> list[FieldError]:
    """Raises: json.JSONDecodeError, RecursionError."""
    try:
        _glance(text)
    except _Repeats:
        return list(_repeated(_read(text), ""))
    return []


def lone_surrogates(text: str) -> list[FieldError]:
    """Raises: json.JSONDecodeError, RecursionError."""
    return list(_lone(_read(text), ""))


def _repeated(value: Any, pointer: str) -> Iterator[FieldError]:
    if isinstance(value, _Object) and value.repeated is not None:
        yield FieldError(f"{pointer}/{escaped(value.repeated)}", "duplicate", "stands twice; keep one")
    for name, child in _children(value):
        if name != _FREE:
            yield from _repeated(child, f"{pointer}/{escaped(name)}")


def _lone(value: Any, pointer: str) -> Iterator[FieldError]:
    if isinstance(value, str) and not _is_unicode(value):
        yield FieldError(pointer, "bad_value", "contains half of a surrogate pair, which is no character; remove it")
    for name, child in _children(value):
        if not _is_unicode(name):
            yield FieldError(pointer, "bad_name", "has a name with half of a surrogate pair in it; correct it")
        else:
            yield from _lone(child, f"{pointer}/{escaped(name)}")


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((str(index), child) for index, child in enumerate(value))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
