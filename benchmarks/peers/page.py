"""docs/performance.md of one run: tables, ratios to Carillon, plots. Every figure on it is one of the run's."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.peers import plots
from benchmarks.peers.figures import Calls, Load, Report, Result, by_kind

DOCS = Path("docs")
PAGE, PLOTS = "performance.md", "performance"
NONE = "-"
SERVERS = ("rabbitmq", "postgres", "redis")
NOT_THEIRS = ("client", "sink")

Figure = Callable[[Result], float | None]


class NotWhole(Exception):
    """The run does not carry the page: figures are missing that only a whole run has."""


def write(report: Report, docs: Path = DOCS) -> list[Path]:
    """The page and its plots; gives where. Raises: NotWhole when Carillon's own figures are not all there."""
    first = report.results[0]
    if first.failures or first.burst is None or first.spread is None or first.kill is None:
        raise NotWhole("Carillon's own run is not whole: there is nothing to relate the others to")
    (docs / PLOTS).mkdir(parents=True, exist_ok=True)
    files = {docs / PLOTS / name: drawn for name, drawn in _plots(report).items()} | {docs / PAGE: text(report)}
    for path, content in files.items():
        path.write_text(content)
    return list(files)


def text(report: Report) -> str:
    return "\n\n".join(
        [
            "# Performance, beside its peers",
            f"One run of `make bench` on {report.at}: each system on servers of its own, started from nothing, one "
            "after the other, on the same cores, into the same sink. This page and its plots are written by that run "
            "(`.venv/bin/python -m benchmarks.peers --write`); nothing on it is from anywhere else. Read the ratios: "
            "they hold on other machines better than the numbers do.",
            tables(report),
            _how(report),
            _configurations(report),
            _IS_NOT,
            "",
        ]
    )


def tables(report: Report) -> str:
    """What the terminal shows too."""
    parts = [_machine(report), _figures(report), _ratios(report), _cpu(report), _kills(report), _failures(report)]
    return "\n\n".join(part for part in parts if part)


def _machine(report: Report) -> str:
    rows = [*report.machine.items(), ("load before", f"{report.load_before:.2f}")]
    return "## Machine\n\n" + _table(["", ""], rows)


def _of(load: Load | None, figure: Callable[[Calls], float]) -> float | None:
    return None if load is None else figure(load.calls)


def _sum(result: Result, figure: Callable[[Calls], float]) -> float | None:
    loads = [load.calls for load in (result.burst, result.spread) if load is not None]
    return sum(map(figure, loads)) if loads else None


def _earliest_ms(result: Result) -> float | None:
    loads = [load.calls for load in (result.burst, result.spread) if load is not None]
    return max((max(0.0, -seen.first_ms) for seen in loads), default=None)


def _cpu_us(result: Result) -> float | None:
    if result.burst is None:
        return None
    own, servers = parts(result.burst)
    return sum(own.values()) + sum(servers.values())


FIGURES: dict[str, Figure] = {
    "burst, tasks/s": lambda result: _of(result.burst, lambda seen: seen.per_s),
    "last called after, ms": lambda result: _of(result.burst, lambda seen: seen.max_ms),
    "1,000/s: p50, ms": lambda result: _of(result.spread, lambda seen: seen.p50_ms),
    "p99, ms": lambda result: _of(result.spread, lambda seen: seen.p99_ms),
    "max, ms": lambda result: _of(result.spread, lambda seen: seen.max_ms),
    "early": lambda result: _sum(result, lambda seen: seen.early),
    "by up to, ms": _earliest_ms,
    "doubled": lambda result: _sum(result, lambda seen: seen.doubled),
    "submitted one by one, tasks/s": lambda result: result.one_by_one_per_s,
    "in bulk, tasks/s": lambda result: result.bulk_per_s,
    "CPU, us/task": _cpu_us,
    "memory, MiB: own": lambda result: result.memory_mib.get("own"),
    "servers": lambda result: result.memory_mib.get("servers"),
}
COUNTS = ("early", "by up to, ms", "doubled")
"""Of which a ratio says nothing."""


def _figures(report: Report) -> str:
    rows = [[result.name, *(_number(figure(result)) for figure in FIGURES.values())] for result in report.results]
    return f"## Figures: a burst of {report.tasks:,}, and as many at 1,000/s\n\n" + _table(["", *FIGURES], rows)


def _ratios(report: Report) -> str:
    """Only beside Carillon."""
    first, *others = report.results
    if first.name != "Carillon" or not others:
        return ""
    figures = {name: figure for name, figure in FIGURES.items() if name not in COUNTS}
    rows = [[other.name, *(ratio(figure(other), figure(first)) for figure in figures.values())] for other in others]
    return "## Ratios: times Carillon's\n\n" + _table(["", *figures], rows)


def ratio(value: float | None, base: float | None) -> str:
    return NONE if value is None or not base else f"{value / base:.3g}"


