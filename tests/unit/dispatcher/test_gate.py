"""Which attempts are made now, and when the others come again."""

from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from libs.common.contracts import TargetRule, Task
from libs.common.ids import new_id
from libs.common.metrics import REGISTRY
from services.dispatcher.breaker import BACK_PER_S, CALLS_MIN, FORGET_AFTER_S, OPEN_FIRST_S
from services.dispatcher.gate import PAUSE_FIRST_S, PAUSE_MAX_S, BreakerChange, Gate, Later
from services.dispatcher.lanes import Lanes
from tests.unit.dispatcher.samples import NOW, a_task, an_answer

HOST = "api.example.com"


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return NOW + self.ahead

    def monotonic(self) -> float:
        return 1000 + self.ahead.total_seconds()


class FakeControl:
    def __init__(self) -> None:
        self.rules: dict[tuple[str, str], TargetRule] = {}

    def target(self, project: str, host: str) -> TargetRule | None:
        return self.rules.get((project, host))

    def sets(self, **rule: Any) -> None:
        self.rules["shop", HOST] = TargetRule(project="shop", host=HOST, command_id=new_id(), **rule)


class FakeLimiter:
    def __init__(self) -> None:
        self.answer = 0.0
        self.error: Exception | None = None

    async def wait_s(self, _task: Task, _rule: TargetRule) -> float:
        if self.error:
            raise self.error
        return self.answer


class Bench:
    def __init__(self, per_host: int = 1) -> None:
        self.clock, self.control, self.limiter = Clock(), FakeControl(), FakeLimiter()
        self.lanes = Lanes(100, per_host, self.clock.monotonic, dice=lambda: 0.0)
        self.gate = Gate(cast("Any", self.control), self.lanes, cast("Any", self.limiter), cast("Any", self.clock))

    async def enter(self, **task: Any) -> Later | None:
        return await self.gate.enter(a_task(**task), HOST)

    async def called(
        self, status: int | None, times: int = 1, error: Any = None, host: str = HOST
    ) -> BreakerChange | None:
        """Calls that were let through, and what the last of them changed."""
        change = None
        for _ in range(times):
            assert await self.gate.enter(a_task(), host) is None
            change = self.gate.note(host, an_answer(status, error=error))
            self.gate.hang_up(host)
            self.gate.leave()
        return change


async def test_what_nobody_has_limited_is_called_now() -> None:
    assert await Bench().enter() is None


@pytest.mark.parametrize(
    ("waited_s", "again_s"), [(None, PAUSE_FIRST_S), (0, PAUSE_FIRST_S), (7, 7), (299, 299), (4000, PAUSE_MAX_S)]
)
async def test_a_paused_target_puts_off_for_as_long_again_up_to_five_minutes(
    waited_s: int | None, again_s: float
) -> None:
    bench = Bench()
    bench.control.sets(is_paused=True)
    since = None if waited_s is None else NOW - timedelta(seconds=waited_s)
    assert await bench.enter(put_off_since=since) == Later(again_s, "paused")


async def test_a_pause_is_of_one_project_alone() -> None:
    bench = Bench()
    bench.control.sets(is_paused=True)
    assert await bench.enter(project="another") is None


async def test_a_resumed_target_is_called() -> None:
    bench = Bench()
    bench.control.sets(is_paused=True)
    bench.control.sets()
    assert await bench.enter() is None


async def test_the_limiter_puts_off_and_the_turn_goes_to_the_next() -> None:
    bench = Bench(per_host=1)
    bench.control.sets(per_s=1.0)
    bench.limiter.answer = 12.5
    assert await bench.enter() == Later(12.5, "limit")
    bench.limiter.answer = 0.0
    assert await bench.enter() is None


async def test_a_limiter_that_crashes_gives_its_turn_back() -> None:
    bench = Bench(per_host=1)
    bench.control.sets(per_s=1.0)
    bench.limiter.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await bench.enter()
    bench.limiter.error = None
    assert await bench.enter() is None


