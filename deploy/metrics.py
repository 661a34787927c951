"""The table of every metric, from the metrics themselves: `python -m deploy.metrics` writes it into docs/monitoring.md.

A metric exists once its module is imported, so this imports every module of every service into one process.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import libs
import services
from libs.common.metrics import REGISTRY

PAGE = Path(__file__).parent.parent / "docs" / "monitoring.md"
BEGIN, END = "<!-- metrics: written by `python -m deploy.metrics` -->", "<!-- end of metrics -->"
PREFIX = "carillon_"


class Metric(NamedTuple):
    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def import_all() -> None:
    """Import every module of libs and services, but not the programs."""
    for package in (libs, services):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def metrics() -> list[Metric]:
    """Ours, by name as scraped."""
    import_all()
    # The library tells the labels of a metric without samples to nobody; this is where it keeps them.
    collectors = REGISTRY._collector_to_names
    return sorted(metric for collector in collectors for metric in _of(collector))


def _of(collector: object) -> Iterator[Metric]:
    for family in collector.collect():  # type: ignore[attr-defined]
        if family.name.startswith(PREFIX):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield Metric(name, family.type, tuple(getattr(collector, "_labelnames", ())), family.documentation)


def table() -> str:
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.meaning} |"
        for metric in metrics()
    ]
    return "\n".join(("| metric | kind | labels | meaning |", "|---|---|---|---|", *rows))


def with_table(page: str) -> str:
    """The page with the present table between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    PAGE.write_text(with_table(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
