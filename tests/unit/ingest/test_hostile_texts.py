"""Whatever a client writes, the parsers answer with a value within bounds or with the one refusal they document."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from libs.common import duration
from libs.common.clock import format_utc
from libs.common.contracts import decode_call
from libs.common.cron import Cron, CronError, Every, EveryError
from libs.common.egress import EgressRules
from libs.common.ids import new_id
from libs.common.wallclock import zone
from services.ingest.creation import Sender, create
from services.ingest.cursor import NEWEST, read_cursor, write_cursor
from services.ingest.legacy import LegacyFields, LegacyRules, new_task
from services.ingest.list_entry import EntryReader
from services.ingest.problems import Problem
from services.ingest.requests import read_task
from services.ingest.target import HEADERS_BYTES_MAX, URL_CHARS_MAX, content_type_errors, header_errors, url_errors
from services.ingest.task_filter import FilterFields, read_filter
from services.ingest.times import FURTHEST, BadTime, parse_delay, parse_local, parse_moment

T = TypeVar("T")

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MS = timedelta(milliseconds=1)
SENDER = Sender(id=UUID(int=1), project="default", fingerprint="f" * 64, now=NOW)
EGRESS = EgressRules()
LEGACY = LegacyRules("default", 10, is_json_success=False)
READER = EntryReader("default", LEGACY, EGRESS, 262_144)
# What never reaches a parser is left out: msgspec refuses lone surrogates and numbers beyond 64 bits and 1e308.
number = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
any_text = (
    st.text() | st.text(st.characters(max_codepoint=0x7F)) | st.text("0123456789.,-+:TZPYMWDHSsmhd ", max_size=70)
)
like_a_moment = st.datetimes().map(lambda at: at.isoformat()) | st.from_regex(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,12})?(Z|[+-]\d\d:\d\d)?", fullmatch=True
)
many = settings(max_examples=200)


@many
@given(any_text | like_a_moment | number)
def test_a_moment_is_a_whole_millisecond_of_the_next_ten_years_or_refused(value: str | float) -> None:
    moment, code = outcome(parse_moment, value, NOW)
    if moment is None:
        assert code in {"not_a_time", "naive_time", "too_far"}
        return
    assert moment.utcoffset() == timedelta(0)
    assert moment.microsecond % 1000 == 0
    assert moment <= NOW + FURTHEST
    assert parse_moment(format_utc(moment), NOW) == moment


@many
@given(any_text | number | st.from_regex(duration.ISO, fullmatch=True) | st.from_regex(duration.SHORT, fullmatch=True))
def test_a_delay_ends_within_ten_years_or_is_refused(value: str | float) -> None:
    due_at, code = outcome(parse_delay, value, NOW)
    if due_at is None:
        assert code in {"not_a_delay", "negative", "too_far"}
        return
    assert NOW <= due_at <= NOW + FURTHEST + MS
    assert due_at.microsecond % 1000 == 0


@many
@given(any_text | st.from_regex(duration.ISO, fullmatch=True))
def test_a_duration_is_a_finite_number_of_seconds_or_none(text: str) -> None:
    seconds = duration.seconds(text)
    assert seconds is None or (seconds.is_finite() and seconds >= 0)


@many
@given(any_text | like_a_moment, any_text | st.sampled_from(["Europe/Paris", "Australia/Lord_Howe", "UTC"]))
def test_a_local_time_is_a_whole_millisecond_or_refused(at: str, timezone: str) -> None:
    moment, code = outcome(parse_local, at, timezone, NOW)
    if moment is None:
        assert code in {"not_a_time", "offset", "unknown_zone", "too_far"}
        return
    assert moment.utcoffset() == timedelta(0)
    assert moment <= NOW + FURTHEST


@many
@given(
    any_text | any_text.map(lambda text: f"http://{text}") | any_text.map(lambda text: f"https://example.com/{text}")
)
def test_a_url_that_is_taken_names_a_host_and_nobody(url: str) -> None:
    errors = list(url_errors(url, EGRESS))
    assert all(error.pointer == "/url" and error.detail for error in errors)
    if not errors:
        parsed = URL(url)
        assert len(url) <= URL_CHARS_MAX
        assert parsed.scheme in {"http", "https"}
        assert parsed.host
        assert (parsed.user, parsed.password) == (None, None)
        assert not re.search(r"[\x00-\x20\x7f\\#]", url)


@many
@given(st.dictionaries(any_text | st.sampled_from(["Host", "webhook-id", "X-A", "x-a"]), any_text, max_size=8))
def test_headers_that_are_taken_cannot_end_a_line(headers: dict[str, str]) -> None:
    errors = list(header_errors(headers))
    assert all(error.pointer.startswith("/headers") for error in errors)
    if not errors:
        written = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        assert len(re.split(r"\r|\n", written.replace("\r\n", "\n"))) == len(headers) + 1
        assert "\0" not in written
        assert not {name.lower() for name in headers} & {"host", "webhook-id"}
        assert len(written.encode()) <= HEADERS_BYTES_MAX + 4 * len(headers)


@many
@given(any_text | st.from_regex(r"[a-z]+/[a-z]+(;[^\n]*)?"))
def test_a_content_type_that_is_taken_cannot_end_a_line(content_type: str) -> None:
    if not list(content_type_errors(content_type, {})):
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", content_type)
        assert "/" in content_type


@many
@given(
    any_text.map(lambda text: f"https://example.com/{text}") | any_text,
    any_text | number.filter(lambda value: value == value),
    any_text | st.sampled_from(["post", "POST", "get", ""]),
    any_text,
)
def test_the_ancestors_form_is_a_task_or_a_refusal(url: str, plan_time: str | float, method: str, query: str) -> None:
    task, code = outcome(
        lambda: create(new_task(LegacyFields(url, plan_time, method, query), NOW, LEGACY), SENDER, EGRESS)
    )
    if task is None:
        assert code == "invalid_request"
        return
    assert NOW < task.due_at <= NOW + FURTHEST
    call = decode_call(task.call)
    assert call.method in {"GET", "POST"}
    assert call.method == "POST" or call.url.startswith(url)


@many
@given(
    st.binary()
    | st.dictionaries(
        st.sampled_from(["notify_url", "plan_time", "method_name", "url", "delay"]), any_text | number
    ).map(lambda entry: json.dumps(entry).encode())
)
def test_an_entry_of_the_list_is_a_task_or_a_refusal(raw: bytes) -> None:
    task, code = outcome(READER.task, new_id(), raw)
    assert task is not None or code in {"malformed_json", "invalid_request"}


@pytest.mark.parametrize("plan_time", ["9" * 5000, "-" + "9" * 5000, "9" * 400, "1e999", "\u0663" * 20])
def test_a_plan_time_of_many_digits_is_refused(plan_time: str) -> None:
    with pytest.raises(Problem):
        READER.task(new_id(), json.dumps({"notify_url": "https://example.com/", "plan_time": plan_time}).encode())


@many
@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | number | any_text, lambda inner: st.lists(inner) | st.dictionaries(any_text, inner)
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_task_or_a_refusal_of_the_request(raw: bytes) -> None:
    task, code = outcome(read_task, raw)
    assert task is not None or code in {"malformed_json", "invalid_request"}


@many
@given(any_text)
def test_any_cursor_is_one_of_ours_or_a_400(text: str) -> None:
    assert outcome(read_cursor, text, b"scope") == (None, "bad_query")
    assert read_cursor(write_cursor(NEWEST, b"scope"), b"scope") == NEWEST


@many
@given(
    st.dictionaries(st.sampled_from(FilterFields.__struct_fields__), any_text | like_a_moment),
    st.dictionaries(any_text, any_text),
)
def test_any_filter_is_read_or_its_faults_are_told(given: dict[str, str], labels: dict[str, str]) -> None:
    fields = msgspec.convert({name: value for name, value in given.items() if name != "label"}, FilterFields)
    wanted, errors = read_filter(fields, labels)
    assert errors or set(wanted.labels) == set(labels)


@settings(max_examples=60)
@given(st.text("0123456789*/,-LW#MONSUFRI@dailyhu ", max_size=40) | any_text)
def test_any_cron_expression_is_read_or_refused(expression: str) -> None:
    cron, reason = outcome(Cron.parse, expression, zone("Europe/Berlin"))
    assert cron is not None or reason


@many
@given(any_text | number)
def test_any_interval_is_read_or_refused(every: str | float) -> None:
    interval, reason = outcome(Every.parse, every, NOW, zone("UTC"))
    assert interval is not None or reason


def outcome(read: Callable[..., T], *given: Any) -> tuple[T | None, str]:
    """What it gives, or which of its refusals; anything else that it raises fails the test."""
    try:
        return read(*given), ""
    except (BadTime, Problem) as error:
        return None, error.code
    except (CronError, EveryError) as error:
        return None, str(error)
