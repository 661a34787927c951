"""The form of a schedule: its times as texts, the preview of them, and what has changed meanwhile."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import from_ms, to_ms
from libs.common.contracts import Call, Schedule, encode
from libs.common.egress import EgressRules
from services.ingest.console.schedule_form import (
    DEFAULTS,
    Difference,
    differences,
    is_same,
    preview,
    schedule_fields,
    typed,
    typed_schedule,
)
from services.ingest.problems import Problem

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EGRESS = EgressRules()
CALL = msgspec.Raw(encode(Call(url="https://example.com/")))
RIGHT = {**DEFAULTS, "url": "https://example.com/", "cron": "0 9 * * *"}


def made(**fields: str) -> Schedule:
    return typed_schedule({**RIGHT, **fields}, (), NOW, EGRESS)


def pointers(**fields: str) -> list[str]:
    with pytest.raises(Problem) as caught:
        made(**fields)
    return [error.pointer for error in caught.value.errors]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cron": "", "every": "90"}, {"every": "90s"}),
        ({"cron": "", "every": "15m"}, {"every": "15m"}),
        ({"start_at": "1800000000"}, {"start_at": datetime(2027, 1, 15, 8, 0, tzinfo=UTC)}),
        ({"end_at": "2027-03-01T10:00:00+01:00"}, {"end_at": datetime(2027, 3, 1, 9, 0, tzinfo=UTC)}),
        ({"expires_after_s": "12.5"}, {"expires_after_s": 12.5}),
        ({"timezone": ""}, {"timezone": "UTC"}),
        ({"cron": "  0 9 * * *  "}, {"cron": "0 9 * * *"}),
    ],
    ids=str,
)
def test_texts_become_what_the_api_takes(fields: dict[str, str], expected: dict[str, Any]) -> None:
    schedule = made(**fields)
    assert {name: getattr(schedule, name) for name in expected} == expected


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert pointers(cron="", every="", timezone="Nowhere", body="{", headers="x", url="ftp://a") == [
        "/task/headers", "/task/body", "/timezone", "/cron", "/task/url",
    ]  # fmt: skip
    assert pointers(body="{") == ["/task/body"]
    assert pointers(start_at="tomorrow", catch_up="often") == ["/catch_up"]  # as the API: first what has no shape


def test_only_the_fields_of_the_form_are_read_from_it() -> None:
    fields = typed({"cron": "0 9 * * *", "csrf": "token", "task": "{}", "body": "a\r\nb"})
    assert fields["cron"] == "0 9 * * *"
    assert fields["body"] == "a\nb"
    assert fields["every"] == ""
    assert fields.keys() == DEFAULTS.keys()


MOMENTS = st.integers(to_ms(NOW), to_ms(NOW + timedelta(days=3000))).map(from_ms)


@given(
    st.builds(
        Schedule,
        cron=st.just("*/5 * * * *"),
        timezone=st.sampled_from(("UTC", "Europe/Berlin")),
        start_at=st.none() | MOMENTS,
        catch_up=st.sampled_from(("latest", "all", "none")),
        labels=st.dictionaries(st.sampled_from(("a", "b/c")), st.sampled_from(("", " 1 ", "x=y"))),
        expires_after_s=st.none() | st.sampled_from((1.0, 90.0, 12.5, 315_532_800.0)),
        call=st.just(CALL),
    )
    | st.builds(Schedule, every=st.sampled_from(("90s", "90.0s", "1h", "PT15M")), end_at=MOMENTS, call=st.just(CALL))
)
def test_the_form_of_a_schedule_says_that_schedule(schedule: Schedule) -> None:
    assert is_same(typed_schedule(schedule_fields(schedule), (), NOW, EGRESS), schedule)


def test_what_says_the_same_is_the_same_whichever_defaults_are_written_out() -> None:
    schedule = Schedule(every="1h", call=CALL)
    spelled = msgspec.Raw(b'{"url": "https://example.com/", "method": "POST", "timeout_s": 15.0}')
    assert is_same(schedule, msgspec.structs.replace(schedule, call=spelled))
    other = msgspec.Raw(b'{"url": "https://example.com/", "timeout_s": 16.0}')
    assert not is_same(schedule, msgspec.structs.replace(schedule, call=other))
    assert not is_same(schedule, msgspec.structs.replace(schedule, every="2h"))


def test_differences_name_the_fields_with_both_values() -> None:
    theirs = schedule_fields(Schedule(every="1h", call=CALL))
    assert differences(theirs, {**theirs, "every": "2h", "url": "https://example.org/"}) == [
        Difference("every", "1h", "2h"),
        Difference("url", "https://example.com/", "https://example.org/"),
    ]


def test_a_preview_tells_words_zone_and_ten_times() -> None:
    shown = preview({"cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin"}, NOW)
    assert (shown.words, shown.timezone, shown.faults) == ("At 09:00 on Monday through Friday", "Europe/Berlin", {})
    assert len(shown.fires) == 10
    assert shown.fires[0].local == "Mon 23 Nov 2026 09:00:00 +01:00"


def test_before_anything_is_typed_a_preview_says_nothing() -> None:
    assert preview({"cron": " ", "timezone": "Nowhere"}, NOW) == preview({}, NOW)
    assert not preview({}, NOW).faults


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"cron": "61 * * * *"}, "cron", "'61' is no minute"),
        ({"cron": "0 9 * * *", "every": "1h"}, "every", "stands beside cron"),
        ({"every": "0"}, "every", "between 1 second and 10 years"),
        ({"cron": "0 9 * * *", "timezone": "Europe/Berlim"}, "timezone", "did you mean Europe/Berlin?"),
        ({"cron": "0 9 * * *", "start_at": "2027-01-01T00:00:00"}, "start_at", "has no offset"),
        ({"every": "1h", "start_at": "2027-01-02T00:00:00Z", "end_at": "2027-01-01T00:00:00Z"}, "end_at", "before"),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_its_field(fields: dict[str, str], field: str, says: str) -> None:
    shown = preview(fields, NOW)
    assert list(shown.faults) == [field]
    assert says in shown.faults[field][0]
    assert not shown.fires


def test_an_interval_goes_on_from_when_it_began() -> None:
    shown = preview({"every": "1h"}, NOW, since="2026-01-01T00:07:00Z")
    assert shown.fires[0].at == NOW + timedelta(minutes=7)
    started = preview({"every": "1h", "start_at": "2026-12-01T00:00:00Z"}, NOW, since="2026-01-01T00:07:00Z")
    assert started.fires[0].at == datetime(2026, 12, 1, tzinfo=UTC)
    assert preview({"every": "1h"}, NOW, since="no time").fires[0].at == NOW + timedelta(hours=1)
