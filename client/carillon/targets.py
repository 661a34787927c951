"""`client.targets`: the hosts that are called, which a person may pause or slow down."""

from collections.abc import AsyncIterator

from carillon.models import Target
from carillon.transport import Request, Transport, segment


class Targets:
    """Each method raises CarillonError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, host: str) -> Target:
        return await self._transport.send(Request("GET", _path(host), is_repeatable=True), Target)

    async def pause(self, host: str) -> Target:
        """No call to this host until it is resumed; its tasks wait and lose no attempt."""
        return await self._transport.send(Request("POST", f"{_path(host)}/pause", is_repeatable=True), Target)

    async def resume(self, host: str) -> Target:
        return await self._transport.send(Request("POST", f"{_path(host)}/resume", is_repeatable=True), Target)

    async def limit(self, host: str, *, per_s: float | None, burst: int = 1) -> Target:
        """At most `per_s` calls a second, after `burst` at once; None takes the limit away. A pause stays as it is."""
        body = {"per_s": per_s, "burst": burst}
        return await self._transport.send(Request("PUT", _path(host), body=body, is_repeatable=True), Target)

    def list(self) -> AsyncIterator[Target]:
        return self._transport.pages("/v1/targets", [], Target)


def _path(host: str) -> str:
    return f"/v1/targets/{segment(host)}"
