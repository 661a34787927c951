"""Bodies as a person can read them: JSON set out, text, or bytes in hex. Pure; nothing in it is to be trusted."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from services.ingest.console.visible import unseen, visible

SHOWN_CHARS_MAX = 16 * 1024
HEX_BYTES_MAX = 1024
HEX_WIDTH = 16
JSON_BYTES_MAX = 64 * 1024
JSON_DEPTH_MAX = 24
"""Deeper than that, indentation is longer than what it sets out."""
CONTROLS_SHARE_MAX = 0.05
_LATIN = {"iso-8859-1": "latin-1", "latin1": "latin-1", "windows-1252": "cp1252"}
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([A-Za-z0-9_.:-]+)', re.IGNORECASE)
# Also one that has no end: else each quote in it would be tried as a beginning.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)


class Payload(NamedTuple):
    """`note` says what `text` does not: that it is part only, that it is packed; empty when there is nothing to say."""

    kind: Literal["none", "json", "text", "binary"]
    size: int
    text: str = ""
    note: str = ""


def payload(body: bytes, headers: Iterable[tuple[str, str]] = (), *, is_cut: bool = False) -> Payload:
    """`is_cut`: there may have been more of it than is here."""
    named = {name.lower(): value for name, value in headers}
    packing = named.get("content-encoding", "").strip()
    notes = ["only its beginning was kept"] if is_cut else []
    if not body:
        return Payload("none", 0)
    if packing and packing.lower() != "identity":
        notes.append(f"packed, as its Content-Encoding says: {visible(packing)[:40]}")
    text = _decoded(body, named.get("content-type", ""), is_cut=is_cut)
    if text is None:
        return _as_hex(body, notes)
    set_out = None if is_cut else _set_out(body)
    return _as_text("text" if set_out is None else "json", set_out or text, len(body), notes)


def _as_text(kind: Literal["json", "text"], text: str, size: int, notes: list[str]) -> Payload:
    if len(text) > SHOWN_CHARS_MAX:
        notes = [*notes, f"the first {SHOWN_CHARS_MAX:,} characters are shown"]
    return Payload(kind, size, visible(text[:SHOWN_CHARS_MAX]), "; ".join(notes))


def _as_hex(body: bytes, notes: list[str]) -> Payload:
    notes = ["no text; in hex", *notes]
    if len(body) > HEX_BYTES_MAX:
        notes.append(f"the first {HEX_BYTES_MAX:,} bytes are shown")
    return Payload("binary", len(body), hex_lines(body[:HEX_BYTES_MAX]), "; ".join(notes))


def hex_lines(body: bytes) -> str:
    """As `hexdump -C`: offset, bytes, and those that are printable."""
    lines = []
    for offset in range(0, len(body), HEX_WIDTH):
        row = body[offset : offset + HEX_WIDTH]
        printable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{offset:06x}  {row.hex(' '):<{HEX_WIDTH * 3 - 1}}  {printable}")
    return "\n".join(lines)


def _decoded(body: bytes, content_type: str, *, is_cut: bool) -> str | None:
    """The text that it is; None when it is none."""
    charset = _CHARSET.search(content_type)
    codec = _LATIN.get(charset[1].lower(), "utf-8") if charset else "utf-8"
    text = _strictly(body, codec, is_cut=is_cut)
    return None if text is None or unseen(text) > len(text) * CONTROLS_SHARE_MAX else text


def _strictly(body: bytes, codec: str, *, is_cut: bool) -> str | None:
    try:
        return body.decode(codec)
    except UnicodeDecodeError as error:
        is_split = is_cut and codec == "utf-8" and error.reason == "unexpected end of data"
        return body[: error.start].decode() if is_split else None


def _set_out(body: bytes) -> str | None:
    """JSON with line ends and indentation, and otherwise as it came; None when it is none, or nested too deep."""
    if len(body) > JSON_BYTES_MAX or body.lstrip(b" \t\r\n")[:1] not in (b"{", b"["):
        return None
    if _depth(body) > JSON_DEPTH_MAX:
        return None
    try:
        msgspec.json.decode(body)  # `format` looks no closer than brackets and commas
        return msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for byte in _STRING.sub(b"", body):
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest
