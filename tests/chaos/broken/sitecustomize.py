"""Switches one rule of the design off, in a service that starts with this folder on its PYTHONPATH.

The variable CHAOS_BROKEN names the rule, by the words of `tests/simulation`. Python imports this module by its name
before the service's own. What is patched stays as wrong as a careless author might have written it, and no more: where
the wrong order of two steps matters for a moment only, the moment is made longer, which any busy machine may do.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

MOMENT_S = 0.25
SLOW_COMMIT_S = 1.0
"""Of a fire: long enough for the call to be made and to come back as a return."""
_later: set[asyncio.Task[None]] = set()


def accept_does_not_wait() -> None:
    """A return that arrives before its fire has committed meets the row that is about to be buried."""
    from services.scheduler import store

    head, _, _ = store._INSERT.partition("DO UPDATE")
    store._INSERT = f"{head} DO NOTHING RETURNING id"
    bury = store.Store._fire

    async def fire(self: Any, connection: Any, records: Any, emit: Any) -> int:
        async def emit_slowly(rows: Any) -> Any:
            emitted = await emit(rows)
            await asyncio.sleep(SLOW_COMMIT_S)
            return emitted

        return await bury(self, connection, records, emit_slowly)

    store.Store._fire = fire  # type: ignore[method-assign]


def commit_before_the_confirm() -> None:
    """Delete, commit, then publish: what is refused or dies in between was the only copy."""
    from services.scheduler import store

    async def fire(self: Any, connection: Any, records: Any, emit: Any) -> int:
        rows = [store.DueRow(*record) for record in records]
        await connection.execute(store._BURY, [row.id for row in rows if not row.is_expired], "fired")
        await connection.execute(store._BURY, [row.id for row in rows if row.is_expired], "expired")
        if rows:
            do_later(lambda: emit(rows))
        return len(rows)

    store.Store._fire = fire  # type: ignore[method-assign]


def believe_the_wheel() -> None:
    """What a wheel holds is fired at the time that it holds, whatever the row says by now."""
    from services.scheduler import store

    store._LOCK_THESE = store._LOCK.format(due=store._DUE.format(condition="id = ANY($1::uuid[])"))


def call_without_asking() -> None:
    """Each delivery is called, whoever has made the call before."""
    from services.dispatcher import marks

    async def claim(*_: Any) -> marks.Claim:
        return marks.Claimed()

    patched: Any = marks.Marks  # its arguments are its own affair
    patched.claim = claim


def ack_first() -> None:
    """The message is settled before its work has begun: a death takes both."""
    from libs.common import consumer

    async def handled(self: Any, items: Sequence[Any]) -> list[Any]:
        for item in items:
            await self.intake.done(item)
        do_later(lambda: self._handle([item.message for item in items]))
        return []

    async def one(self: Any, delivery: Any, raw: bytes) -> None:
        item = await self.intake.decoded(delivery, raw)
        if item is not None:
            await self.intake.done(item)
            await self._handle(item.message)

    consumer.BatchConsumer._handled = handled  # type: ignore[method-assign]
    consumer.ItemConsumer._one = one  # type: ignore[method-assign]


def do_later(work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    async def wait_and_do() -> None:
        await asyncio.sleep(MOMENT_S)
        await work()

    task = asyncio.get_running_loop().create_task(wait_and_do())
    _later.add(task)
    task.add_done_callback(_later.discard)


BREAK: dict[str, Callable[[], None]] = {
    "accept waits for a fire": accept_does_not_wait,
    "fire commits after the confirm": commit_before_the_confirm,
    "the row decides what is due": believe_the_wheel,
    "a claim for every call": call_without_asking,
    "ack after all of it": ack_first,
}

if rule := os.environ.get("CHAOS_BROKEN"):
    sys.path.insert(0, os.getcwd())  # `-m` does so, but later
    BREAK[rule]()
    print(f'{{"event":"chaos.broken","rule":"{rule}"}}', flush=True)
