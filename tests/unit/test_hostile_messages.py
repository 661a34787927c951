"""Whatever bytes a queue holds: they are read, or told to be unreadable, and nothing else is raised."""

import json
import random
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts import AnyMessage, TaskDue, decode_call, decode_task, encode
from libs.common.intake import UNREADABLE

GOLDEN = [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "contract" / "golden").glob("*.json"))]
split = msgspec.json.Decoder(list[msgspec.Raw]).decode
read_any = msgspec.json.Decoder[AnyMessage](AnyMessage).decode
READERS = [read_any, *(msgspec.json.Decoder(kind).decode for kind in get_args(AnyMessage))]
EDGES = (
    b"[" * 10_000,
    b'{"a":' * 10_000,
    b"\xff\xfe[]",
    b'["\xed\xa0\x80"]',
    b'["\\ud800"]',
    b"[1e999]",
    b"[NaN]",
    b"",
)
many = settings(max_examples=150)


def is_read(body: bytes) -> bool:
    """As a consumer does, down to the call inside the task. False where it is unreadable."""
    try:
        for raw in split(body):
            message = read_any(bytes(raw))
            encode(message)
            if isinstance(message, TaskDue):
                decode_call(decode_task(message.task).call)
    except UNREADABLE:
        return False
    return True


@many
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | st.sampled_from(EDGES))
def test_any_bytes_are_read_or_unreadable(body: bytes) -> None:
    is_read(body)
    for read in READERS:
        try:
            read(body)
        except UNREADABLE:
            continue


@many
@given(st.sampled_from(GOLDEN), st.data())
def test_a_message_with_bytes_changed_or_missing_is_read_or_unreadable(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body) - 1))
    put, gone = data.draw(st.binary(max_size=4)), data.draw(st.integers(0, 8))
    is_read(body[:at] + put + body[at + gone :])


@many
@given(
    st.sampled_from(GOLDEN),
    st.integers(0, 2**32),
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20) | st.just([]) | st.just({}),
)
def test_a_message_with_a_value_of_any_kind_in_a_field_is_read_or_unreadable(
    body: bytes, seed: int, value: Any
) -> None:
    items = json.loads(body)
    dice = random.Random(seed)
    item = dice.choice(items)
    item[dice.choice(list(item))] = value
    is_read(json.dumps(items).encode())


@pytest.mark.parametrize("body", GOLDEN)
def test_a_message_as_it_is_is_read(body: bytes) -> None:
    assert is_read(body)
