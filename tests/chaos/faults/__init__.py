"""How each fault is done, and undone: one module for each thing that faults befall."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from deploy.local.private import PrivateStack
from tests.chaos.fault import Fault
from tests.chaos.faults import broker, cache, processes
from tests.chaos.faults.clock import Clocks
from tests.chaos.proxies import Proxies

ENDS_ITSELF = ("kill", "restart", "flush")
"""Over as soon as it is done, but for the time that its target takes to serve again."""


@dataclass(frozen=True)
class House:
    """What faults befall."""

    stack: PrivateStack
    proxies: Proxies
    clocks: Clocks | None
    """None when the plan steps no clock."""
    settings: Mapping[str, str]
    """The stack's, for the set-up step."""


def hurt(house: House, fault: Fault) -> AbstractAsyncContextManager[None]:
    """Done when it is entered, undone when it is left."""
    layout, variables = house.stack.layout, house.stack.variables
    match fault.kind:
        case "kill":
            return processes.killed(layout, fault.target)
        case "restart":
            return processes.restarted(layout, fault.target)
        case "freeze":
            return processes.frozen(layout, fault.target)
        case "clock":
            assert house.clocks is not None, "the plan steps a clock"
            return house.clocks.stepped(fault.target, float(fault.parameters["by_s"]))
        case "alarm":
            return broker.out_of_memory(layout)
        case "full":
            return broker.full(layout, str(fault.parameters["queue"]))
        case "missing":
            return broker.missing(layout, {**house.settings, **variables}, str(fault.parameters["queue"]))
        case "flush":
            return cache.flushed(variables["CARILLON_REDIS_URL"])
        case _:
            return house.proxies.spoilt(fault)
