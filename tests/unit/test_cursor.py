from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.cursor import Place, read_cursor, write_cursor
from services.ingest.problems import Problem

_places = st.builds(Place, st.datetimes(timezones=st.just(UTC)), st.uuids())


@given(_places, st.binary(max_size=50))
def test_a_cursor_is_read_back_where_it_belongs(place: Place, scope: bytes) -> None:
    assert read_cursor(write_cursor(place, scope), scope) == place


@given(_places, st.binary(max_size=20), st.binary(max_size=20))
def test_a_cursor_of_another_list_is_refused(place: Place, scope: bytes, other: bytes) -> None:
    if scope == other:
        return
    with pytest.raises(Problem) as raised:
        read_cursor(write_cursor(place, scope), other)
    assert raised.value.status == 400


@given(st.text(max_size=100))
def test_garbage_is_no_cursor(text: str) -> None:
    with pytest.raises(Problem) as raised:
        read_cursor(text, b"scope")
    assert raised.value.status == 400


def test_a_cursor_that_lost_or_changed_a_character_is_refused() -> None:
    cursor = write_cursor(Place(datetime(2026, 11, 21, tzinfo=UTC), UUID(int=7)), b"scope")
    for bad in (cursor[:-1], cursor[1:], cursor[:5] + ("A" if cursor[5] != "A" else "B") + cursor[6:], ""):
        with pytest.raises(Problem):
            read_cursor(bad, b"scope")
