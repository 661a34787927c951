"""What the run found: for a person, for a program, and as an exit status."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tests.chaos.aftermath import Mails
from tests.chaos.checker import Verdict
from tests.chaos.duplicates import Reckoning
from tests.chaos.killer import Kill

IDS_SHOWN = 10


@dataclass(frozen=True)
class Report:
    seed: int
    wanted: int
    """Tasks that the client was to schedule."""
    kills_wanted: Mapping[str, int]
    """By victim."""
    verdict: Verdict
    reckoning: Reckoning
    states: Mapping[str, str]
    unfinished: Mapping[str, str]
    answers: Mapping[str, int]
    """What the client got in place of a success, and repeated."""
    kills: tuple[Kill, ...]
    kills_by_victim: Mapping[str, int]
    not_back: tuple[str, ...]
    failed: int
    mails: Mails
    notices: int
    parked: tuple[str, ...]
    wall_s: float

    @property
    def faults(self) -> list[str]:
        """Why the run counts as failed; empty when it does not."""
        verdict, unexplained = self.verdict, self.reckoning.unexplained
        under = [name for name, times in self.kills_wanted.items() if self.kills_by_victim[name] < times]
        found = {
            f"{len(verdict.lost)} tasks were lost": bool(verdict.lost),
            f"{len(verdict.early)} calls came early": bool(verdict.early),
            f"{self.wanted - verdict.accepted} tasks were never accepted": verdict.accepted < self.wanted,
            f"{len(verdict.strangers)} ids were called that no 201 named": bool(verdict.strangers),
            f"{len(self.unfinished)} histories do not end as they should": bool(self.unfinished),
            f"{len(self.mails.notices_missing)} notices stand in no mail": bool(self.mails.notices_missing),
            f"{self.failed} tasks failed, the mails tell of {self.mails.failed_told}": (
                self.mails.failed_told < self.failed
            ),
            f"{len(unexplained)} duplicates are explained by no death": bool(unexplained),
            f"not killed as often as planned: {', '.join(under)}": bool(under),
        }
        return [text for text, is_so in found.items() if is_so] + list(self.not_back)

    def as_json(self) -> dict[str, Any]:
        """All of it but the states of healthy tasks."""
        return {**asdict(self), "states": None, "faults": self.faults}


def text(report: Report) -> str:
    verdict, mails = report.verdict, report.mails
    late = verdict.lateness_ms
    downtimes_s = [kill.back_after_s for kill in report.kills]
    kills = ", ".join(f"{name} {count}" for name, count in report.kills_by_victim.items())
    answers = ", ".join(f"{name} {count}" for name, count in sorted(report.answers.items())) or "none"
    rows = [
        ("accepted", f"{verdict.accepted} of {report.wanted}"),
        ("ids called", f"{verdict.called}, in {verdict.calls} calls"),
        ("lost", str(len(verdict.lost))),
        ("early", str(len(verdict.early))),
        ("duplicates", f"{verdict.repeated_successes} successes, {verdict.repeated_attempts} calls of one attempt"),
        ("emissions", f"{report.reckoning.emissions}, {_twice(report.reckoning, 'emission')} of them again"),
        ("calls", f"{_twice(report.reckoning, 'call')} again"),
        ("lateness", f"p50 {late.p50:.0f} ms, p99 {late.p99:.0f} ms, max {late.max:.0f} ms" if late else "-"),
        ("histories", f"{len(report.states) - len(report.unfinished)} of {verdict.accepted} as they should be"),
        ("kills", f"{len(report.kills)}: {kills}"),
        ("back after", f"{max(downtimes_s):.1f} s at the longest" if downtimes_s else "-"),
        ("answers", f"{answers} (in place of a success, repeated)"),
        ("mails", f"{mails.distinct} in {mails.files} files; {mails.failed_told} failed tasks told of {report.failed}"),
        ("notices", f"{report.notices - len(mails.notices_missing)} of {report.notices} in a mail"),
        ("parked", f"{len(report.parked)} messages"),
        ("wall time", f"{report.wall_s:.0f} s, seed {report.seed}"),
    ]
    return "\n".join([f"  {name:<11} {value}" for name, value in rows] + _details(report))


def _twice(reckoning: Reckoning, what: str) -> str:
    """How many came again, and whose death explains how many."""
    why = ", ".join(f"{victim} {count}" for victim, count in sorted(reckoning.explained[what].items()))
    return f"{reckoning.duplicates.get(what, 0)} ({why})" if why else f"{reckoning.duplicates.get(what, 0)}"


def _details(report: Report) -> list[str]:
    lost = [f"lost: {id_} is {report.states.get(id_, 'unknown')}" for id_ in report.verdict.lost]
    early = [f"early: {call}" for call in report.verdict.early]
    wrong = [f"history: {id_} is {state}" for id_, state in report.unfinished.items()]
    twice = [f"unexplained: {duplicate}" for duplicate in report.reckoning.unexplained]
    lists = (lost, early, wrong, twice, list(report.parked), list(report.mails.notices_missing))
    return [line for lines in lists for line in lines[:IDS_SHOWN]] + [f"FAULT: {fault}" for fault in report.faults]
