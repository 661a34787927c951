"""Where an attempt waits that somebody else is calling."""

from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import pytest

from libs.common import topology
from libs.common.contracts import ReturnTask
from services.dispatcher.marks import DONE_S
from services.dispatcher.outlet import CLAIM_RUNG_MS_MAX, Outlet
from tests.unit.dispatcher.samples import NOW, a_task


class Clock:
    def now(self) -> datetime:
        return NOW


class Heard:
    def __init__(self) -> None:
        self.items: list[tuple[Any, bytes]] = []

    async def publish(self, route: Any, item: bytes) -> None:
        self.items.append((route, item))

    insist = publish


async def where_it_waits(shortest_ms: int | None) -> tuple[Any, bytes]:
    heard = Heard()
    outlet = Outlet(cast("Any", heard), cast("Any", Clock()), "one")
    await outlet.wait_for_claim(a_task(hop=3), NOW, shortest_ms)
    [item] = heard.items
    return item


@pytest.mark.parametrize("shortest_ms", [1, 5_000, 60_000])
async def test_a_short_rung_keeps_what_waits_for_a_claim(shortest_ms: int) -> None:
    route, _item = await where_it_waits(shortest_ms)
    assert route == topology.rung(shortest_ms)


@pytest.mark.parametrize("shortest_ms", [None, 60_001, 7 * 86_400_000])
async def test_without_a_short_rung_the_scheduler_keeps_it_for_five_seconds(shortest_ms: int | None) -> None:
    route, item = await where_it_waits(shortest_ms)
    assert route == topology.RETURN
    returned = msgspec.json.decode(item, type=ReturnTask)
    assert returned.not_before == NOW + timedelta(seconds=5)
    assert (returned.task.attempt, returned.task.hop) == (1, 4)


def test_no_rung_keeps_it_until_its_done_mark_has_gone() -> None:
    assert CLAIM_RUNG_MS_MAX / 1000 <= DONE_S / 2
