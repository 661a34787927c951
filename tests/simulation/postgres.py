"""The scheduler's tables in memory: row locks that wait or skip, transactions that end with their process.

The same answers as `Store` and `CommandStore` give on PostgreSQL; test_contract.py holds them to it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from libs.common.contracts import CancelTask
from libs.common.postgres import PostgresAway
from services.scheduler.store import OVERDUE, Accepted, DueRow, Emit, Emitted, First, Row, shard_of
from services.scheduler.store_commands import Cancelled
from tests.simulation.world import Life, Luck, Time

MAX = 2**31 - 1
IDLE_IN_TRANSACTION_S = 5.0
Order = tuple[int, int, int]


@dataclass
class Waiting:
    row: Row
    command_id: UUID | None = None

    @property
    def order(self) -> Order:
        return (self.row.generation, self.row.attempt, self.row.hop)


@dataclass(frozen=True)
class Tombstone:
    order: Order
    cause: str
    fingerprint: str
    command_id: UUID | None = None


@dataclass
class Transaction:
    """Locks it holds, and what is to be done at its commit."""

    life: Life
    is_over: bool = False
    locks: set[UUID] = field(default_factory=set)


class Tables:
    """One database."""

    def __init__(self, luck: Luck) -> None:
        self.luck = luck
        self.time = Time()
        self.rows: dict[UUID, Waiting] = {}
        self.done: dict[UUID, list[Tombstone]] = {}
        self.is_up = True
        self._locked: dict[UUID, Transaction] = {}
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def transaction(self, life: Life) -> AsyncIterator[Transaction]:
        """Raises: PostgresAway, before anything happened, in the middle (nothing happened) or after all of it did."""
        await self.luck.delay()
        life.check()
        if not self.is_up or self.luck.strikes(0.01):
            raise PostgresAway("it does not answer")
        transaction = Transaction(life)
        try:
            yield transaction
            self.check(transaction)
        finally:
            self._release(transaction)
        await self.luck.delay()
        if self.luck.strikes(0.01):
            raise PostgresAway("committed, and the answer is lost")

    async def lock(self, transaction: Transaction, id_: UUID) -> None:
        """Wait for whoever has it."""
        while self._locked.get(id_, transaction) is not transaction:
            self._freed.clear()
            await self._freed.wait()
            self.check(transaction)
        self._locked[id_] = transaction
        transaction.locks.add(id_)

    def try_lock(self, transaction: Transaction, id_: UUID) -> bool:
        if self._locked.get(id_, transaction) is not transaction:
            return False
        self._locked[id_] = transaction
        transaction.locks.add(id_)
        return True

    def check(self, transaction: Transaction) -> None:
        """Raises: CancelledError of a dead process, PostgresAway when its connection is gone."""
        transaction.life.check()
        if transaction.is_over:
            raise PostgresAway("the connection is lost")

    async def go_away(self, seconds: float) -> None:
        self.is_up = False
        for transaction in list(self._locked.values()):
            self._release(transaction)
        await asyncio.sleep(seconds)
        self.is_up = True

    def lose(self, life: Life) -> None:
        for transaction in [each for each in self._locked.values() if each.life is life]:
            self._release(transaction)

    def _release(self, transaction: Transaction) -> None:
        transaction.is_over = True
        for id_ in transaction.locks:
            del self._locked[id_]
        transaction.locks = set()
        self._freed.set()

    def covering(self, id_: UUID, order: Order) -> list[Tombstone]:
        return [done for done in self.done.get(id_, []) if done.order >= order]

    def bury(self, id_: UUID, cause: str) -> None:
        waiting = self.rows.pop(id_)
        tombstone = Tombstone(waiting.order, cause, waiting.row.fingerprint, waiting.command_id)
        self.done.setdefault(id_, []).append(tombstone)


class SimStore:
    """The parts of `Store` and `CommandStore` that the scheduler uses, on the connections of one process."""

    def __init__(self, tables: Tables, life: Life) -> None:
        self.tables = tables
        self.life = life

    async def accept(self, rows: Sequence[Row]) -> Accepted:
        tables = self.tables
        held: set[UUID] = set()
        earlier: dict[UUID, First] = {}
        async with tables.transaction(self.life) as transaction:
            inserts: dict[UUID, Waiting] = {}
            for row in sorted(rows, key=lambda row: row.id.int):
                await self._meet(transaction, row, inserts)
            await tables.luck.delay(0.001)
            tables.check(transaction)  # from here to the commit nothing waits: it is done at once, or not at all
            for row in rows:
                order = (row.generation, row.attempt, row.hop)
                standing = inserts.get(row.id) or tables.rows.get(row.id)
                covering = tables.covering(row.id, standing.order if standing else order)
                if covering:
                    tables.rows.pop(row.id, None)
                    is_cancelled = all(done.cause in ("cancelled", "noted") for done in covering)
                    has_left = any(done.cause == "noted" and done.fingerprint for done in covering)
                    fingerprint = max(done.fingerprint for done in covering)
                    earlier[row.id] = First(fingerprint, None, None, is_cancelled, has_left)
                elif row.id in inserts:
                    before = tables.rows.get(row.id)
                    inserts[row.id].command_id = before.command_id if before else None
                    tables.rows[row.id] = inserts[row.id]
                    held.add(row.id)
                elif standing is not None:
                    earlier[row.id] = First(standing.row.fingerprint, standing.row.message, standing.row.due_at)
        return Accepted(frozenset(held), earlier)

    async def _meet(self, transaction: Transaction, row: Row, inserts: dict[UUID, Waiting]) -> None:
        """INSERT ... ON CONFLICT DO UPDATE: it waits for a row that is being fired."""
        if self.tables.luck.broken == "accept waits for a fire":
            if row.id not in self.tables.rows:  # ON CONFLICT DO NOTHING does not
                inserts[row.id] = Waiting(row)
            return
        await self.tables.lock(transaction, row.id)
        met = self.tables.rows.get(row.id)
        order = (row.generation, row.attempt, row.hop)
        if met is None or (order > met.order and met.row.fingerprint == row.fingerprint):
            inserts[row.id] = Waiting(row)

    async def fire_these(self, ids: Sequence[UUID], emit: Emit) -> int:
        def are_due() -> Iterator[Waiting]:
            for id_ in set(ids):
                waiting = self.tables.rows.get(id_)
                is_checked = self.tables.luck.broken != "the row decides what is due"
                if waiting is not None and (waiting.row.due_at <= self.tables.time.now() or not is_checked):
                    yield waiting

        return await self._fire(are_due, emit)

    async def fire_overdue(self, emit: Emit) -> int:
        def are_overdue() -> Iterator[Waiting]:
            late = self.tables.time.now() - OVERDUE
            yield from [waiting for waiting in self.tables.rows.values() if waiting.row.due_at < late]

        return await self._fire(are_overdue, emit)

    async def _fire(self, wanted: Callable[[], Iterator[Waiting]], emit: Emit) -> int:
        tables = self.tables
        async with tables.transaction(self.life) as transaction:
            locked = [each for each in wanted() if tables.try_lock(transaction, each.row.id)]
            if not locked:
                return 0
            locked.sort(key=lambda each: (each.row.due_at, each.row.id))
            rows = [_due_row(each, tables.time.now()) for each in locked]
            if tables.luck.broken == "fire commits after the confirm":
                for row in rows:
                    tables.bury(row.id, "fired")
                await emit(rows)
                return len(rows)
            emitted = await self._within_patience(emit(rows))
            tables.check(transaction)
            for cause, ids in (("fired", emitted.fired), ("expired", emitted.expired)):
                for id_ in ids:
                    tables.bury(id_, cause)
            return len(rows)

    async def _within_patience(self, emitting: Awaitable[Emitted]) -> Emitted:
        """idle_in_transaction_session_timeout."""
        started = self.tables.time.monotonic()
        emitted = await emitting
        if self.tables.time.monotonic() - started > IDLE_IN_TRANSACTION_S:
            raise PostgresAway("idle in transaction")
        return emitted

    async def still_to_come(self, ids: Sequence[UUID], since: datetime) -> list[tuple[UUID, datetime]]:
        async with self.tables.transaction(self.life):
            until = min(since, self.tables.time.now())
            found = [self.tables.rows[id_].row for id_ in ids if id_ in self.tables.rows]
            return [(row.id, row.due_at) for row in found if row.due_at > until]

    async def coming(
        self, after: datetime, until: datetime, limit: int, *, part: int = 0, parts: int = 1
    ) -> AsyncIterator[Sequence[tuple[UUID, datetime]]]:
        async with self.tables.transaction(self.life):
            rows = [each.row for each in self.tables.rows.values() if after < each.row.due_at <= until]
            found = sorted((row.due_at, row.id) for row in rows if shard_of(row.id) % parts == part)
        if found:
            yield [(id_, due_at) for due_at, id_ in found[:limit]]

    async def now(self) -> datetime:
        async with self.tables.transaction(self.life):
            return self.tables.time.now()

    async def overdue(self) -> tuple[int, float]:
        async with self.tables.transaction(self.life):
            return 0, 0.0

    async def cancel(self, command: CancelTask) -> Cancelled:
        """Of a task that is nobody else's, by one command or more."""
        tables = self.tables
        async with tables.transaction(self.life) as transaction:
            await tables.lock(transaction, command.id)
            tables.check(transaction)
            return self._cancel(command)

    def _cancel(self, command: CancelTask) -> Cancelled:
        tables, known = self.tables, (command.generation, 1, 0)
        waiting, tombstones = tables.rows.get(command.id), tables.done.get(command.id, [])
        applied = [done.order[0] for done in tombstones if done.command_id == command.command_id]
        if applied:
            return _again(tombstones, applied[0])
        if waiting is None:
            generation = max([command.generation, *(done.order[0] for done in tombstones)])
            cancelled = _again(tombstones, generation)
        else:
            del tables.rows[command.id]
            is_due = waiting.row.due_at <= tables.time.now()
            has_left = is_due or (waiting.row.attempt, waiting.row.hop) != (1, 0)
            order = max(waiting.order, known)
            cancelled = Cancelled("left" if has_left else "cancelled", order, True, waiting.row.fingerprint)
        cause = "cancelled" if cancelled.result == "cancelled" else "noted"
        tombstone = Tombstone((cancelled.order[0], MAX, MAX), cause, cancelled.fingerprint, command.command_id)
        tables.done.setdefault(command.id, []).append(tombstone)
        return cancelled


def _again(tombstones: Sequence[Tombstone], generation: int) -> Cancelled:
    met = [done for done in tombstones if done.fingerprint and done.order[0] <= generation]
    cancels = [done for done in met if done.order[0] == generation and done.cause in ("cancelled", "noted")]
    order = (generation, 1, 0)
    if not cancels:
        return Cancelled("left" if met else "unknown", order)
    is_certain = any(cancel.cause == "cancelled" for cancel in cancels)
    return Cancelled("cancelled" if is_certain else "left", order, True, cancels[0].fingerprint)


def _due_row(waiting: Waiting, now: datetime) -> DueRow:
    row, order = waiting.row, waiting.order
    is_expired = row.expires_at is not None and row.expires_at <= now
    is_moved = waiting.command_id is not None and order[1:] == (1, 0)
    return DueRow(row.id, *order, row.due_at, is_expired, is_moved, row.project, row.message, now)