def _cpu(report: Report) -> str:
    """Of the burst: from the first submission to a second after the last call."""
    rows = []
    for result in report.results:
        if result.burst is not None:
            own, servers = parts(result.burst)
            told = ", ".join(f"{name} {us:.0f}" for name, us in own.items())
            rows.append([result.name, told, *(_number(servers.get(name)) for name in SERVERS), _others(result.burst)])
    head = ["", "own processes", *SERVERS, "not counted: client, sink", "not ours, cores"]
    if not rows:
        return ""
    return "## CPU of the burst, us per task\n\n" + _table(head, [row[:-1] + row[-1].split("|") for row in rows])


def _others(load: Load) -> str:
    used = load.cpu_us()
    return ", ".join(f"{used.get(name, 0.0):.0f}" for name in NOT_THEIRS) + f"|{load.not_ours:.2f}"


def parts(load: Load) -> tuple[dict[str, float], dict[str, float]]:
    """CPU of its own processes and of the servers, by kind, without the sink and who submits."""
    used = {name: us for name, us in by_kind(load.cpu_us()).items() if name not in NOT_THEIRS}
    return {n: us for n, us in used.items() if n not in SERVERS}, {n: us for n, us in used.items() if n in SERVERS}


def _kills(report: Report) -> str:
    head = [
        "",
        "called before",
        "lost",
        "doubled",
        "early",
        "last called after the kill, s",
        "what its documentation says",
    ]
    rows = []
    for result in report.results:
        if result.kill is not None:
            kill = result.kill
            said = result.after_kill
            if kill.waited_for_operator is not None:
                said += f"; {kill.waited_for_operator} waited for that here"
            told = [str(number) for number in (kill.called_before, kill.lost, kill.doubled, kill.early)]
            rows.append([result.name, *told, f"{kill.last_after_s:.1f}", said])
    title = f"## kill -9 of the worker in a burst of {report.kill_tasks:,}; started again a second later"
    return f"{title}\n\n" + _table(head, rows) if rows else ""


def _failures(report: Report) -> str:
    rows = [(result.name, measure, why) for result in report.results for measure, why in result.failures.items()]
    return "## Not measured\n\n" + _table(["", "measure", "why"], rows) if rows else ""


def _how(report: Report) -> str:
    shown = "\n\n".join(f"![{name}]({PLOTS}/{name})" for name in _plots(report))
    return f"""## Plots

{shown}

## What is measured

- A task is an HTTP POST of some 90 bytes of JSON to a sink on the same machine, which answers 204 at once, over
  kept-alive connections: by aiohttp or urllib3 in Python, undici in JavaScript, its own client in Carillon.
- Submitted: 64 submissions under way at once, where the library can; each counts when the system says that it has the
  task. In bulk 1,000 at a time. Carillon is sent prepared HTTP requests; a peer is asked through its library.
- Burst: all tasks due at one instant, submitted one by one before it. 1,000/s: due one per millisecond, submitted in
  bulk where there is such a way. Lateness is from the due time to the first call, by the sink's clock.
- CPU: user and system time of the system's processes and of the servers that it uses, over submission and calls of the
  burst. The sink and who submits are not in it: the latter is where a peer's library works on a submission.
- Memory: the peak of burst and spread, shared pages counted once. Carillon's is that of four services.
- A measure may take {report.limit_s:.0f} s. What is not called by then, and what would come after it, is listed above
  as not measured."""


def _configurations(report: Report) -> str:
    rows = []
    for result in report.results:
        links = ", ".join(f"[{number}]({url})" for number, url in enumerate(result.docs, 1)) or NONE
        rows.append([result.name, result.version, result.configuration, links])
    return "## How each is configured\n\n" + _table(["", "version", "configuration", "as its documentation says"], rows)


_IS_NOT = """## What it is not

A verdict on the peers: they do other things besides, and some of them do this one only in passing. Nor a promise for
another machine: all processes share its cores, so a system that uses more of them has less for its servers."""


def _plots(report: Report) -> dict[str, str]:
    bursts = {result.name: result.burst for result in report.results if result.burst is not None}
    spreads = {result.name: result.spread.calls for result in report.results if result.spread is not None}
    lines = {name: [(float(ms), float(count)) for ms, count in load.curve] for name, load in bursts.items()}
    late = {name: {"p50": seen.p50_ms, "p99": seen.p99_ms, "max": seen.max_ms} for name, seen in spreads.items()}
    cpu = {name: _for_plot(load) for name, load in bursts.items()}
    drawn = {}
    if bursts:
        title = f"Burst of {report.tasks:,}: tasks called since the instant they were due"
        drawn["burst.svg"] = plots.curves(title, "ms", lines, float(report.tasks))
        drawn["cpu.svg"] = plots.stacked("CPU per task, burst", "us", cpu)
    if spreads:
        drawn["lateness.svg"] = plots.marks("1,000 tasks/s: lateness of the calls", "ms", late)
    return drawn


def _for_plot(load: Load) -> dict[str, float]:
    own, servers = parts(load)
    return {"own processes": sum(own.values())} | {name: servers[name] for name in SERVERS if name in servers}


def _number(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruled = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)
