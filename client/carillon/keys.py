"""`client.keys` and `client.signing_secret`: who may ask, and what calls are signed with. Both need the scope admin."""

from collections.abc import AsyncIterator, Sequence

from carillon.fields import Moment, wire
from carillon.models import Key, SigningSecret
from carillon.transport import Request, Transport, segment


class Keys:
    """Each method raises CarillonError. Another `project` than the key's own may be named with the bootstrap key."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self,
        name: str,
        *,
        scopes: Sequence[str],
        expires_at: Moment | None = None,
        per_s: float | None = None,
        burst: int | None = None,
        project: str | None = None,
    ) -> Key:
        """The new key, whose `key` is shown this once. Scopes: tasks:write tasks:read schedules:write schedules:read
        admin. With `per_s` it may ask so often, after `burst` at once."""
        limits = {"per_s": per_s, "burst": burst}
        body = wire({"name": name, "scopes": list(scopes), "expires_at": expires_at, **limits, "project": project})
        return await self._transport.send(Request("POST", "/v1/keys", body=body), Key)

    async def get(self, id: str, *, project: str | None = None) -> Key:
        return await self._transport.send(Request("GET", _path(id), _of(project), is_repeatable=True), Key)

    async def revoke(self, id: str, *, project: str | None = None) -> Key:
        """Refused everywhere within two seconds."""
        return await self._transport.send(Request("DELETE", _path(id), _of(project), is_repeatable=True), Key)

    async def rotate(self, id: str, *, overlap_s: float | None = None, project: str | None = None) -> Key:
        """A new key in the place of this one, which goes on working for `overlap_s`, a day if left out."""
        body = wire({"overlap_s": overlap_s})
        return await self._transport.send(Request("POST", f"{_path(id)}/rotate", _of(project), body), Key)

    def list(self, *, project: str | None = None) -> AsyncIterator[Key]:
        return self._transport.pages("/v1/keys", _of(project), Key)


def _path(id: str) -> str:
    return f"/v1/keys/{segment(id)}"


def _of(project: str | None) -> Sequence[tuple[str, str]]:
    return [] if project is None else [("project", project)]


class SigningSecrets:
    """The secret of the key's project. Each method raises CarillonError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self) -> SigningSecret:
        return await self._transport.send(Request("GET", "/v1/signing-secret", is_repeatable=True), SigningSecret)

    async def rotate(self, *, overlap_s: float | None = None, force: bool = False) -> SigningSecret:
        """A new one; for `overlap_s`, a day if left out, calls bear signatures of both, so receivers may change over
        at any moment of it. Raises: Conflict while the last rotation is not over, unless it is forced."""
        body = wire({"overlap_s": overlap_s, "force": force})
        return await self._transport.send(Request("POST", "/v1/signing-secret/rotate", body=body), SigningSecret)
