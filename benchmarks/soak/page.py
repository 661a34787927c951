"""docs/soak.md of one run: what grew, what did not, how late it was, with plots. Every figure is one of the run's."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.peers import plots
from benchmarks.peers.figures import kind
from benchmarks.soak.samples import MACHINE
from benchmarks.soak.trend import Point, by_minute
from benchmarks.soak.verdict import (
    LATER_MS,
    LATER_TIMES,
    Line,
    Run,
    course,
    failures,
    lines,
    measured,
    thirds,
)
from deploy.local.layout import SERVICES

DOCS = Path("docs")
PAGE, PLOTS = "soak.md", "soak"
SERVERS = ("rabbitmq", "postgres", "redis")


def write(run: Run, docs: Path = DOCS) -> list[Path]:
    """The page and its plots; gives where."""
    (docs / PLOTS).mkdir(parents=True, exist_ok=True)
    files = {docs / PLOTS / name: drawn for name, drawn in _plots(run).items()} | {docs / PAGE: text(run)}
    for path, content in files.items():
        path.write_text(content)
    return list(files)


def text(run: Run) -> str:
    shown = "\n\n".join(f"![{name}]({PLOTS}/{name})" for name in _plots(run))
    head = (
        f"One run of `make soak` on {run.at}: {run.seconds / 60:g} minutes at {run.rate:g} tasks/s, "
        f"{run.replicas} process(es) of each service, default settings, logs included. This page and its plots are "
        "written by that run (`.venv/bin/python -m benchmarks.soak --write`); nothing on it is from anywhere else."
    )
    return "\n\n".join(["# Under steady load", head, _verdict(run), shown, tables(run), _HOW, ""])


def tables(run: Run) -> str:
    """What the terminal shows too."""
    return "\n\n".join([_calls(run), _lateness(run), _growth(run), _cpu(run), _machine(run)])


def _verdict(run: Run) -> str:
    found = failures(run)
    if found:
        return "**Not passed:** " + "; ".join(found) + "."
    return "**Passed**, by the limits below." if run.is_judged else "Too short to judge growth; the calls are in order."


def _calls(run: Run) -> str:
    seen = run.tally
    rows = {
        "accepted tasks": seen.accepted,
        "called": seen.called,
        "calls": seen.calls,
        "retried after a 503": seen.retried,
        **run.changed,
        "missing calls": seen.missing,
        "early calls": seen.early,
        "calls made twice": seen.duplicates,
        "calls after a cancellation": seen.after_cancel,
        "tasks left out, a change of them unanswered": seen.uncertain,
        "calls of tasks whose request was not answered": seen.unknown,
        **{f"answers: {why}": count for why, count in run.refused.items()},
    }
    return "## Calls\n\n" + _table(["", ""], [(name, f"{count:,}") for name, count in rows.items()])


def _lateness(run: Run) -> str:
    windows, parts = measured(run), thirds(measured(run))
    names = ("first", "second", "last")
    rows = [
        (f"{name} third", f"{part.p50_ms:.0f}", f"{part.p99_ms:.0f}", f"{part.max_ms:.0f}")
        for name, part in zip(names, parts, strict=False)
    ]
    if run.tally.at_once:
        once = run.tally.at_once
        rows.append(("due at once", f"{once.p50_ms:.0f}", f"{once.p99_ms:.0f}", f"{once.max_ms:.0f}"))
    note = (
        f"Of {sum(w.tasks for w in windows):,} tasks due in {len(windows)} minutes after the warm-up: p50 and p99 are "
        "medians of the minutes' own, max is of all. Tasks due at once are the whole run's, from the request to the "
        f"call. Limit: the last third's p99 is at most {LATER_TIMES:g} times the first's and {LATER_MS:g} ms."
    )
    return "## Lateness, ms\n\n" + note + "\n\n" + _table(["", "p50", "p99", "max"], rows)


def _growth(run: Run) -> str:
    found = lines(run)
    head = ["", "", "first minute", "last minute", "highest", "per hour", "95 %", "per day", "limit per hour"]
    note = f"The first {run.warm_up_s / 60:.1f} minutes are left out. Slopes: Theil-Sen over medians of minutes."
    return "## Growth\n\n" + note + "\n\n" + _table(head, [_row(line, is_judged=run.is_judged) for line in found])


def _row(line: Line, *, is_judged: bool) -> Sequence[str]:
    slope = line.trend
    limit = (
        "-"
        if line.limit_per_h is None
        else f"{line.limit_per_h:g}" + ("" if line.is_ok or not is_judged else " EXCEEDED")
    )
    interval = f"{slope.low_per_h:+,.1f} to {slope.high_per_h:+,.1f}"
    levels = (f"{value:,.1f}" for value in (slope.first, slope.last, slope.peak))
    return (line.process, line.measure, *levels, f"{slope.per_h:+,.1f}", interval, f"{slope.per_day:+,.0f}", limit)


def _cpu(run: Run) -> str:
    """Between the warm-up and the end, per task and of one core."""
    kept = [sample for sample in run.samples if sample.at_s >= run.warm_up_s] or list(run.samples)
    first, last = kept[0], kept[-1]
    seconds = (last.at_s - first.at_s) or 1.0
    used = {
        name: (last.figures[name]["CPU s"] - figures["CPU s"]) / seconds
        for name, figures in first.figures.items()
        if "CPU s" in figures and "CPU s" in last.figures.get(name, {})
    }
    if MACHINE in used:  # lateness of a run beside which others worked says nothing
        used["of it not ours"] = 2 * used[MACHINE] - sum(used.values())
    rows = [(name, f"{share * 100:.1f}", f"{share / run.rate * 1e6:.0f}") for name, share in used.items()]
    return "## CPU\n\n" + _table(["", "% of a core", "us per task"], rows)


def _machine(run: Run) -> str:
    rows = [*run.machine.items(), ("load before", f"{run.load_before:.2f}")]
    return "## Machine\n\n" + _table(["", ""], rows)


_HOW = """## How

