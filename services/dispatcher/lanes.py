"""Whose turn it is: calls in flight, bounded in total and per host, so that no receiver can hold up another.

A task whose host is at its limit waits here if its turn will come in a moment. Else it is sent away with the time at
which its turn is likely, and waits in Postgres: what waits here keeps its whole message from being settled.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import Gauge

from libs.common.intake import NotBegun
from libs.common.metrics import REGISTRY

# How long a task may expect to wait here, and how long it does when the expectation was wrong.
ROOM_S = 1.0
STAY_S = 1.5
AWAY_MAX_S = 300.0
# Until a host has shown how long its calls take. Till then few wait for it: it may be dead.
GUESS_S = 0.1
LEARNING = 0.2
LANES_MAX = 10_000

WAITING = Gauge("carillon_dispatcher_waiting_tasks", "Tasks in hand that wait for their turn", registry=REGISTRY)
FULL = Gauge("carillon_dispatcher_hosts_at_limit", "Hosts with as many calls as they may have", registry=REGISTRY)


@dataclass(slots=True)
class _Lane:
    mean_s: float = GUESS_S
    is_known: bool = False
    calls: int = 0
    moved_at: float = 0.0
    """When a call last ended, or the first of them began."""
    away_until: float = 0.0
    """When the turn comes of who was sent away last."""
    waiting: deque[asyncio.Future[bool]] = field(default_factory=deque)
    """Turns to come: True when it has, False when it was waited for too long."""


class Lanes:
    """`enter` before each call, `hang_up` after it, and `leave` once its outcome is told: a seat is held till then, so
    that outcomes that cannot be told hold up new calls. `monotonic` gives seconds, `dice` 0 <= x < 1.
    """

    name = "lanes"

    def __init__(
        self,
        total: int,
        per_host: int,
        monotonic: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._free = total
        self._per_host = per_host
        self._monotonic = monotonic
        self._dice = dice
        self._is_closed = False
        self._lanes: dict[str, _Lane] = {}
        # Hosts with tasks that wait, the one that has waited longest for a turn first.
        self._queue: dict[str, _Lane] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """When asked to stop, give no more turns."""
        await stopping.wait()
        self._is_closed = True
        for lane in self._queue.values():
            for turn in lane.waiting:
                if not turn.done():
                    turn.set_exception(NotBegun())

    async def enter(self, host: str) -> float | None:
        """None: it is your turn, `hang_up` and `leave` when you are done. Else the seconds after which to come again.

        Raises: NotBegun when the process has been asked to stop.
        """
        if self._is_closed:
            raise NotBegun
        lane = self._lane(host)
        if not lane.waiting and self._take(lane):
            return None
        is_full = lane.calls >= self._per_host
        if is_full and not self._has_room(lane):
            return self._away_s(lane)
        return await self._wait(host, lane, STAY_S if is_full else None)

    def note(self, host: str, took_s: float) -> None:
        """How long a call took that has just ended."""
        lane = self._lanes[host]
        lane.moved_at = self._monotonic()
        lane.mean_s += LEARNING * (took_s - lane.mean_s)
        lane.is_known = True

    def hang_up(self, host: str) -> None:
        """The call has ended: the host may have another."""
        lane = self._lanes[host]
        lane.moved_at = self._monotonic()
        if lane.calls == self._per_host:
            FULL.dec()
        lane.calls -= 1
        self._serve()

    def leave(self) -> None:
        """What followed the call is done too."""
        self._free += 1
        self._serve()

    def _lane(self, host: str) -> _Lane:
        lane = self._lanes.get(host)
        if lane is None:
            if len(self._lanes) >= LANES_MAX:
                self._forget_idle()
            lane = self._lanes[host] = _Lane()
        return lane

    def _forget_idle(self) -> None:
        for host in [host for host, lane in self._lanes.items() if not lane.calls and not lane.waiting]:
            del self._lanes[host]

    def _take(self, lane: _Lane) -> bool:
        if not self._free or lane.calls >= self._per_host:
            return False
        if not lane.calls:
            lane.moved_at = self._monotonic()
        self._free -= 1
        lane.calls += 1
        if lane.calls == self._per_host:
            FULL.inc()
        return True

    async def _wait(self, host: str, lane: _Lane, stay_s: float | None) -> float | None:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        lane.waiting.append(turn)
        self._queue.setdefault(host, lane)
        timer = None if stay_s is None else loop.call_later(stay_s, _give_up, turn)
        WAITING.inc()
        try:
            return None if await turn else self._away_s(lane)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None and turn.result():
                self.hang_up(host)
                self.leave()
            raise
        finally:
            WAITING.dec()
            if timer is not None:
                timer.cancel()

    def _serve(self) -> None:
        """Give what is free to those who wait, host by host in turn."""
        if not self._free:
            return
        for host, lane in list(self._queue.items()):
            if not self._free:
                return
            while lane.waiting and lane.waiting[0].done():
                lane.waiting.popleft()
            if lane.waiting and self._take(lane):
                lane.waiting.popleft().set_result(True)
                del self._queue[host]
                if lane.waiting:
                    self._queue[host] = lane  # behind the others
            elif not lane.waiting:
                del self._queue[host]

    def _step_s(self, lane: _Lane) -> float:
        """From one turn of a full lane to the next: by its calls so far, or by how long it has not moved at all."""
        return max(lane.mean_s, self._monotonic() - lane.moved_at) / self._per_host

    def _has_room(self, lane: _Lane) -> bool:
        if not lane.is_known and len(lane.waiting) >= self._per_host / 2:
            return False
        return (len(lane.waiting) + 1) * self._step_s(lane) <= ROOM_S

    def _away_s(self, lane: _Lane) -> float:
        now, step_s = self._monotonic(), self._step_s(lane)
        lane.away_until = max(lane.away_until, now + len(lane.waiting) * step_s) + step_s
        if lane.away_until - now <= AWAY_MAX_S:
            return lane.away_until - now
        lane.away_until = now + AWAY_MAX_S
        return AWAY_MAX_S * (1 + self._dice()) / 2  # not all of them at one instant


def _give_up(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)  # and its place is skipped
