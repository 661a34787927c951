"""Connections that wait for their next request, the latest first: what is seldom needed grows old and is closed."""

import asyncio

from services.dispatcher.http.connection import Connection
from services.dispatcher.http.target import Origin

# Node, uvicorn and Apache close theirs after 5 s: one that is about to be closed is not worth the race.
IDLE_MAX_S = 4.0
IDLE_MAX = 1000


class Pool:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Origin, list[Connection]] = {}
        self._count = 0
        self._sweeping: asyncio.TimerHandle | None = None

    def take(self, origin: Origin) -> Connection | None:
        """One that can be trusted with a request, as far as anybody can know."""
        waiting = self._idle.get(origin)
        oldest = self._loop.time() - IDLE_MAX_S
        while waiting:
            connection = waiting.pop()
            self._count -= 1
            if connection.idle_since > oldest and connection.is_silent():
                return connection
            connection.abort()
        return None

    def put(self, origin: Origin, connection: Connection) -> None:
        """After its answer. One too many is closed."""
        if self._count >= IDLE_MAX:
            return connection.abort()
        connection.idle_since = self._loop.time()
        self._idle.setdefault(origin, []).append(connection)
        self._count += 1
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(IDLE_MAX_S, self._sweep)

    def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        for waiting in self._idle.values():
            for connection in waiting:
                connection.abort()
        self._idle.clear()
        self._count = 0

    def _sweep(self) -> None:
        """Close what has waited too long, so that no receiver is held to connections that nobody uses."""
        oldest = self._loop.time() - IDLE_MAX_S
        for origin, waiting in list(self._idle.items()):
            kept = [connection for connection in waiting if connection.idle_since > oldest and connection.is_open]
            for connection in set(waiting).difference(kept):
                connection.abort()
            self._count -= len(waiting) - len(kept)
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]
        self._sweeping = self._loop.call_later(IDLE_MAX_S / 2, self._sweep) if self._idle else None
