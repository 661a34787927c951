"""`python -m services.ingest.keys`: makes, lists, rotates and revokes API keys straight in Postgres.

For the first key of a project, and for whoever has lost the keys that may make others. The text of a new key is all
that stands on stdout.
"""

import argparse
import asyncio
import sys
from datetime import datetime
from typing import get_args
from uuid import UUID

import msgspec
import structlog

from libs.common.clock import SystemClock, format_utc
from libs.common.lifecycle import EXIT_FAILED, EXIT_SETTINGS, Fatal
from libs.common.postgres import postgres_pool
from libs.common.settings import PostgresSettings, SettingsError, load
from services.ingest.auth import ALL_SCOPES, BOOTSTRAP_PROJECT, Scope
from services.ingest.keyring import OVERLAP_S, Keyring, NewKey, project_error
from services.ingest.problems import Problem, invalid
from services.ingest.store_keys import KeyStore, StoredKey

PAGE = 250


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))  # stdout is for the key
    try:
        settings = load(PostgresSettings)
        asyncio.run(_run(options, settings.postgres_url.get_secret_value()))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    except (Problem, Fatal) as error:
        print("; ".join([str(error), *_faults(error)]), file=sys.stderr)
        return EXIT_FAILED
    return 0


async def _run(options: argparse.Namespace, url: str) -> None:
    if error := project_error(options.project):
        raise invalid([error])
    async with postgres_pool(
        url, role="carillon_ingest", schema="ingest", application_name="carillon-keys"
    ) as postgres:
        keyring = Keyring(KeyStore(postgres), SystemClock())
        match options.action:
            case "create":
                _made(*await keyring.create(options.project, _new(options), ALL_SCOPES))
            case "rotate":
                _made(*await keyring.rotate(options.project, options.id, options.overlap_s, ALL_SCOPES))
            case "revoke":
                key = await keyring.revoke(options.project, options.id)
                print(f"{key.id} is revoked; it is refused everywhere within two seconds", file=sys.stderr)
            case "list":
                await _list(keyring, options.project)


def _new(options: argparse.Namespace) -> NewKey:
    scopes = tuple(scope.strip() for scope in options.scopes.split(","))
    wanted = {"scopes": scopes, "name": options.name, "per_s": options.per_s, "burst": options.burst}
    try:
        return msgspec.convert({**wanted, "expires_at": options.expires_at}, NewKey)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid_request", f"{error}; scopes are {', '.join(get_args(Scope))}") from error


def _made(text: str, key: StoredKey) -> None:
    print(f"{key.id} of {key.project}, {_until(key.expires_at)}: {' '.join(key.scopes)}", file=sys.stderr)
    print(text)


async def _list(keyring: Keyring, project: str) -> None:
    after, now = None, SystemClock().now()
    while keys := await keyring.page(project, after, PAGE):
        for key in keys:
            print("\t".join((str(key.id), _state(key, now), " ".join(key.scopes), _last_use(key), key.name)))
        after = keys[-1].id


def _state(key: StoredKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else _until(key.expires_at)


def _until(expires_at: datetime | None) -> str:
    return "active" if expires_at is None else f"active until {format_utc(expires_at)}"


def _last_use(key: StoredKey) -> str:
    return "never used" if key.last_used_at is None else f"used {format_utc(key.last_used_at)}"


def _faults(error: Exception) -> list[str]:
    return [f"{each.pointer.lstrip('/')} {each.detail}" for each in error.errors] if isinstance(error, Problem) else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.ingest.keys", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    made = {name: actions.add_parser(name) for name in ("create", "list", "rotate", "revoke")}
    for action in made.values():
        action.add_argument("--project", default=BOOTSTRAP_PROJECT, help="whose keys (%(default)s)")
    for name in ("rotate", "revoke"):
        made[name].add_argument("id", type=UUID, help="of the key, as list shows it")
    made["rotate"].add_argument("--overlap-s", type=float, default=OVERLAP_S, help="how long the old key still works")
    create = made["create"]
    create.add_argument("--name", required=True, help="what the key is for")
    create.add_argument("--scopes", required=True, help=f"with commas between: {','.join(get_args(Scope))}")
    create.add_argument("--expires-at", help="RFC 3339, as 2027-03-01T09:00:00Z; never unless given")
    create.add_argument("--per-s", type=float, help="requests a second; no limit unless given")
    create.add_argument("--burst", type=int, help="requests at once; a second's worth unless given")
    return parser


if __name__ == "__main__":
    sys.exit(main())
