import json

import pytest

from services.ingest.json_names import lone_surrogates, repeated_names
from services.ingest.problems import Problem
from services.ingest.requests import read_task


def faults(text: str) -> list[tuple[str, str]]:
    return [(fault.pointer, fault.code) for fault in repeated_names(text)]


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ('{"url": "a", "url": "b"}', "/url"),
        ('{"url": "a", "\\u0075rl": "b"}', "/url"),
        ('{"labels": {"a/b": "1", "c": "2", "a/b": "1"}}', "/labels/a~1b"),
        ('{"retry": {"schedule_s": [], "schedule_s": []}}', "/retry/schedule_s"),
        ('[{"a": 1}, {"a": 1, "a": 2}]', "/1/a"),
        ('{"body": 1, "body": 2}', "/body"),
    ],
)
def test_a_name_that_stands_twice_is_found_where_it_stands(text: str, pointer: str) -> None:
    assert faults(text) == [(pointer, "duplicate")]


def test_all_objects_that_repeat_a_name_are_told_of() -> None:
    assert faults('{"labels": {"a": "", "a": ""}, "headers": {"b": "", "b": ""}}') == [
        ("/labels/a", "duplicate"),
        ("/headers/b", "duplicate"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"url": "a", "labels": {"url": "b"}}',
        '{"body": {"a": 1, "a": 2}}',  # the client's own
        '{"body": [{"a": 1, "a": 2}], "url": "a"}',
        '{"body": ' + "1" * 5000 + "}",
        '{"body": -1e999}',
        "[]",
    ],
)
def test_nothing_else_is_found(text: str) -> None:
    assert faults(text) == []


def test_a_task_with_a_repeated_name_is_refused_naming_it() -> None:
    with pytest.raises(Problem) as caught:
        read_task(b'{"url": "https://example.com/", "delay": "1s", "delay": "1d"}')
    assert caught.value.status == 422
    assert [(error.pointer, error.code) for error in caught.value.errors] == [("/delay", "duplicate")]


def test_what_the_body_repeats_travels_as_it_is() -> None:
    assert bytes(read_task(b'{"url": "https://example.com/", "body": {"a":1,"a":2}}').body) == b'{"a":1,"a":2}'


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"url": "\ud800"}, "/url"),
        ({"url": "a", "labels": {"b": "c\udfff"}}, "/labels/b"),
        ({"url": "a", "labels": {"\udc00": "c"}}, "/labels"),
        ({"url": "a", "body": [{"b": "\ud83d"}]}, "/body/0/b"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_naming_its_place(fields: dict[str, object], pointer: str) -> None:
    with pytest.raises(Problem) as caught:
        read_task(json.dumps(fields).encode())
    assert caught.value.status == 422
    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_a_whole_pair_is_a_character() -> None:
    assert lone_surrogates('"\\ud83d\\ude00"') == []
    assert read_task(b'{"url": "\\ud83d\\ude00"}').url == "\N{GRINNING FACE}"
