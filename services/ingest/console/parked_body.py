"""The bytes of a parked message as they are shown: set out where they are JSON, secret headers without values. Pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from libs.common.intake import UNREADABLE
from services.ingest.console.payload import Payload, payload
from services.ingest.console.redaction import is_secret

HIDDEN = "(hidden)"
_decode = msgspec.json.Decoder().decode


class _Redacted(NamedTuple):
    value: Any
    hidden: int


def parked_body(body: bytes) -> Payload:
    """Set out as it came, where nothing is to be hidden: reading and writing it again could change a number."""
    try:
        redacted = _redacted(_decode(body))
    except UNREADABLE:
        return payload(body)
    if not redacted.hidden:
        return payload(body)
    shown = payload(msgspec.json.encode(redacted.value))
    note = f"values of secret headers are hidden: {redacted.hidden}"
    return shown._replace(size=len(body), note="; ".join(filter(None, [shown.note, note])))


def _redacted(value: Any) -> _Redacted:
    """Headers stand in our messages as pairs of name and value."""
    if isinstance(value, dict):
        parts = {name: _redacted(each) for name, each in value.items()}
        return _Redacted({name: part.value for name, part in parts.items()}, _sum(parts.values()))
    if not isinstance(value, list):
        return _Redacted(value, 0)
    if len(value) == 2 and all(isinstance(each, str) for each in value) and is_secret(value[0]):
        return _Redacted([value[0], HIDDEN], 1)
    items = [_redacted(each) for each in value]
    return _Redacted([item.value for item in items], _sum(items))


def _sum(parts: Iterable[_Redacted]) -> int:
    return sum(part.hidden for part in parts)
