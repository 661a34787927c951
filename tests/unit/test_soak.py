"""The soak's judgement: slopes of figures, lateness by the minute, what counts as a fault, and what may grow."""

import os
import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.peers import plots
from benchmarks.soak import page
from benchmarks.soak.book import MINUTE_MS, Book, Promise, Tally, Window, tally
from benchmarks.soak.load import CHANGED_FROM_S, order, ticks
from benchmarks.soak.samples import MACHINE, TO_SINK, Sample, calling, held
from benchmarks.soak.trend import by_minute, trend
from benchmarks.soak.verdict import JUDGED_FROM_S, Run, course, failures, lines, measured, thirds

SECONDS = 1800.0
BEGAN = 1_000_000


def line(per_h: float, noise: Callable[[float], float] = lambda _: 0.0) -> list[tuple[float, float]]:
    return [(at_s, 50 + per_h * at_s / 3600 + noise(at_s)) for at_s in range(0, int(SECONDS), 5)]


def gaussian(size: float) -> Callable[[float], float]:
    dice = random.Random(1)
    return lambda _: dice.gauss(0, size)


@pytest.mark.parametrize("per_h", [0.0, 36.0, -12.0])
def test_the_slope_of_a_line_is_that_of_the_line(per_h: float) -> None:
    found = trend(line(per_h), 300)
    assert found is not None
    assert found.per_h == pytest.approx(per_h)
    assert found.per_day == pytest.approx(24 * per_h)
    assert found.low_per_h == pytest.approx(found.high_per_h)


def test_what_grows_in_the_warm_up_is_left_out() -> None:
    grown = [(at_s, min(at_s, 300.0)) for at_s, _ in line(0)]
    found = trend(grown, 300)
    assert found is not None
    assert (found.first, found.last, found.peak, found.per_h) == (300, 300, 300, 0)


def test_the_peak_is_the_highest_minute_and_not_one_sample() -> None:
    found = trend(line(0, lambda at_s: 500.0 if at_s == 1795 else 7.0 if 1200 <= at_s < 1260 else 0.0), 300)
    assert found is not None
    assert (found.last, found.peak) == (50, 57)


def test_a_spike_and_a_bad_minute_are_no_growth() -> None:
    found = trend(line(10, lambda at_s: 500.0 if at_s == 1795 or 1200 <= at_s < 1260 else 0.0), 300)
    assert found is not None
    assert found.per_h == pytest.approx(10, abs=0.5)


def test_the_interval_holds_the_slope_behind_noise_and_grows_with_it() -> None:
    widths = []
    for size in (1.0, 4.0):
        found = trend(line(20, gaussian(size)), 300)
        assert found is not None
        assert found.low_per_h < 20 < found.high_per_h
        widths.append(found.high_per_h - found.low_per_h)
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.05)


def test_the_interval_leaves_out_the_slopes_that_sens_formula_says() -> None:
    # Ten minutes: the variance of Kendall's S is 125, half the interval 21.9 of 45 slopes: the 12th and the 35th.
    minutes = [(60.0 * minute + 30, float(minute**2)) for minute in range(10)]
    slopes = sorted((y2 - y1) / (x2 - x1) * 3600 for i, (x1, y1) in enumerate(minutes) for x2, y2 in minutes[i + 1 :])
    found = trend(minutes, 0)
    assert found is not None
    assert (found.low_per_h, found.high_per_h) == (slopes[11], slopes[34])


def test_two_minutes_have_no_trend() -> None:
    assert trend(line(1)[:24], 0) is None
    assert trend(line(1)[:36], 0) is not None


def test_a_minute_stands_for_its_median_at_its_middle() -> None:
    assert by_minute([(0, 1), (30, 2), (59, 9), (60, 4)]) == [(pytest.approx(89 / 3), 2), (60, 4)]


def calls(promises: Mapping[str, Promise], *made: tuple[str, int]) -> Tally:
    return tally(promises, made, BEGAN)


