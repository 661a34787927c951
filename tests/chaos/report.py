"""What the run found: for a person, for a program, and as an exit status."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.chaos.aftermath import Mails
from tests.chaos.callbacks import Callbacks
from tests.chaos.checker import Accepted, Call, Lateness, Verdict, unfinished
from tests.chaos.duplicates import Reckoning
from tests.chaos.fault import Done, Fault
from tests.chaos.lateness import Late
from tests.chaos.occurrences import Occurrences
from tests.chaos.unnamed import Named

SHOWN = 10
DUPLICATES_MAX = 0.01
"""Of all calls."""
CUT_OFF_MAX = 0.01
"""Of all tasks."""
# Of what was due when nothing was broken, nor had been for some seconds.
QUIET_LATE_MS_MAX = 5_000


@dataclass(frozen=True)
class Report:
    seed: int
    over_s: float
    wanted: int
    """Tasks that were to be asked for."""
    plots: int
    unanswered: int
    """Stories that were not at their end in time."""
    verdict: Verdict
    known: Named
    occurrences: Occurrences
    callbacks: Callbacks
    lateness: Late
    forgotten_cancels: frozenset[str]
    """Of which Redis was to remember a cancel, and could not."""
    reckoning: Reckoning
    states: Mapping[str, str]
    cut_off: frozenset[str]
    """Failed, because the last call had no answer: visible, in a mail, and not for the sink to foresee."""
    accepted: Sequence[Accepted]
    answers: Mapping[str, int]
    """What the client got in place of a success, and repeated."""
    deeds: Mapping[str, int]
    """What was done to tasks, and how it was answered."""
    wrong: tuple[str, ...]
    """Answers that no right one could be."""
    failed: int
    """Ends as failed, of which a mail must tell."""
    mails: Mails
    notices: int
    parked: tuple[str, ...]
    left: tuple[str, ...]
    """What had not come to rest."""
    leaks: tuple[str, ...]
    """Where a log shows a secret."""
    done: tuple[Done, ...]
    planned: tuple[Fault, ...]
    not_healed: tuple[str, ...]
    unplanned_exits: tuple[str, ...]
    wall_s: float

    @property
    def unfinished(self) -> dict[str, str]:
        """Histories that do not end as they should; callbacks and occurrences shall succeed."""
        ours = unfinished(self.accepted, self.states)
        known = {task.id for task in self.accepted}
        ours |= {id_: state for id_, state in self.states.items() if id_ not in known and state != "succeeded"}
        return {id_: state for id_, state in ours.items() if id_ not in self.forgotten_cancels}

    @property
    def duplicate_share(self) -> float:
        """Of all calls. Where Redis could not be asked they are what docs/guarantees.md says, and not counted."""
        return self.reckoning.beside_redis / max(1, self.verdict.calls)

    @property
    def broken(self) -> list[tuple[str, str]]:
        """Each promise that was not kept: a word for programs, a sentence for people."""
        verdict, known, times, told = self.verdict, self.known, self.occurrences, self.callbacks
        quiet = self.lateness.quiet
        named = {task.number for task in self.accepted} | {*known.lost, *known.forgotten}
        missing = max(0, self.wanted - len(named - {-1}))
        twice = Counter(duplicate.what for duplicate in self.reckoning.unexplained)
        found = [
            ("lost", len(verdict.lost) + len(known.lost), "tasks were lost"),
            ("early", len(verdict.early), "calls came early"),
            ("unanswered", self.unanswered, "requests were never answered"),
            ("unaccepted", missing, "tasks were never accepted"),
            ("stranger", len(verdict.strangers), "ids were called that no 201 named"),
            ("cancel", len(self.after_cancel), "calls came after a cancel had been confirmed"),
            ("moved", len(verdict.at_another_time), "calls were for a time that the task did not have"),
            ("backwards", len(verdict.backwards), "calls were of an attempt before the one that was made"),
            ("history", len(self.unfinished), "histories do not end as they should"),
            ("occurrence-missing", len(times.missing), "times of schedules never came"),
            ("occurrence-unwanted", len(times.unwanted), "times came that no schedule had"),
            ("occurrence-doubled", len(times.doubled), "times came as two tasks"),
            ("callback-missing", len(told.missing), "ends were told by no callback"),
            ("callback-wrong", len(told.contradicting), "callbacks told an end that there was not"),
            ("callback-doubled", len(told.doubled), "ends were told by two callbacks"),
            ("doubled", len(known.doubled), "pushes or forms became more tasks than there were requests"),
            ("notice", len(self.mails.notices_missing), "notices stand in no mail"),
            ("mail", max(0, self.failed - self.mails.failed_told), f"of {self.failed} failures stand in no mail"),
            ("parked", len(self.parked), "messages were parked"),
            ("duplicates", twice["call"], "repeated calls are explained by no fault"),
            ("emissions", twice["emission"], "repeated emissions are explained by no fault"),
            ("left", len(self.left), "things had not come to rest"),
            ("secret", len(self.leaks), "lines of logs show a secret"),
            ("answer", len(self.wrong), "answers were wrong"),
            ("bug", self.answers.get("HTTP 500", 0), "answers were 500"),
            ("exit", len(self.unplanned_exits), "processes ended by themselves"),
            ("unhealed", len(self.not_healed), "faults did not end"),
            ("late", int(bool(quiet and quiet.max > QUIET_LATE_MS_MAX)), "call while nothing was broken was too late"),
        ]
        broken = [(name, f"{count} {what}") for name, count, what in found if count]
        if self.duplicate_share > DUPLICATES_MAX:
            broken.append(("many-duplicates", f"{self.duplicate_share:.1%} of the calls were repeated"))
        if len(self.cut_off) > CUT_OFF_MAX * len(self.accepted):
            broken.append(("cut-off", f"{len(self.cut_off)} tasks failed whose target was well"))
        return broken

    @property
    def after_cancel(self) -> tuple[Call, ...]:
        """Where nothing excuses it."""
        return tuple(call for call in self.verdict.after_cancel if call.id not in self.forgotten_cancels)

    @property
    def faults(self) -> list[str]:
        """Why the run counts as failed; empty when it does not."""
        return [text for _, text in self.broken]

    @property
    def kinds(self) -> set[str]:
        """The same in words for programs."""
        return {kind for kind, _ in self.broken}

    def as_json(self) -> dict[str, Any]:
        """All of it but healthy tasks."""
        hidden: dict[str, Any] = {"states": dict(Counter(self.states.values())), "accepted": len(self.accepted)}
        return {**asdict(self), **hidden, "unfinished": self.unfinished, "broken": self.broken, "faults": self.faults}

    def text(self) -> str:
        rows = [*self._rows()]
        return "\n".join([f"  {name:<12} {value}" for name, value in rows] + self._details())

    def _rows(self) -> Iterator[tuple[str, str]]:
        verdict, known, times, told = self.verdict, self.known, self.occurrences, self.callbacks
        mails = self.mails
        yield "accepted", f"{verdict.accepted} tasks of {self.wanted} requests and {self.plots} schedules"
        yield "called", f"{verdict.called} ids in {verdict.calls} calls"
        yield "lost", f"{len(verdict.lost) + len(known.lost)}" + _more(known.forgotten, "entries forgotten by Redis")
        share = f"{self.duplicate_share:.2%} of calls while Redis served"
        yield "twice", f"{self._twice('call')}; {share}"
        yield "emitted", f"{self.reckoning.emissions}, twice {self._twice('emission')}"
        yield "lateness", f"{_spread(verdict.lateness_ms)}"
        yield "  in quiet", f"{_spread(self.lateness.quiet)}, of {self.lateness.quiet_tasks} tasks"
        yield "  healed", f"the latest call came {self.lateness.after_healing_ms} ms after that"
        yield "histories", f"{len(self.states) - len(self.unfinished)} of {len(self.states)} as they should be"
        cut_off = _more(self.cut_off, "failed because their last call had no answer")
        yield "ends", _counts(Counter(self.states.values())) + cut_off
        yield "deeds", _counts(self.deeds) + _more(self.forgotten_cancels, "cancels that Redis could not keep")
        yield "occurrences", f"{times.wanted} had to come, {times.came} came, {len(times.missing)} missing"
        yield "callbacks", f"{told.wanted - len(told.missing)} of {told.wanted}"
        yield "faults", _counts(Counter(done.fault.kind for done in self.done)) + f" of {len(self.planned)} planned"
        yield "answers", f"{_counts(self.answers)} (in place of a success, repeated)"
        yield "mails", f"{mails.distinct} in {mails.files} files; {mails.failed_told} failures told of {self.failed}"
        yield "notices", f"{self.notices - len(mails.notices_missing)} of {self.notices} in a mail"
        yield "parked", f"{len(self.parked)} messages"
        yield "wall time", f"{self.wall_s:.0f} s, seed {self.seed}"

    def _twice(self, what: str) -> str:
        """How many came again, and which fault explains how many."""
        why = Counter(self.reckoning.explained[what]).most_common(4)
        count = self.reckoning.duplicates.get(what, 0)
        return f"{count} ({', '.join(f'{name} {number}' for name, number in why)})" if why else f"{count}"

    def _details(self) -> list[str]:
        verdict = self.verdict
        lists: dict[str, Sequence[Any]] = {
            "lost": [f"{id_} is {self.states.get(id_, 'unknown')}" for id_ in verdict.lost],
            "lost number": self.known.lost,
            "early": verdict.early,
            "after cancel": self.after_cancel,
            "another time": verdict.at_another_time,
            "backwards": verdict.backwards,
            "stranger": verdict.strangers,
            "history": [f"{id_} is {state}" for id_, state in self.unfinished.items()],
            "missing": self.occurrences.missing,
            "unwanted": self.occurrences.unwanted,
            "doubled": (*self.occurrences.doubled, *self.known.doubled, *self.callbacks.doubled),
            "callback": (*self.callbacks.missing, *self.callbacks.contradicting),
            "unexplained": self.reckoning.unexplained,
            "parked": self.parked,
            "notice": self.mails.notices_missing,
            "left": self.left,
            "secret": self.leaks,
            "answer": self.wrong,
            "exit": self.unplanned_exits,
            "unhealed": self.not_healed,
        }
        shown = [f"  {name}: {each}" for name, some in lists.items() for each in some[:SHOWN]]
        return shown + [f"FAULT: {fault}" for fault in self.faults]


def _spread(late: Lateness | None) -> str:
    return f"p50 {late.p50:.0f} ms, p99 {late.p99:.0f} ms, max {late.max:.0f} ms" if late else "-"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _more(some: Collection[Any], what: str) -> str:
    return f" ({len(some)} {what})" if some else ""
