"""A project's signing secret: shown, and a new one made in its place; for the door and for the console alike."""

from datetime import datetime, timedelta
from typing import Protocol

import msgspec
import structlog

from libs.common.clock import Clock, format_utc
from libs.common.contracts import SigningRule
from libs.common.signing import secret, whsec
from services.ingest.control import SetsControl, is_confirmed
from services.ingest.creation import this_millisecond
from services.ingest.keyring import OVERLAP_S, OVERLAP_S_MAX
from services.ingest.problems import FieldError, Problem, invalid
from services.ingest.store_control import Change, Signing

log = structlog.get_logger(__name__)


class RotateSecret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For `overlap_s` calls bear both signatures: 0 to 2592000 seconds, 30 days.

    `force` rotates again while the last rotation is not over: whoever still verifies with the secret before that one
    refuses every call from then on.
    """

    overlap_s: float = OVERLAP_S
    force: bool = False


class PreviousSecret(msgspec.Struct, frozen=True, kw_only=True):
    secret: str
    version: int
    until: str


class SecretView(msgspec.Struct, frozen=True, kw_only=True):
    """What calls are signed with; until `previous.until` also with the secret before it."""

    project: str
    version: int
    secret: str
    previous: PreviousSecret | None
    changed_at: str | None


class KeepsVersions(Protocol):
    """The part of `ControlStore` that this needs. All raise PostgresAway."""

    async def signing(self, project: str) -> Signing: ...

    async def rotate(self, change: Change, previous_until: datetime, *, is_forced: bool) -> SigningRule | None: ...


class SigningSecrets:
    """`master_key` None: the dispatchers have one, but this process was not told. All raise Problem, PostgresAway."""

    def __init__(self, store: KeepsVersions, commands: SetsControl, clock: Clock, master_key: str | None) -> None:
        self._store = store
        self._commands = commands
        self._clock = clock
        self._master_key = master_key

    async def show(self, project: str) -> SecretView:
        return self._view(project, self._key(), await self._store.signing(project))

    async def rotate(self, project: str, by: str, asked: RotateSecret) -> tuple[SecretView, bool]:
        """And whether the dispatchers sign with it already; else they do within 30 s."""
        master_key = self._key()
        if not 0 <= asked.overlap_s <= OVERLAP_S_MAX:
            raise invalid([FieldError("/overlap_s", "out_of_range", f"give 0 to {OVERLAP_S_MAX:.0f}, 30 days")])
        now = this_millisecond(self._clock.now())
        until = this_millisecond(now + timedelta(seconds=asked.overlap_s))
        rule = await self._store.rotate(Change(project, by, now), until, is_forced=asked.force)
        if rule is None:
            raise _not_over(await self._store.signing(project))
        log.info("secret.rotated", project=project, version=rule.version, overlap_s=asked.overlap_s)
        is_in_force = await is_confirmed(self._commands, rule)
        return self._view(project, master_key, Signing(rule.version, rule.previous_until, now)), is_in_force

    def _key(self) -> str:
        if self._master_key is None:
            detail = "This installation does not show its secrets: set CARILLON_SIGNING_MASTER_KEY for ingest too."
            raise Problem(409, "signing_key_not_set", detail)
        return self._master_key

    def _view(self, project: str, master_key: str, signing: Signing) -> SecretView:
        previous = None
        if signing.previous_until is not None and self._clock.now() < signing.previous_until:
            text = whsec(secret(master_key, project, signing.version - 1))
            until = format_utc(signing.previous_until)
            previous = PreviousSecret(secret=text, version=signing.version - 1, until=until)
        return SecretView(
            project=project,
            version=signing.version,
            secret=whsec(secret(master_key, project, signing.version)),
            previous=previous,
            changed_at=None if signing.changed_at is None else format_utc(signing.changed_at),
        )


def _not_over(signing: Signing) -> Problem:
    until = "" if signing.previous_until is None else format_utc(signing.previous_until)
    return Problem(
        409,
        "rotation_not_over",
        f"The last rotation, to version {signing.version}, is not over until {until}: receivers may still verify with"
        " the secret before it. GET /v1/signing-secret shows both; with force a third one takes their place.",
    )
