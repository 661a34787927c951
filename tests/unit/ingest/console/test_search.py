import string
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest.console.search import CHARS_MAX, IDS_MAX, NAMES, read_search, with_word, write_search
from services.ingest.task_filter import STATUSES, FilterFields, TaskFilter, read_filter

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ID = UUID("0193b5f0-0000-7000-8000-000000000001")


def read(text: str) -> TaskFilter:
    search = read_search(text, NOW)
    assert search.faults == (), search.faults
    return search.filter


def fault(text: str) -> tuple[str, str]:
    [only] = read_search(text, NOW).faults
    return only


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", TaskFilter()),
        ("  \t ", TaskFilter()),
        ("status:failed,parked", TaskFilter(status=("failed", "parked"))),
        ("Status:FAILED", TaskFilter(status=("failed",))),
        ("host:API.example.com:8443", TaskFilter(host="api.example.com:8443")),
        ("url:https://a.example.com/x?a:b", TaskFilter(url_prefix="https://a.example.com/x?a:b")),
        ("https://a.example.com/x", TaskFilter(url_prefix="https://a.example.com/x")),
        ("schedule:nightly", TaskFilter(schedule="nightly")),
        ('schedule:"every night"', TaskFilter(schedule="every night")),
        ("label.order:42", TaskFilter(labels={"order": "42"})),
        ("label.Order:42 label.order:43", TaskFilter(labels={"Order": "42", "order": "43"})),
        ("label.at:10:30", TaskFilter(labels={"at": "10:30"})),
        ('label."odd : name":"a \\"b\\" \\\\"', TaskFilter(labels={"odd : name": 'a "b" \\'})),
        ('label.a:""', TaskFilter(labels={"a": ""})),
        ("label.a:c:\\temp\\", TaskFilter(labels={"a": "c:\\temp\\"})),
        ("status:failed host:a.b", TaskFilter(status=("failed",), host="a.b")),
        (f"status:failed {ID}", TaskFilter(status=("failed",), ids=(ID,))),
    ],
)
def test_words_are_a_filter(text: str, wanted: TaskFilter) -> None:
    assert read(text) == wanted


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("1h", NOW - timedelta(hours=1)),
        ("PT90M", NOW - timedelta(minutes=90)),
        ("+2d", NOW + timedelta(days=2)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("2026-11-21T10:00Z", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("2026-11-21T10:00:00.5+02:00", datetime(2026, 11, 21, 8, 0, 0, 500_000, tzinfo=UTC)),
        ("9999-01-01", datetime(9999, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_so_long_ago_or_ahead_a_day_or_a_moment(value: str, moment: datetime) -> None:
    assert read(f"after:{value}") == TaskFilter(created_from=moment)
    assert read(f"before:{value}") == TaskFilter(created_to=moment)
    assert read(f"due-after:{value} due-before:{value}") == TaskFilter(due_from=moment, due_to=moment)
    assert read(f"ended-after:{value} ended-before:{value}") == TaskFilter(ended_from=moment, ended_to=moment)


def test_an_id_alone_is_its_task() -> None:
    assert read_search(f" {str(ID).upper()} ", NOW).task == ID
    assert read_search(f"id:{ID}", NOW).task is None
    assert read(f"id:{ID},{ID}").ids == (ID,)


@pytest.mark.parametrize(
    ("text", "word", "remedy"),
    [
        ("failed", "failed", "write status:failed."),
        ("api.example.com", "api.example.com", "write host:api.example.com"),
        ("order", "order", "label.NAME:order"),
        ("status", "status", "write status: and"),
        ("state:failed", "state:failed", "did you mean status:?"),
        ("hots:a.b", "hots:a.b", "did you mean host:?"),
        ("colour:red", "colour:red", "there are status:, host:, url:"),
        ("status:fialed", "status:fialed", "there are scheduled, due"),
        ("status:", "status:", "nothing after the colon"),
        ('host:""', 'host:""', "nothing after the colon"),
        ("label.a:", "label.a:", 'label.a:""'),
        ("label.:1", "label.:1", "write label.order:42"),
        (f"label.{'a' * 65}:1", "label", "check its name"),
        ("label.a/b:\x01", "label.a/b:\x01", "check its name"),
        ("status:failed status:parked", "status:parked", "with commas"),
        ("label.a:1 label.a:2", "label.a:2", "stands twice"),
        ("host:https://a.b/c", "host:https://a.b/c", "write url:https://a.b/c"),
        ("host:a/b", "host:a/b", "api.example.com"),
        ("url:a.b", "url:a.b", "https://example.com/orders"),
        ("after:yesterday", "after:yesterday", "write 1h or 30m"),
        ("after:2026-11-21T10:00:00", "after:2026-11-21T10:00:00", "2026-11-21T10:00Z"),
        (f"after:{'9' * 50}d", f"after:{'9' * 50}d", "write 1h"),
        ("after:99999999d", "after:99999999d", "write 1h"),
        ("id:1", "id:1", "UUID"),
        (f"id:{','.join(str(uuid4()) for _ in range(IDS_MAX + 1))}", "id:", f"at most {IDS_MAX}"),
        ('schedule:"every night', 'schedule:"every night', "close it"),
        ("a" * (CHARS_MAX + 1), "aaaa", f"at most {CHARS_MAX}"),
    ],
)
def test_what_cannot_be_meant_is_said_with_its_word_and_what_to_write(text: str, word: str, remedy: str) -> None:
    search = read_search(text, NOW, chars_max=max(CHARS_MAX, len(text)) if text.startswith("id:") else CHARS_MAX)
    [only] = search.faults
    assert only.word.startswith(word)
    assert remedy in only.detail


def test_every_fault_is_named_not_the_first_only() -> None:
    faults = read_search("failed status:fialed host:a/b after:x", NOW).faults
    assert {each.word for each in faults} == {"failed", "status:fialed", "host:a/b", "after:x"}


def test_each_word_that_is_offered_is_known() -> None:
    for name in NAMES:
        word = name.replace("NAME", "order")
        for each in read_search(f"{word}:x", NOW).faults:
            assert "There is no word" not in each.detail


def test_a_word_is_replaced_and_the_others_stay_as_they_were_typed() -> None:
    text = 'status:failed  label.a:"b c" after:1h'
    assert with_word(text, "status", "parked") == 'label.a:"b c" after:1h status:parked'
    assert with_word(text, "status", None) == 'label.a:"b c" after:1h'
    assert with_word('broken"', "status", "due") == "status:due"


_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: not any(ord(each) < 32 or ord(each) == 127 for each in text)
)
_hosts = st.text(string.ascii_lowercase + string.digits + '.:-[]"é', min_size=1, max_size=12)
_times = st.one_of(
    st.none(),
    st.integers(0, 9_999_999_999_999).map(lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)),
)
FILTERS = st.builds(
    TaskFilter,
    status=st.sets(st.sampled_from(STATUSES)).map(lambda given: tuple(each for each in STATUSES if each in given)),
    labels=st.dictionaries(_texts, st.one_of(st.just(""), _texts), max_size=4),
    url_prefix=st.one_of(st.none(), _texts.map(lambda rest: f"https://{rest}")),
    host=st.one_of(st.none(), _hosts),
    schedule=st.one_of(st.none(), _texts),
    ids=st.sets(st.uuids(), max_size=3).map(lambda given: tuple(sorted(given))),
    due_from=_times, due_to=_times, created_from=_times, created_to=_times, ended_from=_times, ended_to=_times,
)  # fmt: skip


@given(FILTERS, st.integers(-10_000, 10_000).map(lambda hours: NOW + timedelta(hours=hours)))
@example(TaskFilter(labels={"a:b\\": '\\"'}, schedule="\xa0", url_prefix='https://a" b'), NOW)
def test_a_filter_written_as_words_is_read_as_itself_at_any_time(wanted: TaskFilter, now: datetime) -> None:
    search = read_search(write_search(wanted), now, chars_max=10_000)
    assert (search.faults, search.filter) == ((), wanted)


_pieces = st.sampled_from(
    [*NAMES, *STATUSES, ":", '"', "\\", " ", ",", "label.", "1h", "+", "https://", str(ID), "\0", "é"]
)


@given(st.one_of(st.text(max_size=60), st.lists(_pieces, max_size=12).map("".join)))
def test_whatever_is_typed_is_a_filter_that_the_api_would_take_or_faults(text: str) -> None:
    search = read_search(text, NOW)
    if search.faults:
        assert all(each.word and each.detail for each in search.faults)
        return
    _same, errors = read_filter(
        FilterFields(url_prefix=search.filter.url_prefix, host=search.filter.host, schedule=search.filter.schedule),
        search.filter.labels,
    )
    assert errors == []
    assert read_search(write_search(search.filter), NOW, chars_max=10_000).filter == search.filter
