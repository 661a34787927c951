"""`client.digest`: the mail that tells a person what failed."""

from carillon.models import DigestPreview, DigestSent
from carillon.transport import Request, Transport


class Digest:
    """Each method raises CarillonError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def preview(self) -> DigestPreview:
        """The next one, as far as the project is in it; nothing is sent."""
        return await self._transport.send(Request("GET", "/v1/digest/preview", is_repeatable=True), DigestPreview)

    async def send(self) -> DigestSent:
        """One now, of all that waits."""
        return await self._transport.send(Request("POST", "/v1/digest/send"), DigestSent)
