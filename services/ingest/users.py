"""`python -m services.ingest.users`: one-time links, and who may use the console, straight in Postgres.

For the first admin, and for whoever nobody can let in any more. A link is all that stands on stdout.
"""

import argparse
import asyncio
import sys

import structlog

from libs.common.clock import SystemClock, format_utc
from libs.common.lifecycle import EXIT_FAILED, EXIT_SETTINGS, Fatal
from libs.common.postgres import PostgresAway, postgres_pool
from libs.common.settings import PostgresSettings, PublicSettings, SettingsError, load
from services.ingest.console.user_text import LINK_LIVES, name_of, new_link
from services.ingest.store_users import Changed, ConsoleUser, UserStore

URL = "http://localhost:8080"


class UsersSettings(PostgresSettings, PublicSettings):
    pass


class Refused(Exception):
    """The text says why."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))  # stdout is for the link
    try:
        settings = load(UsersSettings)
        asyncio.run(_run(options, settings))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    except (Refused, Fatal, PostgresAway) as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return 0


async def _run(options: argparse.Namespace, settings: UsersSettings) -> None:
    url = settings.postgres_url.get_secret_value()
    async with postgres_pool(
        url, role="carillon_ingest", schema="ingest", application_name="carillon-users"
    ) as postgres:
        users = UserStore(postgres)
        match options.action:
            case "link":
                path = await _link(users, options.user)
                print(f"works once, until {format_utc(SystemClock().now() + LINK_LIVES)}:", file=sys.stderr)
                print((options.url or settings.public_url or URL).rstrip("/") + path)
            case "list":
                _show(await users.everyone())
            case "disable":
                user = await _named(users, options.name)
                _check(await users.disable(user.id, SystemClock().now()))
                print(f"{user.name} is disabled, and logged out everywhere", file=sys.stderr)


async def _link(users: UserStore, name: str | None) -> str:
    link, now = new_link(), SystemClock().now()
    if name is not None:
        user = await _named(users, name)
        if user.disabled_at is not None:
            raise Refused(f"{user.name} is disabled: an admin can enable them in the console, under Users")
        await users.add_link(link.digest, user.id, now, now + LINK_LIVES)
    elif not await users.add_first_link(link.digest, now, now + LINK_LIVES):
        raise Refused("there is a first admin already: name the user whose password is to be set, by --user NAME")
    return link.path


async def _named(users: UserStore, name: str) -> ConsoleUser:
    user = await users.by_name(name_of(name))
    if user is None:
        raise Refused(f"there is no user {name}; list shows who there is")
    return user


def _check(changed: Changed) -> None:
    if changed == "last_admin":
        raise Refused("this is the last admin who can log in: make another one first")


def _show(users: list[ConsoleUser]) -> None:
    for user in users:
        seen = "never seen" if user.last_seen_at is None else f"seen {format_utc(user.last_seen_at)}"
        print("\t".join((user.name, user.role, ",".join(user.projects) or "all projects", _state(user), seen)))


def _state(user: ConsoleUser) -> str:
    if user.disabled_at is not None:
        return "disabled"
    return "active" if user.password is not None else "invited"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.ingest.users", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    link = actions.add_parser("link", help="print a link that makes the first admin, or sets a user's password")
    link.add_argument("--user", help="whose password it sets")
    link.add_argument("--url", help=f"how people reach ingest; CARILLON_PUBLIC_URL or {URL} unless given")
    actions.add_parser("list", help="who there is, in tab-separated columns")
    actions.add_parser("disable", help="end a user's sessions and let them in no more").add_argument("name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
