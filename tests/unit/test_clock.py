from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import SystemClock, ceil_to_ms, format_utc, from_ms, to_ms

NINE = datetime(2027, 3, 1, 9, tzinfo=UTC)
moments = st.datetimes(timezones=st.just(UTC), max_value=NINE.replace(year=9999, tzinfo=None))


def test_the_system_clock_knows_its_zone_and_never_goes_back() -> None:
    clock = SystemClock()

    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic() <= clock.monotonic()


def test_a_moment_is_written_with_milliseconds_and_z() -> None:
    assert format_utc(NINE) == "2027-03-01T09:00:00.000Z"
    assert format_utc(NINE + timedelta(microseconds=1999)) == "2027-03-01T09:00:00.001Z"
    assert format_utc(NINE.astimezone(timezone(timedelta(hours=5)))) == "2027-03-01T09:00:00.000Z"


def test_a_moment_without_a_zone_is_refused() -> None:
    naive = NINE.replace(tzinfo=None)

    with pytest.raises(ValueError, match="no time zone"):
        format_utc(naive)
    with pytest.raises(TypeError):
        to_ms(naive)


def test_a_part_of_a_millisecond_rounds_up() -> None:
    assert ceil_to_ms(NINE) == NINE
    assert ceil_to_ms(NINE + timedelta(microseconds=1)) == NINE + timedelta(milliseconds=1)
    assert ceil_to_ms(NINE - timedelta(microseconds=1)) == NINE


@given(moments)
def test_rounding_up_is_never_early_and_less_than_a_millisecond_late(moment: datetime) -> None:
    assert timedelta(0) <= ceil_to_ms(moment) - moment < timedelta(milliseconds=1)


@given(moments)
def test_a_whole_millisecond_survives_the_way_to_an_integer_and_back(moment: datetime) -> None:
    whole = ceil_to_ms(moment)

    assert from_ms(to_ms(whole)) == whole


@given(moments)
def test_an_integer_is_the_millisecond_the_moment_is_in(moment: datetime) -> None:
    assert timedelta(0) <= moment - from_ms(to_ms(moment)) < timedelta(milliseconds=1)


def test_milliseconds_count_from_1970() -> None:
    assert to_ms(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)) == 1000
    assert to_ms(datetime(1969, 12, 31, 23, 59, 59, 999_500, tzinfo=UTC)) == -1
