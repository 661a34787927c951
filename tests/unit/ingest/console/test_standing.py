"""How a host stands, in words and in order; its hours as bars."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from libs.common.contracts import TargetRule
from services.ingest.calls import Calls
from services.ingest.console.hour_bars import GAP, HEIGHT, HOURS, WIDTH, hour_bars
from services.ingest.console.standing import Standing, p95_ms, ratio_text, worst_first
from services.ingest.store_control import HeldRule
from services.ingest.store_targets import OpenBreaker

NOW = datetime(2027, 3, 1, 9, 30, tzinfo=UTC)
THIS_HOUR = datetime(2027, 3, 1, 9, tzinfo=UTC)


def calls(succeeded: int = 0, failed: int = 0, retried: int = 0, at: datetime = THIS_HOUR) -> Calls:
    return Calls(at, succeeded, failed, retried, [], [succeeded + failed + retried])


def rule(host: str = "h", *, is_paused: bool = False, per_s: float | None = None) -> HeldRule:
    made = TargetRule(project="p", host=host, command_id=UUID(int=0), is_paused=is_paused, per_s=per_s, burst=1)
    return HeldRule(made, NOW, "user:ann")


def breaker(host: str = "h", *, until_s: float = 10, since_s: float = 0, reason: str | None = "why") -> OpenBreaker:
    since, until = NOW + timedelta(seconds=since_s), NOW + timedelta(seconds=until_s)
    return OpenBreaker(host, "d", since, until, reason)


def standing(
    host: str = "h", hour: Calls | None = None, held: HeldRule | None = None, *breakers: OpenBreaker
) -> Standing:
    return Standing(host=host, hour=hour, day=hour, rule=held, breakers=breakers, now=NOW)


@pytest.mark.parametrize(
    ("counted", "text"),
    [
        (None, ""),
        (calls(), ""),
        (calls(succeeded=3), "100 %"),
        (calls(failed=3), "0 %"),
        (calls(succeeded=99_999, retried=1), "99.9 %"),
        (calls(succeeded=1, failed=99_999), "0.1 %"),
        (calls(succeeded=1, failed=1, retried=1), "33.3 %"),
    ],
)
def test_a_ratio_is_never_rounded_to_all_or_nothing(counted: Calls | None, text: str) -> None:
    assert ratio_text(counted) == text


def test_p95_is_of_all_calls() -> None:
    assert p95_ms(None) is None
    assert p95_ms(Calls(NOW, 20, 0, 0, [], [19, 1])) == 0
    assert p95_ms(Calls(NOW, 20, 0, 0, [], [18, 2])) == 1


def test_what_keeps_calls_back_is_named_worst_first() -> None:
    everything = standing("h", None, rule(is_paused=True, per_s=1.0), breaker())
    assert everything.states == ["open", "paused", "limited"]
    assert standing("h", None, None, breaker(until_s=0)).states == ["trying"]
    assert standing("h", None, rule()).states == []


def test_of_several_dispatchers_the_first_that_tries_counts_and_the_latest_reason() -> None:
    several = standing(
        "h", None, None, breaker(until_s=30, since_s=-2, reason="old"), breaker(until_s=20, since_s=-1, reason="new"),
        breaker(until_s=40, reason=None),
    )  # fmt: skip
    assert several.tries_at == NOW + timedelta(seconds=20)
    assert several.reason == "new"


def test_open_breakers_stand_before_pauses_and_these_before_what_fails_most() -> None:
    wanted = [
        standing("z-open", calls(succeeded=9), None, breaker("z-open")),
        standing("y-paused", None, rule("y-paused", is_paused=True)),
        standing("bad", calls(succeeded=1, failed=9)),
        standing("half-busy", calls(succeeded=50, retried=50)),
        standing("half", calls(succeeded=5, retried=5)),
        standing("a-fine", calls(succeeded=9)),
        standing("b-silent"),
    ]
    assert [each.host for each in worst_first(reversed(wanted))] == [each.host for each in wanted]


def test_every_hour_of_the_day_has_a_bar_and_the_busiest_is_as_high_as_the_picture() -> None:
    busiest, other = calls(6, 1, 3), calls(5, at=THIS_HOUR - timedelta(hours=24))
    bars = hour_bars([other, busiest], NOW)
    assert len(bars) == HOURS
    assert (bars[0].calls, bars[-1].calls) == (other, busiest)
    assert bars[-1].succeeded + bars[-1].retried + bars[-1].failed == HEIGHT
    assert (bars[-1].succeeded, bars[-1].retried, bars[-1].failed) == (48, 24, 8)
    assert bars[0].succeeded == HEIGHT / 2
    assert [bar.x for bar in bars[:2]] == [0, WIDTH + GAP]
    assert all(bar.calls is None and bar.succeeded == 0 for bar in bars[1:-1])


def test_a_day_without_calls_is_bars_of_nothing() -> None:
    assert {bar.calls for bar in hour_bars([], NOW)} == {None}
