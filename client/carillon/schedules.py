"""`client.schedules`: tasks that come again, by cron or at an interval, under a name of your own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import uuid4

from carillon.fields import ScheduleFields, WhenFields, wire
from carillon.models import Preview, Schedule, ScheduleRun
from carillon.transport import Request, Transport, segment

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Schedules:
    """Each method raises CarillonError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def put(self, name: str, **fields: Unpack[ScheduleFields]) -> Schedule:
        """Create the schedule of this name, or replace it; said again unchanged, it stays as it is."""
        return await self._transport.send(Request("PUT", _path(name), body=wire(fields), is_repeatable=True), Schedule)

    async def get(self, name: str) -> Schedule:
        return await self._transport.send(Request("GET", _path(name), is_repeatable=True), Schedule)

    async def pause(self, name: str) -> Schedule:
        return await self._transport.send(Request("POST", f"{_path(name)}/pause", is_repeatable=True), Schedule)

    async def resume(self, name: str) -> Schedule:
        return await self._transport.send(Request("POST", f"{_path(name)}/resume", is_repeatable=True), Schedule)

    async def run(self, name: str, *, idempotency_key: str | None = None) -> ScheduleRun:
        """Make its task once, now. Repeats by itself, and nothing doubles."""
        key = idempotency_key or str(uuid4())
        return await self._transport.send(Request("POST", f"{_path(name)}/run", idempotency_key=key), ScheduleRun)

    async def delete(self, name: str) -> None:
        await self._transport.send(Request("DELETE", _path(name), is_repeatable=True), type(None))

    async def preview(self, *, count: int = 10, **when: Unpack[WhenFields]) -> Preview:
        """The next times of a schedule that need not exist, and what it says in words."""
        body = {**wire(when), "count": count}
        request = Request("POST", "/v1/schedules/preview", body=body, is_repeatable=True)
        return await self._transport.send(request, Preview)

    def list(self) -> AsyncIterator[Schedule]:
        return self._transport.pages("/v1/schedules", [], Schedule)


def _path(name: str) -> str:
    return f"/v1/schedules/{segment(name)}"
