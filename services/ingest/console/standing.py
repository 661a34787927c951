"""How the calls to one host stand: what was counted, what keeps them back and why. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from services.ingest.calls import Calls, percentile_ms
from services.ingest.store_control import HeldRule
from services.ingest.store_targets import OpenBreaker

P95 = 0.95
State = Literal["open", "trying", "paused", "limited"]
WORDS: Mapping[State, str] = {
    "open": "breaker open",
    "trying": "breaker tries",
    "paused": "paused",
    "limited": "limited",
}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """`hour` is the hour that has begun and the one before, `day` the last 24 and the one that has begun."""

    host: str
    hour: Calls | None
    day: Calls | None
    rule: HeldRule | None = None
    breakers: Sequence[OpenBreaker] = ()
    now: datetime

    @property
    def states(self) -> list[State]:
        """What keeps calls back, the worst first; none when they go through."""
        found: list[State] = []
        if self.breakers:
            found.append("trying" if self.tries_at <= self.now else "open")
        if self.rule is not None and self.rule.rule.is_paused:
            found.append("paused")
        if self.rule is not None and self.rule.rule.per_s is not None:
            found.append("limited")
        return found

    @property
    def tries_at(self) -> datetime:
        """When the first of its open breakers lets a call through."""
        return min(breaker.until for breaker in self.breakers)

    @property
    def reason(self) -> str | None:
        """Of the breaker that opened last, and said why."""
        said = [breaker for breaker in self.breakers if breaker.reason]
        return max(said, key=lambda breaker: breaker.since).reason if said else None


def ratio_text(calls: Calls | None) -> str:
    """Per cent that succeeded; never 100 % when one did not, nor 0 % when one did."""
    if calls is None or calls.success_ratio is None:
        return ""
    per_cent = 100 * calls.success_ratio
    if calls.succeeded < calls.made:
        per_cent = min(per_cent, 99.9)
    if calls.succeeded:
        per_cent = max(per_cent, 0.1)
    return f"{per_cent:.1f}".removesuffix(".0") + " %"


def p95_ms(calls: Calls | None) -> float | None:
    return None if calls is None else percentile_ms(calls.duration, P95)


def worst_first(standings: Iterable[Standing]) -> list[Standing]:
    """Open breakers, then what is paused, then by the share of calls that failed."""
    return sorted(standings, key=_order)


def _order(standing: Standing) -> tuple[object, ...]:
    calls = standing.hour or standing.day
    ratio = 1.0 if calls is None or calls.success_ratio is None else calls.success_ratio
    is_paused = "paused" in standing.states
    return (not standing.breakers, not is_paused, ratio, -(calls.made if calls else 0), standing.host)