def test_every_fault_of_a_call_is_counted_for_itself() -> None:
    book = Book()
    for id_ in ("good", "early", "twice", "missing", "cancelled", "cancelled-but-called"):
        book.promise(id_, BEGAN + 100, 1)
    book.cancel("cancelled")
    book.cancel("cancelled-but-called")
    made = [("good", 105), ("early", 99), ("twice", 101), ("twice", 102), ("cancelled-but-called", 103), ("other", 1)]
    seen = calls(book.promises, *((id_, BEGAN + at) for id_, at in made))
    assert (seen.missing, seen.early, seen.duplicates, seen.after_cancel, seen.unknown) == (1, 1, 1, 1, 1)
    assert (seen.accepted, seen.called, seen.calls) == (6, 4, 6)


@pytest.mark.parametrize(
    ("made", "missing", "early", "duplicates", "retried"),
    [
        ([], 2, 0, 0, 0),
        ([0], 1, 0, 0, 0),
        ([0, 5000], 0, 0, 0, 1),
        ([0, 4999], 0, 1, 0, 1),
        ([0, 5000, 5001], 0, 0, 1, 1),
    ],
)
def test_a_task_that_is_refused_once_is_called_twice_5_s_apart(
    made: list[int], missing: int, early: int, duplicates: int, retried: int
) -> None:
    seen = calls({"a": Promise(BEGAN, 2)}, *(("a", BEGAN + at) for at in made))
    assert (seen.missing, seen.early, seen.duplicates, seen.retried) == (missing, early, duplicates, retried)


def test_a_task_whose_change_was_not_answered_is_left_out() -> None:
    book = Book()
    book.promise("a", BEGAN, 1)
    book.doubt("a")
    seen = calls(book.promises, ("a", BEGAN - 1), ("a", BEGAN + 1))
    assert (seen.faults, seen.duplicates, seen.uncertain, seen.windows) == (0, 0, 1, [])
    assert book.calls_to_come == 0


def test_a_moved_task_is_due_when_it_was_moved_to() -> None:
    book = Book()
    book.promise("a", BEGAN, 1)
    book.doubt("a")
    book.promise("a", BEGAN + 500, 1)
    assert calls(book.promises, ("a", BEGAN + 499)).early == 1
    assert calls(book.promises, ("a", BEGAN + 507)).windows == [Window(0, 1, 7, 7, 7)]


def test_lateness_is_of_first_calls_and_belongs_to_the_minute_of_the_due_time() -> None:
    due = {str(number): BEGAN + MINUTE_MS + number for number in range(100)}
    promises = {id_: Promise(due_ms, 1) for id_, due_ms in due.items()} | {"first": Promise(BEGAN + MINUTE_MS - 1, 2)}
    made = [(id_, due_ms + int(id_) + 1) for id_, due_ms in due.items()]
    seen = calls(promises, *made, ("first", BEGAN + MINUTE_MS + 3), ("first", BEGAN + 2 * MINUTE_MS))
    assert seen.windows == [Window(0, 1, 4, 4, 4), Window(1, 100, 50, 99, 100)]
    assert seen.at_once is None


def test_tasks_due_at_once_have_a_lateness_of_their_own() -> None:
    promises = {"a": Promise(BEGAN, 1), "now": Promise(BEGAN, 1, is_ahead=False)}
    seen = calls(promises, ("a", BEGAN + 2), ("now", BEGAN + 40))
    assert seen.windows == [Window(0, 1, 2, 2, 2)]
    assert seen.at_once == Window(0, 1, 40, 40, 40)


def test_ticks_add_up_to_the_rate_whatever_it_is() -> None:
    for rate in (0.7, 33, 300):
        sizes = [len(orders) for orders in ticks(rate, 60, random.Random(1))]
        assert sum(sizes) == round(rate * 60)
        assert max(sizes) - min(sizes) <= 1