- The load: two thirds of the tasks by single POSTs, one third in batches, evenly; 5 % due at once, the others in 1 to
  60 s. 5 % are answered 503 the first time and called again after 5 s, 1 % are answered 410 and fail. Of those that
  wait 10 s or more 2 % are cancelled and 3 % moved, half-way. Three schedules make a task every 5, 15 and 20 s.
  A digest is asked for after two minutes; the others come by the mailer's schedule. Nothing is repeated by the
  client, so every answer that is not the expected one fails the run.
- One process of each service: what a task leaves behind is all in one place.
- Memory: what the process and its children allocated (`Pss_Anon` and what of it is swapped, of
  `/proc/<pid>/smaps_rollup`), each 5 s. A leak can only be there. Shared buffers and mapped files, which fill up to
  their size and stay, are in PSS, which `summary.json` has too.
- Descriptors: connections to the sink are counted apart. A dispatcher opens as many as it makes calls at once, and
  closes each that nobody used for 4 s, so their number follows the moments of haste on a busy machine. One that leaks
  is still open ten seconds after the last call, and fails the run.
- A slope is the median of the slopes between any two minutes, each minute being the median of its samples; the
  interval is Sen's. It takes minutes for independent, so it is too narrow where memory breathes in longer waves.
- Lateness: from the due time to the first call, by the sink's clock, which is the same machine's.
- Failing exit: growth above a limit, a call missing, early, made twice or after a confirmed cancellation, a refused
  request, a process that has ended, or a connection to the sink that is left open.

## What is told and not judged

| grows | because |
|---|---|
| connections to the sink | as many as there were calls at once within 4 s; what is left at the end is judged |
| tables of ingest | the history is kept for `CARILLON_RETENTION_DAYS` (30), then its days are dropped |
| tables of the scheduler | a tombstone per task is kept for `CARILLON_TOMBSTONE_DAYS` (7); dead rows until vacuum |
| Redis | marks of calls are kept for an hour and more; keys without an expiry (`keys for ever`) are judged |
| failures for the digest | they wait in their queue for the mail of 08:00 |
| RabbitMQ's memory | what is in the write-ahead log of quorum queues is in memory until it rolls over: a saw-tooth |
| disk of RabbitMQ | segments are cut when the log rolls over |
| disk of PostgreSQL | tables, and write-ahead log up to `max_wal_size` |
| logs | a line per call; whoever runs the processes rotates them |"""


def _plots(run: Run) -> dict[str, str]:
    """SVG by file name; of memory the services and the servers apart, since they differ by their size."""
    warm = run.warm_up_s / 60
    names = list(dict.fromkeys(name for sample in run.samples for name in sample.figures))
    services = _minutes(run, {name: "anon MiB" for name in names if kind(name) in SERVICES})
    servers = _minutes(run, {name: "anon MiB" for name in names if name in SERVERS})
    held = _minutes(run, {name: "descriptors" for name in names if kind(name) in SERVICES})
    windows = [window for window in run.tally.windows if (window.minute + 1) * 60 <= run.seconds]
    late: dict[str, list[Point]] = {
        "p50": [(window.minute + 0.5, window.p50_ms) for window in windows],
        "p99": [(window.minute + 0.5, window.p99_ms) for window in windows],
    }
    drawn = {
        "services.svg": ("Memory that each service allocated, MiB", services),
        "servers.svg": ("Memory that each server allocated, MiB", servers),
        "descriptors.svg": ("Open file descriptors of each service, but for connections to the sink", held),
        "lateness.svg": ("Lateness of the calls by minute, ms", late),
    }
    return {
        name: plots.courses(title, "minutes; grey: the warm-up, which is left out", courses, warm)
        for name, (title, courses) in drawn.items()
        if any(courses.values())
    }


def _minutes(run: Run, wanted: Mapping[str, str]) -> dict[str, list[Point]]:
    found = {name: by_minute(course(run.samples, name, measure)) for name, measure in wanted.items()}
    return {name: [(at_s / 60, value) for at_s, value in points] for name, points in found.items()}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruled = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)
