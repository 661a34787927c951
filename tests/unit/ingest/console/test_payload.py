"""Bodies as a person can read them, whatever they are made of."""

import random
import time

import pytest

from services.ingest.console.payload import (
    HEX_BYTES_MAX,
    JSON_BYTES_MAX,
    JSON_DEPTH_MAX,
    SHOWN_CHARS_MAX,
    hex_lines,
    payload,
)

CUT = 8 * 1024


def test_no_body_is_none() -> None:
    assert payload(b"").kind == "none"


def test_json_is_set_out_and_otherwise_as_it_came() -> None:
    shown = payload(b'{"b":1.50,"a":[1,{"c":"\\u00e9"}],"b":2}')
    assert shown.kind == "json"
    assert shown.text == '{\n  "b": 1.50,\n  "a": [\n    1,\n    {\n      "c": "\\u00e9"\n    }\n  ],\n  "b": 2\n}'


@pytest.mark.parametrize("body", [b"{nope}", b'{"a":}', b"plain", b'"a string"', b"42", b"[1,2", b'{"a" 1}'])
def test_what_is_no_json_is_text_as_it_came(body: bytes) -> None:
    shown = payload(body)
    assert (shown.kind, shown.text, shown.size) == ("text", body.decode(), len(body))


def test_json_that_is_nested_too_deep_is_text() -> None:
    just = b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX
    assert payload(just).kind == "json"
    assert payload(b"[" + just + b"]").kind == "text"
    assert payload(b'["' + b"[" * 99 + b'"]').kind == "json"
    assert payload(b"[" * 100_000).kind == "text"


def test_a_hostile_body_costs_no_time() -> None:
    worst = [b'["' + b'\\"' * (JSON_BYTES_MAX // 2 - 4), b'["' + b'\\"' * 30_000 + b"\\", b'"' * JSON_BYTES_MAX,
             b"[" + b'"' * (JSON_BYTES_MAX - 2), b"[{" * 30_000, b'{"a":' * 10_000]  # fmt: skip
    began = time.monotonic()
    for body in worst:
        payload(body)
    assert time.monotonic() - began < 2


def test_bytes_that_are_no_text_are_shown_in_hex() -> None:
    shown = payload(bytes(range(256)))
    assert shown.kind == "binary"
    assert shown.note == "no text; in hex"
    assert shown.text.splitlines()[4] == ("000040  40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f  @ABCDEFGHIJKLMNO")


def test_eight_kib_of_anything_is_shown_within_bounds() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    shown = payload(random.Random(seed).randbytes(CUT), is_cut=True)
    assert shown.kind == "binary"
    assert len(shown.text.splitlines()) == HEX_BYTES_MAX // 16
    assert "only its beginning was kept" in shown.note
    assert f"the first {HEX_BYTES_MAX:,} bytes are shown" in shown.note


def test_hex_ends_with_a_short_line() -> None:
    assert hex_lines(b"ab\x00") == "000000  61 62 00                                         ab."


def test_a_character_cut_in_two_does_not_make_a_text_binary() -> None:
    body = "é".encode() * (CUT // 2)
    cut = b"a" + body[: CUT - 1]
    shown = payload(cut, is_cut=True)
    assert (shown.kind, shown.text) == ("text", "a" + "é" * ((CUT - 2) // 2))
    assert payload(cut).kind == "binary"


def test_what_was_cut_is_no_json_any_more() -> None:
    assert payload(b'{"a": 1}', is_cut=True).kind == "text"


def test_text_with_a_control_or_two_is_text_and_one_full_of_them_is_not() -> None:
    assert payload(b"a NUL \0 in a line of text").text == "a NUL ␀ in a line of text"
    assert payload(b"\0\1\2ab").kind == "binary"


def test_the_charset_of_old_is_read() -> None:
    assert payload("é".encode("latin-1"), [("Content-Type", "text/plain; charset=ISO-8859-1")]).text == "é"
    assert payload("é".encode("latin-1"), [("Content-Type", "text/plain")]).kind == "binary"
    assert payload(b"rot", [("Content-Type", "text/plain; charset=rot13")]).text == "rot"


def test_a_packed_body_says_so() -> None:
    shown = payload(b"\x1f\x8b\x08\0\0\0\0\0", [("content-encoding", "gzip")])
    assert "packed, as its Content-Encoding says: gzip" in shown.note


def test_a_long_text_is_shown_in_part_and_says_so() -> None:
    shown = payload(b"x" * 200_000)
    assert len(shown.text) == SHOWN_CHARS_MAX
    assert (shown.size, "characters are shown" in shown.note) == (200_000, True)


def test_turning_marks_in_a_body_are_named() -> None:
    assert payload("a\u202eb".encode()).text == "a⟨U+202E⟩b"