def test_the_mix_has_its_shares_and_changes_only_what_waits_long_enough() -> None:
    dice = random.Random(1)
    orders = [order(dice) for _ in range(20_000)]
    assert sum(each.lead_s == 0 for each in orders) == pytest.approx(1000, rel=0.1)
    assert sum(each.behaviour == "flaky" for each in orders) == pytest.approx(1000, rel=0.1)
    assert sum(each.behaviour == "gone" for each in orders) == pytest.approx(200, rel=0.2)
    waiting = [each for each in orders if each.lead_s >= CHANGED_FROM_S]
    assert sum(each.change == "move" for each in waiting) == pytest.approx(0.03 * len(waiting), rel=0.15)
    assert sum(each.change == "cancel" for each in waiting) == pytest.approx(0.02 * len(waiting), rel=0.15)
    assert not any(each.change for each in orders if each.lead_s < CHANGED_FROM_S)
    assert {each.calls for each in orders if each.behaviour == "flaky"} == {2}
    assert {each.calls for each in orders if each.behaviour != "flaky"} == {1}


def window(minute: int, p99_ms: float = 10) -> Window:
    return Window(minute, 100, 5, p99_ms, 20)


def sample(at_s: float, **figures: Mapping[str, float]) -> Sample:
    return Sample(at_s, {name.replace("_", "-"): dict(told) for name, told in figures.items()})


