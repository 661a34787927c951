"""The report beside the peers: what is counted of the calls, what a ratio is, and which page a run may write."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.peers import page, plots
from benchmarks.peers.figures import Calls, Kill, Load, Report, Result, by_kind, calls, curve
from benchmarks.peers.install import SOURCE, versions

DUE = {"a": 1000, "b": 1000, "c": 2000, "d": 2000}


def test_lateness_is_from_each_tasks_own_due_time_to_its_first_call() -> None:
    seen = calls(DUE, [("a", 1003), ("b", 1010), ("c", 2001), ("d", 2040), ("a", 9000)])
    assert (seen.p50_ms, seen.p99_ms, seen.max_ms) == (3, 40, 40)


def test_second_calls_early_calls_and_missing_tasks_are_counted_apart() -> None:
    seen = calls(DUE, [("a", 999), ("a", 1001), ("a", 1002), ("c", 2000), ("b", 1000)])
    assert (seen.tasks, seen.doubled, seen.early, seen.missing) == (4, 2, 1, 1)
    assert seen.first_ms == -1


def test_calls_of_other_tasks_do_not_count() -> None:
    assert calls({"a": 1000}, [("old", 1), ("a", 1005), ("old", 2)]) == calls({"a": 1000}, [("a", 1005)])


def test_a_batch_of_which_nothing_was_called_has_no_lateness() -> None:
    with pytest.raises(ValueError, match="none of these"):
        calls(DUE, [("old", 1)])


def test_a_bursts_pace_is_of_what_was_called_up_to_the_last_call() -> None:
    seen = calls(dict.fromkeys("abcd", 1000), [("a", 1100), ("b", 1500), ("c", 1600)])
    assert seen.per_s == pytest.approx(3 / 0.6)


def test_the_curve_rises_to_all_tasks_at_the_last_first_call() -> None:
    due = {str(number): 1000 for number in range(1003)}
    points = curve(due, [(id_, 1001 + int(id_)) for id_ in due] + [("0", 99_999)])
    assert points[-1] == (1003, 1003)
    assert points == sorted(points)
    assert all(ms == count for ms, count in points)
    assert len(points) < 250


def test_processes_of_one_kind_are_added_up() -> None:
    assert by_kind({"worker-1": 2.0, "worker-2": 3.0, "postgres": 7.0}) == {"worker": 5.0, "postgres": 7.0}


def test_cpu_per_task_is_of_submission_and_calls_without_the_sink_and_who_submits() -> None:
    own, servers = page.parts(LOAD)
    assert own == {"worker": 30.0}
    assert servers == {"postgres": 12.0}


def test_a_rate_is_of_the_way_of_submission_that_it_names() -> None:
    bulk = replace(LOAD, bulk=True, submitted_per_s=9000.0)
    assert result("x", spread=bulk).one_by_one_per_s == LOAD.submitted_per_s
    assert result("x", spread=bulk).bulk_per_s == 9000.0
    assert result("x", spread=LOAD).bulk_per_s is None


@pytest.mark.parametrize(
    ("value", "base", "told"), [(5.0, 20.0, "0.25"), (None, 20.0, "-"), (5.0, None, "-"), (5.0, 0.0, "-")]
)
def test_a_ratio_needs_both_figures(value: float | None, base: float | None, told: str) -> None:
    assert page.ratio(value, base) == told


def test_ratios_are_to_carillon() -> None:
    slow = replace(LOAD, calls=replace(LOAD.calls, max_ms=4000.0))
    table = page.tables(report(result("Carillon"), result("Slow", burst=slow)))
    [row] = [line for line in table.splitlines() if line.startswith("| Slow | 0.25 |")]
    assert row.split(" | ")[2] == "4"


def test_without_carillon_there_are_no_ratios() -> None:
    assert "Ratios" not in page.tables(report(result("Slow"), result("Slower")))


def test_what_failed_is_named_with_its_reason_and_shown_as_no_figure() -> None:
    failed = Result("Stuck", "1", "", "", (), failures={"burst": "not called within 300 s: 7 tasks"})
    told = page.tables(report(result("Carillon"), failed))
    assert "| Stuck | burst | not called within 300 s: 7 tasks |" in told
    assert f"| Stuck |{' - |' * len(page.FIGURES)}" in told


def test_the_page_and_each_plot_it_shows_are_written(tmp_path: Path) -> None:
    written = page.write(report(result("Carillon"), result("Other")), tmp_path)
    text = (tmp_path / "performance.md").read_text()
    shown = [line.partition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(shown) == 3
    assert {tmp_path / name for name in shown} | {tmp_path / "performance.md"} == set(written)
    for name in shown:
        ElementTree.fromstring((tmp_path / name).read_text())


def test_no_page_is_written_where_carillon_has_no_figures(tmp_path: Path) -> None:
    with pytest.raises(page.NotWhole):
        page.write(report(result("Carillon", kill=None), result("Other")), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_parts_of_a_bar_are_as_long_as_their_values_and_follow_each_other() -> None:
    drawn = ElementTree.fromstring(plots.stacked("t", "us", {"A<B": {"x": 30.0, "y": 10.0}, "C": {"x": 20.0}}))
    bars = [bar for bar in drawn.iter("{http://www.w3.org/2000/svg}rect") if list(bar)]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths == pytest.approx([plots.PLOT * 0.75, plots.PLOT * 0.25, plots.PLOT * 0.5], abs=0.1)
    begins = [float(bar.attrib["x"]) - plots.LEFT for bar in bars]
    assert begins == pytest.approx([0, plots.PLOT * 0.75, 0], abs=0.1)


def test_every_peer_runs_the_version_that_the_lock_pins() -> None:
    locked = (SOURCE / "requirements.lock").read_text() + (SOURCE / "package-lock.json").read_text()
    for name, version in versions().items():
        assert f"\n{name}=={version} " in locked or f'"node_modules/{name}": {{\n      "version": "{version}"' in locked


LOAD = Load(
    bulk=False,
    submitted_per_s=1234.0,
    calls=Calls(tasks=100, missing=0, doubled=0, early=0, first_ms=1.0, p50_ms=10.0, p99_ms=90.0, max_ms=1000.0),
    submit_cpu_us={"worker-1": 5.0, "postgres": 4.0, "client": 100.0},
    drain_cpu_us={"worker-1": 15.0, "worker-2": 10.0, "postgres": 8.0, "client": 1.0, "sink": 50.0},
    not_ours=0.1,
    curve=[(10, 50), (1000, 100)],
)
KILL = Kill(tasks=10, called_before=1, lost=0, doubled=1, early=0, last_after_s=2.5)


def result(name: str, burst: Load | None = LOAD, spread: Load | None = LOAD, kill: Kill | None = KILL) -> Result:
    return Result(
        name, "1.0", "so", "nothing", ("https://example.org",), burst, spread, kill, {"own": 50.0, "servers": 60.0}
    )


def report(*results: Result) -> Report:
    return Report("2026-11-21", {"cores": "2"}, 0.0, 100, 10, 300.0, results)
