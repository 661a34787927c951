"""The one registry of this process, which its admin port serves.

A service makes its own metrics with `registry=REGISTRY`. The library's default registry is not used: whatever
any import adds to it would end up on the page.
"""

import asyncio

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

# One `_created` series beside each counter and histogram would swell the page; nothing of ours reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library ships it without annotations

REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_BUILD_INFO = Gauge(
    "carillon_build_info",
    "Always 1; the labels say what is running.",
    labelnames=["service", "version"],
    registry=REGISTRY,
)


_ASYNCIO_TASKS = Gauge(
    "carillon_asyncio_tasks",
    "Tasks of the event loop that have not ended: with the load they rise and fall, a leak only rises",
    registry=REGISTRY,
)


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # asked outside of a loop, where there are none
        return 0


_ASYNCIO_TASKS.set_function(_tasks)


def build_info(service: str, version: str) -> None:
    """Say on /metrics which service and version this process is."""
    _BUILD_INFO.labels(service=service, version=version).set(1)
