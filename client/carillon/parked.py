"""`client.parked`: dead letters, the messages that no service could process."""

from collections.abc import AsyncIterator

from carillon.models import Parked, ParkedRedrive
from carillon.transport import Request, Transport, segment


class ParkedMessages:
    """Each method raises CarillonError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, id: str) -> Parked:
        return await self._transport.send(Request("GET", _path(id), is_repeatable=True), Parked)

    async def redrive(self, id: str) -> ParkedRedrive:
        """Back to where it came from, once what was wrong is mended."""
        return await self._transport.send(Request("POST", f"{_path(id)}/redrive"), ParkedRedrive)

    async def drop(self, id: str, *, reason: str) -> None:
        """Away for good; the reason stands in Carillon's log."""
        request = Request("DELETE", _path(id), body={"reason": reason}, is_repeatable=True)
        await self._transport.send(request, type(None))

    def list(self, *, origin: str | None = None) -> AsyncIterator[Parked]:
        """Newest first; those whose consumer of the queue `origin` gave up, or all."""
        return self._transport.pages("/v1/parked", [] if origin is None else [("origin", origin)], Parked)


def _path(id: str) -> str:
    return f"/v1/parked/{segment(id)}"
