from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.store_filter import after_prefix, host_ranges
from services.ingest.task_filter import FilterFields, TaskFilter, read_filter, split_labels


def read(**given: str) -> TaskFilter:
    wanted, errors = read_filter(FilterFields(**given), {})
    assert errors == []
    return wanted


def test_names_of_labels_are_split_off() -> None:
    assert split_labels({"status": "due", "label.order": "1", "label.a.b": "2", "label.": "3"}) == (
        {"status": "due"},
        {"order": "1", "a.b": "2", "": "3"},
    )


def test_statuses_stand_in_one_order_however_they_are_given() -> None:
    assert read(status="failed, due,failed").status == read(status="due,failed").status == ("due", "failed")


def test_a_host_is_meant_in_whatever_case() -> None:
    assert read(host="API.Example.com:8443").host == "api.example.com:8443"


@pytest.mark.parametrize(
    ("host", "inside", "outside"),
    [
        ("[::1]", "http://[::1]:8080/", "http://[::1]a/"),
        ("[::1]:80", "https://[::1]:80/x", "https://[::1]:8080/x"),
        ("a.b", "https://a.b", "https://a.b.c/"),
        ("a.b", "https://a.b?x", "https://a.b1/"),
    ],
)
def test_the_urls_of_a_host_stand_in_its_ranges(host: str, inside: str, outside: str) -> None:
    ranges = list(host_ranges(host))
    assert any(first <= inside < end for first, end in ranges)
    assert not any(first <= outside < end for first, end in ranges)


def test_a_time_is_a_moment_or_unix_seconds() -> None:
    moment = datetime(2027, 3, 1, 9, tzinfo=UTC)
    assert read(due_from="2027-03-01T09:00:00Z", due_to=str(int(moment.timestamp()))) == TaskFilter(
        due_from=moment, due_to=moment
    )
    assert read(due_to="9999-01-01T00:00:00Z").due_to == datetime(9999, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("status", "succeded", "unknown_status"),
        ("status", "", "unknown_status"),
        ("due_from", "2027-03-01T09:00:00", "naive_time"),
        ("created_to", "yesterday", "not_a_time"),
        ("url_prefix", "example.com/", "bad_prefix"),
        ("url_prefix", "https://example.com/\0", "bad_prefix"),
        ("url_prefix", "https://example.com/" + "a" * 500, "too_long"),
        ("host", "", "bad_host"),
        ("host", "https://example.com", "bad_host"),
        ("host", "example.com/orders", "bad_host"),
        ("host", "user@example.com", "bad_host"),
        ("host", "a b", "bad_host"),
        ("host", "a\ud800", "bad_host"),
        ("host", "a" * 261, "bad_host"),
        ("schedule", "", "bad_name"),
        ("schedule", "a\ud800", "bad_name"),
    ],
)
def test_what_cannot_be_meant_is_said_by_its_name(name: str, text: str, code: str) -> None:
    _wanted, errors = read_filter(FilterFields(**{name: text}), {})
    assert [(error.pointer, error.code) for error in errors] == [(name, code)]


@pytest.mark.parametrize(
    ("name", "value"), [("", "1"), ("a" * 65, "1"), ("a", "1" * 257), ("a", "\0"), ("\ud800", "1")]
)
def test_a_label_that_no_task_can_have_is_refused(name: str, value: str) -> None:
    _wanted, [error] = read_filter(FilterFields(), {name: value})
    assert error.code == "bad_label"
    msgspec.json.encode(error)


def test_no_more_labels_than_a_task_can_have() -> None:
    _wanted, [error] = read_filter(FilterFields(), {str(number): "1" for number in range(17)})
    assert error.code == "too_many"


def test_the_same_filter_is_the_same_bytes() -> None:
    one = TaskFilter(labels={"a": "1", "b": "2"})
    other = TaskFilter(labels={"b": "2", "a": "1"})
    assert one.canonical() == other.canonical()
    assert TaskFilter(labels={"a": "1"}).canonical() != one.canonical()


@given(st.text(min_size=1, max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_all_that_begins_with_a_prefix_stands_between_it_and_its_end(prefix: str, rest: str, other: str) -> None:
    end = after_prefix(prefix)
    inside = prefix + rest
    assert prefix.encode() <= inside.encode()
    assert end is None or inside.encode() < end.encode()
    if end is not None and other.encode() < end.encode() and other.encode() >= prefix.encode():
        assert other.startswith(prefix)


def test_after_a_prefix_of_last_characters_comes_nothing() -> None:
    last = chr(0x10FFFF)
    assert after_prefix(last * 2) is None
    assert after_prefix("a" + last) == "b"
    assert after_prefix("\ud7ff") == "\ue000"
