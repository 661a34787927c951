"""`/v1/signing-secret`: what the project's receivers verify calls with, and a new one in its place."""

import msgspec
from aiohttp import web

from libs.common.clock import Clock
from services.ingest.control import SetsControl
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.requests import names_of, optional_json_body, read_json
from services.ingest.signing_secrets import KeepsVersions, RotateSecret, SecretView, SigningSecrets

_read_rotation = msgspec.json.Decoder(RotateSecret).decode


class SigningDoor:
    """`master_key` None: the dispatchers have one, but this process was not told."""

    def __init__(self, store: KeepsVersions, commands: SetsControl, clock: Clock, master_key: str | None) -> None:
        self._secrets = SigningSecrets(store, commands, clock, master_key)

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path="/v1/signing-secret",
                handler=self.show,
                scope="admin",
                summary="What the project's receivers verify calls with",
                gives={200: SecretView},
                problems=(409, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/signing-secret/rotate",
                handler=self.rotate,
                scope="admin",
                summary="A new secret, and for a while both. 202: in force within 30 seconds",
                takes={JSON: RotateSecret},
                may_be_empty=True,
                gives={200: SecretView, 202: SecretView},
                problems=(400, 409, 413, 415, 422, 503),
            ),
        ]

    async def show(self, request: web.Request) -> web.Response:
        return _answer(await self._secrets.show(caller_of(request).project), 200)

    async def rotate(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        raw = await optional_json_body(request)
        asked = read_json(raw, _read_rotation, names_of(RotateSecret)) if raw.strip() else RotateSecret()
        view, is_in_force = await self._secrets.rotate(caller.project, caller.key_id, asked)
        return _answer(view, 200 if is_in_force else 202)


def _answer(view: SecretView, status: int) -> web.Response:
    return json_response(view, status=status, headers={"Cache-Control": "no-store"})
