import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.lines import Lines

LINE_MAX = 20
streams = st.lists(st.sampled_from([b"\n", b"\r\n", b" ", b"{", b"x" * 7, b"\xc3", b"y" * LINE_MAX])).map(b"".join)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[begin:end] for begin, end in itertools.pairwise(edges)]


@given(streams, st.lists(st.integers(0, 1000), max_size=10))
def test_lines_are_the_same_however_the_stream_is_cut(stream: bytes, places: list[int]) -> None:
    lines = Lines(LINE_MAX)
    found = [line for chunk in cut(stream, places) for line in lines.feed(chunk)]
    found += lines.end()
    wanted = [None if len(line) > LINE_MAX else line for line in stream.split(b"\n")]
    assert found == [line for line in wanted if line is None or line.strip()]


def test_a_line_without_end_is_not_kept() -> None:
    lines = Lines(LINE_MAX)
    for _ in range(1000):
        assert list(lines.feed(b"x" * 1000)) == []
    assert len(lines._begun) <= LINE_MAX
    assert list(lines.feed(b"\n{}\n")) == [None, b"{}"]
