"""The client: one object for the whole API, open for as long as its `async with` block."""

from __future__ import annotations

import os
from types import TracebackType
from uuid import uuid4

from carillon.digest import Digest
from carillon.fields import wire
from carillon.keys import Keys, SigningSecrets
from carillon.models import Notice
from carillon.parked import ParkedMessages
from carillon.schedules import Schedules
from carillon.targets import Targets
from carillon.tasks import Tasks
from carillon.transport import Request, Transport

URL_VARIABLE = "CARILLON_URL"
KEY_VARIABLES = ("CARILLON_KEY", "CARILLON_API_KEY")


class Client:
    """`async with Client() as client: await client.tasks.create("https://example.com/hook", delay="5m")`.

    Without `url` and `key` the environment says them: CARILLON_URL, CARILLON_KEY. `timeout_s` bounds a call of a
    method with all its repeats, `answer_timeout_s` one request. Use it in one event loop, by as many tasks as you like.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout_s: float = 60.0,
        answer_timeout_s: float = 15.0,
    ) -> None:
        self._transport = Transport(
            url or _from_environment(URL_VARIABLE),
            key or _from_environment(*KEY_VARIABLES),
            timeout_s=timeout_s,
            answer_timeout_s=answer_timeout_s,
        )
        self.tasks = Tasks(self._transport)
        self.schedules = Schedules(self._transport)
        self.keys = Keys(self._transport)
        self.signing_secret = SigningSecrets(self._transport)
        self.targets = Targets(self._transport)
        self.parked = ParkedMessages(self._transport)
        self.digest = Digest(self._transport)

    async def __aenter__(self) -> Client:
        self._transport.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def notify(
        self, message: str | None = None, *, subject: str | None = None, idempotency_key: str | None = None
    ) -> Notice:
        """Put a text of your own into the next digest mail. Raises: CarillonError."""
        body = wire({"subject": subject, "message": message})
        request = Request("POST", "/fallback", body=body, idempotency_key=idempotency_key or str(uuid4()))
        return await self._transport.send(request, Notice)


def _from_environment(*names: str) -> str:
    """Raises: ValueError."""
    for name in names:
        if value := os.environ.get(name):
            return value
    raise ValueError(f"{names[0]} is not set: set it, or give it to Client")
