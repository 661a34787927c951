"""The load of a chaos run and its verdict: everything but the faults.

trial = Trial(stack, seed=seed, over_s=over_s, tasks=tasks, say=print)
async with trial.open():
    asking = asyncio.create_task(trial.ask())
    ...                                       # things break meanwhile
    report = await trial.finish(asking=asking, done=done, ...)
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import NamedTuple

import aiohttp
import msgspec
from redis.asyncio import Redis

from deploy.local.private import PrivateStack
from tests.chaos import aftermath
from tests.chaos.actor import Actor, Told, settled
from tests.chaos.callbacks import Callbacks, check_callbacks
from tests.chaos.cancels import forgotten_cancels
from tests.chaos.checker import Accepted, Call, by_task, check, is_kept, unfinished
from tests.chaos.client import Client, now_ms, session
from tests.chaos.duplicates import Emission, reckon
from tests.chaos.fault import Done, Fault
from tests.chaos.lateness import check_lateness
from tests.chaos.mix import Mix, mix
from tests.chaos.occurrences import check_occurrences
from tests.chaos.report import Report
from tests.chaos.schedules import Calendar
from tests.chaos.sink import Sink
from tests.chaos.tap import emissions, open_tap
from tests.chaos.unnamed import Named, named

RATE = 20.0
"""Tasks a second: two cores have room for the faults beside them."""
SCHEDULES = 10
RETRY_SCHEDULE_S = (1.0, 2.0, 5.0)
LEGACY_PAST_DELAY_S = 1.0
SETTINGS = {
    "CARILLON_RETRY_SCHEDULE_S": ",".join(f"{delay_s:g}" for delay_s in RETRY_SCHEDULE_S),
    "CARILLON_DIGEST_CRON": "*/5 * * * * *",
    "CARILLON_LEGACY_PROJECT": "default",
    "CARILLON_LEGACY_PAST_DELAY_S": f"{LEGACY_PAST_DELAY_S:g}",
}
QUIET_S = 90.0
"""So long without a call, and what is missing counts as lost. Longer than a claim, a ladder and a dead-letter stall."""
ANSWERED_WITHIN_S = 120.0
"""After the last request was due to be sent."""
TELL_EVERY_S = 10.0
LOOK_AGAIN_S = 0.2


@dataclass
class _Open:
    """What there is while the trial is open."""

    http: aiohttp.ClientSession
    client: Client
    actor: Actor
    calendar: Calendar
    redis: Redis


class _Found(NamedTuple):
    """When all had come to rest."""

    calls: list[Call]
    emitted: list[Emission]
    known: Named
    accepted: list[Accepted]
    states: dict[str, str]
    cut_off: frozenset[str]
    left: list[str]


@dataclass
class Trial:
    """`stack.variables` are the servers themselves, whatever stands between them and the services."""

    stack: PrivateStack
    seed: int
    over_s: float
    tasks: int
    say: Callable[[str], None]
    schedules: int = SCHEDULES
    sink: Sink = field(default_factory=Sink)
    _began: float = field(default_factory=time.monotonic)
    _now: _Open | None = None

    @property
    def secrets(self) -> tuple[str, str]:
        """What no log may show: of a header, and of a body."""
        words = [sha256(f"{self.seed} {kind}".encode()).hexdigest()[:24] for kind in ("header", "body")]
        return f"planted-{words[0]}", f"planted-{words[1]}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The sink listens, the tap is open; the time of the run begins."""
        await open_tap(self.stack.variables["CARILLON_AMQP_URL"])
        async with (
            self.sink.listening() as sink_url,
            session(self.stack.api_key) as http,
            Redis.from_url(self.stack.variables["CARILLON_REDIS_URL"], socket_timeout=2.0) as redis,
        ):
            client = Client(http, self.stack.api_urls(), run=f"chaos-{self.seed}")
            actor = Actor(client, self.sink, sink_url, redis, self.secrets)
            self._now = _Open(http, client, actor, Calendar(client, sink_url), redis)
            yield

    async def ask(self) -> int:
        """Plays everything; how much of it was not at its end in time."""
        now, wanted = self._opened(), self._mix()
        playing = [now.actor.play(story) for story in wanted.stories]
        playing += [now.actor.play_batch(batch) for batch in wanted.batches]
        playing += [now.calendar.play(plot) for plot in wanted.plots]
        playing += [now.client.notify(at_s, number) for number, at_s in enumerate(wanted.notices_s)]
        return await settled(playing, self.over_s + ANSWERED_WITHIN_S)

    async def finish(
        self,
        *,
        asking: "asyncio.Task[int]",
        done: Sequence[Done] = (),
        planned: Sequence[Fault] = (),
        healed_ms: int | None = None,
        not_healed: Sequence[str] = (),
        unplanned_exits: Sequence[str] = (),
    ) -> Report:
        """Waits until all is answered and called, then reads what the stack says, and compares."""
        now, wanted = self._opened(), self._mix()
        unanswered = await asking
        healed = now_ms() if healed_ms is None else healed_ms
        await settled([now.calendar.end(plot) for plot in wanted.plots], ANSWERED_WITHIN_S)
        until_ms = now_ms()
        found = await self._at_rest(done)
        ledger, calls, accepted = now.actor.ledger, found.calls, found.accepted
        by_id = by_task(calls)
        failed = sum(state == "failed" for state in found.states.values()) + len(ledger.redriven)
        return Report(
            seed=self.seed,
            over_s=self.over_s,
            wanted=wanted.tasks,
            plots=len(wanted.plots),
            unanswered=unanswered,
            verdict=check(accepted, _asked_for(calls, accepted)),
            known=found.known,
            occurrences=check_occurrences(now.calendar.timetable.changes.values(), self._by_time(calls), until_ms),
            callbacks=self._callbacks(found.states, calls),
            lateness=check_lateness(accepted, by_id, done, healed),
            forgotten_cancels=forgotten_cancels(accepted, by_id, done),
            reckoning=reckon(found.emitted, calls, done),
            states=found.states,
            cut_off=found.cut_off,
            accepted=accepted,
            answers=dict(now.client.answers),
            deeds=dict(Counter(map(str, ledger.told))),
            wrong=(*ledger.wrong, *now.calendar.timetable.wrong),
            failed=failed,
            mails=await aftermath.mails(self.stack.layout.mail, now.client.notices, failed),
            notices=len(wanted.notices_s),
            parked=tuple(await aftermath.parked(self.stack.variables["CARILLON_POSTGRES_URL"])),
            left=tuple(found.left),
            leaks=tuple(aftermath.told_in_logs(self.stack.layout.logs, self._hidden())),
            done=tuple(done),
            planned=tuple(planned),
            not_healed=tuple(not_healed),
            unplanned_exits=tuple(unplanned_exits),
            wall_s=time.monotonic() - self._began,
        )

    async def _at_rest(self, done: Sequence[Done]) -> _Found:
        """Waits for what is still to come: calls, histories, callbacks, empty queues; then reads all of it."""
        now, urls = self._opened(), self.stack.variables
        ledger = now.actor.ledger
        await self._calls_made(time.monotonic())
        accepted = self._accepted(named(ledger.unnamed, self.sink.made(), done))
        await self._callbacks_made(await aftermath.histories(now.http, now.client.api_urls, accepted))
        left = await aftermath.waiting(
            urls["CARILLON_AMQP_URL"], urls["CARILLON_POSTGRES_URL"], urls["CARILLON_REDIS_URL"], RETRY_SCHEDULE_S
        )
        calls, emitted = self.sink.made(), await emissions(urls["CARILLON_AMQP_URL"])
        known = named(ledger.unnamed, calls, done)
        accepted = self._accepted(known)
        states = await aftermath.histories(now.http, now.client.api_urls, [*accepted, *_silent(calls)])
        failures = [id_ for id_, state in unfinished(accepted, states).items() if state == "failed"]
        cut_off = await aftermath.cut_off(now.http, now.client.api_urls[0], failures)
        accepted = [replace(task, may_end=("failed",)) if task.id in cut_off else task for task in accepted]
        self._write("calls.jsonl", calls)
        self._write("emissions.jsonl", emitted)
        self._write("faults.jsonl", done)
        self._write("deeds.jsonl", ledger.told)
        self._write("accepted.jsonl", accepted)
        return _Found(calls, emitted, known, accepted, states, cut_off, left)

    def _mix(self) -> Mix:
        return mix(self.tasks, self.schedules, self.over_s, random.Random(self.seed))

    def _opened(self) -> _Open:
        assert self._now is not None, "the trial is not open"
        return self._now

    def _accepted(self, known: Named) -> list[Accepted]:
        now = self._opened()
        return [*now.actor.ledger.accepted.values(), *now.calendar.timetable.runs, *known.accepted]

    def _by_time(self, calls: Sequence[Call]) -> list[Call]:
        """Without those of a schedule that was told to run beside its times."""
        runs = {task.id for task in self._opened().calendar.timetable.runs}
        return [call for call in calls if call.id not in runs]

    def _hidden(self) -> Collection[str]:
        return {*self.secrets, self.stack.api_key}

    def _write(self, name: str, values: Sequence[Accepted | Call | Done | Emission | Told]) -> None:
        (self.stack.layout.root / name).write_bytes(msgspec.json.Encoder().encode_lines(values))

    async def _calls_made(self, settled_at: float) -> None:
        """Until every promise is kept, or nothing new has come for `QUIET_S`. `settled_at`: when all was answered."""
        told_at = time.monotonic()
        while missing := self._missing():
            if time.monotonic() - max(self.sink.last_call_at, settled_at) > QUIET_S:
                return
            if time.monotonic() - told_at > TELL_EVERY_S:
                self.say(f"waiting for {missing} tasks to be called")
                told_at = time.monotonic()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _callbacks_made(self, ends: Mapping[str, str]) -> None:
        """Until every end is told, or nothing new has come for `QUIET_S`: each is a task of its own."""
        settled_at = time.monotonic()
        while self._callbacks(ends, self.sink.made()).missing:
            if time.monotonic() - max(self.sink.last_call_at, settled_at) > QUIET_S:
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    def _callbacks(self, ends: Mapping[str, str], calls: Sequence[Call]) -> Callbacks:
        ledger = self._opened().actor.ledger
        return check_callbacks(ledger.with_callbacks, ledger.redriven, ends, calls)

    def _missing(self) -> int:
        calls = self.sink.calls
        known = named(self._opened().actor.ledger.unnamed, self.sink.made(), ())
        missing = sum(not is_kept(task, calls.get(task.id, ())) for task in self._accepted(known))
        return missing + len(known.lost)


def _asked_for(calls: Sequence[Call], accepted: Sequence[Accepted]) -> list[Call]:
    """Without those that the stack makes by itself: occurrences and callbacks."""
    ids = {task.id for task in accepted}
    return [call for call in calls if call.behaviour not in ("occurrence", "callback") or call.id in ids]


def _silent(calls: Sequence[Call]) -> list[Accepted]:
    """Those of the stack's own making, whose histories shall end too."""
    ids = {call.id for call in calls if call.behaviour in ("occurrence", "callback")}
    return [Accepted(id_, 0) for id_ in ids]