async def test_a_busy_host_puts_off_until_its_turn_is_likely() -> None:
    bench = Bench(per_host=1)
    assert await bench.enter() is None
    bench.clock.ahead = timedelta(seconds=3)  # and it has not ended
    assert await bench.enter() == Later(3.0, "busy")


@pytest.mark.parametrize("error", ["timeout", "connect", "dns", "tls", "disconnected", "protocol"])
async def test_a_host_that_does_not_answer_is_put_off_and_others_are_not(error: Any) -> None:
    bench = Bench()
    assert await bench.called(None, CALLS_MIN - 1, error) is None
    reason = f"{CALLS_MIN} of the last {CALLS_MIN} calls got no answer (the last: {error})"
    assert await bench.called(None, 1, error) == BreakerChange(HOST, "open", OPEN_FIRST_S, reason)
    later = await bench.enter()
    assert later is not None
    assert later.reason == "breaker"
    assert later.wait_s == pytest.approx(OPEN_FIRST_S + 1 / BACK_PER_S)
    assert await bench.gate.enter(a_task(), "another.example.com") is None


@pytest.mark.parametrize(("status", "error"), [(500, None), (503, None), (404, None), (None, "blocked_address")])
async def test_any_answer_is_one_and_our_own_refusal_is_not_the_hosts(status: int | None, error: Any) -> None:
    bench = Bench()
    await bench.called(status, 3 * CALLS_MIN, error)
    assert await bench.enter() is None


async def test_a_host_that_is_back_is_told_of_and_called() -> None:
    bench = Bench()
    await bench.called(None, CALLS_MIN, "timeout")
    bench.clock.ahead = timedelta(seconds=OPEN_FIRST_S)
    assert await bench.called(200) == BreakerChange(HOST, "closed", 0)
    assert await bench.enter() is None


async def test_a_host_that_is_tried_in_vain_is_told_of_with_what_that_call_met() -> None:
    bench = Bench()
    await bench.called(None, CALLS_MIN, "timeout")
    bench.clock.ahead = timedelta(seconds=OPEN_FIRST_S)
    reason = "the call that tried it again got no answer (connect)"
    assert await bench.called(None, 1, "connect") == BreakerChange(HOST, "open", 2 * OPEN_FIRST_S, reason)


async def test_after_ten_minutes_of_breakers_the_call_is_made_all_the_same() -> None:
    bench = Bench()
    await bench.called(None, CALLS_MIN, "timeout")
    assert await bench.enter(put_off_since=NOW - timedelta(minutes=9, seconds=59)) is not None
    assert await bench.enter(put_off_since=NOW - timedelta(minutes=10)) is None


async def test_closed_breakers_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.dispatcher.gate.BREAKERS_MAX", 10)
    bench = Bench()
    await bench.called(None, CALLS_MIN, "timeout")
    for n in range(50):
        assert await bench.gate.enter(a_task(), f"host-{n}") is None
        bench.gate.note(f"host-{n}", an_answer(None, error="timeout"))
    assert len(bench.gate._breakers) <= 11
    assert await bench.enter() is not None


@pytest.mark.parametrize(("after_s", "kept"), [(FORGET_AFTER_S, 10), (FORGET_AFTER_S + 1, 0)])
async def test_breakers_of_hosts_that_nobody_calls_any_more_are_forgotten_when_there_are_many(
    monkeypatch: pytest.MonkeyPatch, after_s: float, kept: int
) -> None:
    monkeypatch.setattr("services.dispatcher.gate.BREAKERS_MAX", 10)
    bench = Bench()
    for n in range(10):
        await bench.called(None, CALLS_MIN, "timeout", f"host-{n}")
    assert open_breakers() == 10
    bench.clock.ahead = timedelta(seconds=OPEN_FIRST_S + after_s)
    await bench.called(None, 1, "timeout", "another")
    assert len(bench.gate._breakers) == kept + 1
    assert open_breakers() == kept


def open_breakers() -> float | None:
    return REGISTRY.get_sample_value("carillon_dispatcher_open_breakers")