def run(
    growth: float = 0.0,
    seconds: float = SECONDS,
    p99: Callable[[int], float] = lambda _: 10,
    measure: str = "anon MiB",
    process: str = "dispatcher_1",
) -> Run:
    samples = [
        sample(at_s, **{process: {measure: 50 + growth * at_s / 3600, "CPU s": at_s / 10}})
        for at_s in range(0, int(seconds), 5)
    ]
    seen = calls({"a": Promise(BEGAN, 1)}, ("a", BEGAN + 3))
    seen = replace(seen, windows=[window(minute, p99(minute)) for minute in range(int(seconds // 60) + 1)])
    return Run("2026-11-22", {"cores": "2"}, 0.0, 300.0, 1, seconds, samples, seen, {}, {"moved": 3})


def test_a_steady_run_is_passed() -> None:
    assert failures(run()) == []


@pytest.mark.parametrize(
    ("process", "measure", "limit"),
    [
        ("dispatcher_1", "anon MiB", 8),
        ("ingest_2", "descriptors", 12),
        ("mailer_1", "asyncio tasks", 12),
        ("scheduler_1", "threads", 2),
        ("postgres", "connections", 12),
        ("redis", "keys for ever", 12),
        ("rabbitmq", "messages", 600),
    ],
)
def test_what_grows_above_its_limit_fails_the_run_by_name(process: str, measure: str, limit: float) -> None:
    assert failures(run(limit * 0.99, process=process, measure=measure)) == []
    [why] = failures(run(limit * 1.01, process=process, measure=measure))
    assert process.replace("_", "-") in why
    assert measure in why


def test_what_is_to_be_kept_may_grow() -> None:
    grown = run(10_000, process="postgres", measure="ingest MiB")
    assert failures(grown) == []
    assert [line.trend.per_h for line in lines(grown)] == [pytest.approx(10_000)]


def test_growth_of_a_short_run_is_told_and_not_judged() -> None:
    short = run(100, seconds=JUDGED_FROM_S - 60)
    assert failures(short) == []
    assert not all(line.is_ok for line in lines(short))
    assert failures(run(100, seconds=JUDGED_FROM_S))


def test_lateness_that_rises_over_the_thirds_fails_the_run_and_one_bad_minute_does_not() -> None:
    assert failures(run(p99=lambda minute: 200 if minute == 28 else 10)) == []
    assert failures(run(p99=lambda minute: 10 if minute < 20 else 19)) == []
    [why] = failures(run(p99=lambda minute: 10 if minute < 20 else 21))
    assert why == "p99 of lateness rises from 10 to 21 ms"


def test_thirds_are_of_whole_minutes_after_the_warm_up() -> None:
    assert [w.minute for w in measured(run())] == list(range(5, 30))
    assert [part.p99_ms for part in thirds([window(n, n) for n in range(7)])] == [0.5, 3, 5.5]
    assert thirds([window(0), window(1)]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda seen: replace(seen, missing=1),
        lambda seen: replace(seen, early=1),
        lambda seen: replace(seen, after_cancel=1),
        lambda seen: replace(seen, duplicates=1),
    ],
)
def test_a_call_that_went_wrong_fails_even_a_short_run(wrong: Callable[[Tally], Tally]) -> None:
    short = run(seconds=60)
    assert failures(short) == []
    assert len(failures(replace(short, tally=wrong(short.tally)))) == 1


def test_a_refused_request_and_a_process_that_ended_fail_the_run() -> None:
    assert failures(replace(run(), refused={"503 to POST": 2})) == ["2 requests not answered as they should"]
    assert failures(replace(run(), restarted=["ingest-1"])) == ["ingest-1 has ended in between"]


def test_a_connection_that_is_left_open_fails_even_a_short_run() -> None:
    left = replace(run(seconds=60), left_open={"dispatcher-1": 1})
    assert failures(left) == ["dispatcher-1 keeps 1 unused connections to the sink"]


def test_connections_to_the_sink_are_counted_apart_from_other_descriptors() -> None:
    me = {"dispatcher-1": os.getpid()}
    with socket.create_server(("127.0.0.1", 0)) as sink:
        port = sink.getsockname()[1]
        assert calling(me, port) == {}
        with socket.create_connection(("127.0.0.1", port)) as call:
            named = os.readlink(f"/proc/self/fd/{call.fileno()}")
            together, apart = held(me.values(), ()), held(me.values(), {named})
            assert calling(me, port) == {"dispatcher-1": 1}
        assert calling(me, port) == {}
    assert (together[TO_SINK], apart[TO_SINK]) == (0, 1)
    assert together["descriptors"] == apart["descriptors"] + 1


def test_a_process_that_is_missing_from_a_sample_is_missing_from_its_course() -> None:
    samples = [sample(0, a={"x": 1}), sample(5), sample(10, a={"x": 2})]
    assert course(samples, "a", "x") == [(0, 1), (10, 2)]


def test_the_page_and_the_plots_that_it_shows_are_written(tmp_path: Path) -> None:
    written = page.write(run(9), tmp_path)
    text = (tmp_path / page.PAGE).read_text()
    shown = [line.partition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert {tmp_path / name for name in shown} | {tmp_path / page.PAGE} == set(written)
    for name in shown:
        ElementTree.fromstring((tmp_path / name).read_text())
    assert "**Not passed:** dispatcher-1: anon MiB rises by 9.0 an hour, above 8." in text
    assert "| 8 EXCEEDED |" in text
    assert "| dispatcher-1 | 10.0 | 333 |" in text


def test_what_the_machine_did_besides_is_told() -> None:
    samples = [
        sample(at_s, redis={"CPU s": at_s / 10}, sink={"CPU s": at_s / 20}) for at_s in range(0, int(SECONDS), 5)
    ]
    for each in samples:
        each.figures[MACHINE] = {"CPU s": each.at_s * 0.45}
    text = page.tables(replace(run(), samples=samples))
    assert f"| {MACHINE} | 45.0 | 1500 |" in text
    assert "| of it not ours | 30.0 | 1000 |" in text


def test_a_course_is_drawn_from_zero_on_both_axes() -> None:
    drawn = ElementTree.fromstring(plots.courses("t", "min", {"a": [(0, 0), (5, 20), (10, 40)]}, shaded_to=5))
    [polyline] = drawn.iter("{http://www.w3.org/2000/svg}polyline")
    places = [tuple(map(float, place.split(","))) for place in polyline.attrib["points"].split()]
    bottom = plots.TOP + plots.CURVE_HEIGHT
    middle = (plots.LEFT + plots.PLOT / 2, plots.TOP + plots.CURVE_HEIGHT / 2)
    assert places == [(plots.LEFT, bottom), middle, (plots.LEFT + plots.PLOT, plots.TOP)]
    shaded = [rect for rect in drawn.iter("{http://www.w3.org/2000/svg}rect") if rect.attrib["fill"] == "#eee"]
    assert [float(rect.attrib["width"]) for rect in shaded] == [plots.PLOT / 2]
    assert all(x1 < x2 for (x1, _), (x2, _) in pairwise(places))
