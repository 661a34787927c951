"""A parked message's bytes as they are shown: set out, without secrets, and never changed otherwise."""

import msgspec
import pytest

from services.ingest.console.parked_body import HIDDEN, parked_body


def test_json_is_set_out_as_it_came() -> None:
    shown = parked_body(b'[{"n":12345678901234567890123456789,"x":1.0}]')
    assert shown.kind == "json"
    assert "12345678901234567890123456789" in shown.text
    assert "1.0" in shown.text
    assert shown.note == ""


def test_values_of_secret_headers_are_hidden_however_deep_they_stand() -> None:
    body = b'[{"task":{"call":{"headers":[["Authorization","Bearer hush"],["X-Order","42"]]}}},["Cookie","hush"]]'
    shown = parked_body(body)
    assert "hush" not in shown.text
    assert shown.text.count(HIDDEN) == 2
    assert '"42"' in shown.text
    assert (shown.size, shown.note) == (len(body), "values of secret headers are hidden: 2")


def test_a_long_body_hides_them_too() -> None:
    body = msgspec.json.encode([["Authorization", "hush"], "x" * 100_000])
    assert "hush" not in parked_body(body).text


@pytest.mark.parametrize("body", [b"", b"\xff\xfe\x00", b"[" * 9999, b"{nope", b'["lone \\ud800"]'])
def test_what_is_no_json_is_shown_all_the_same(body: bytes) -> None:
    assert parked_body(body).kind in {"none", "text", "binary"}
