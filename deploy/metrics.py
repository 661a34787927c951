"""docs/metrics.md, every metric with its meaning, from the metrics themselves: `python -m deploy.metrics` writes it.

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
from deploy.local.layout import ADMIN_PORTS
from libs.common.metrics import REGISTRY

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
PREFIX = "carillon_"
EVERY_SERVICE = "every service"
PREAMBLE = """\
# Metrics

Written by `python -m deploy.metrics` from the code; a test compares. Change the metric, not this page.

Every process serves `/metrics` on its admin port ({ports}),
with `process_*` and `python_*` beside what stands here.
What Prometheus needs, and what RabbitMQ serves: [monitoring.md](monitoring.md).

- A name is `carillon_<service>_<noun>_<unit>`; units are seconds, and plain numbers of what the noun says.
- A counter ends in `_total` and begins at 0 with the process: look at `rate` or `increase`, never at its value. With
  labels it is absent until it is first counted up: `or vector(0)`.
- A histogram has `_bucket`, `_sum` and `_count`.
- A gauge of a table or a queue is the same in each replica: take `max`. A gauge of what a process holds: take `sum`.
- Labels are from closed sets: no URL, host or task id. `job` and `instance` come from Prometheus.
"""


class Metric(NamedTuple):
    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def owner(self) -> str:
        """Which service counts it."""
        first = self.name.removeprefix(PREFIX).partition("_")[0]
        return first if first in ADMIN_PORTS else EVERY_SERVICE


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


def page() -> str:
    ports = ", ".join(f"{port} {service}" for service, port in ADMIN_PORTS.items())
    found = metrics()
    tables = [
        _table(owner, [metric for metric in found if metric.owner == owner]) for owner in (*ADMIN_PORTS, EVERY_SERVICE)
    ]
    return "\n".join((PREAMBLE.format(ports=ports), *tables))


def _table(owner: str, found: list[Metric]) -> str:
    note = "As far as it uses what they are about.\n\n" if owner == EVERY_SERVICE else ""
    rows = "".join(
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |\n"
        for name, kind, labels, meaning in found
    )
    return f"## {owner.capitalize()}\n\n{note}| metric | kind | labels | meaning |\n|---|---|---|---|\n{rows}"


def main() -> int:
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
