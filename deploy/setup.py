"""The set-up step: migrations of every service, then the broker's topology. Run it once per release, as one job.

    python -m deploy.setup

It may be run again at any time and by two at once: dbmate holds a lock, and declaring what is there changes nothing.
Only this step needs rights to create; services check that all is there and refuse to start when it is not.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import structlog
from aiormq.exceptions import AMQPError
from yarl import URL

from libs.common.connection import is_wrong_login
from libs.common.declaration import declare
from libs.common.lifecycle import Backoff, Fatal, run
from libs.common.logs import configure_logs
from libs.common.settings import AmqpSettings, LadderSettings, PostgresSettings, load
from libs.common.tls import tls_trouble
from libs.common.topology import topology

SERVICES = Path(__file__).parent.parent / "services"
WAIT_S = 60


class SetupSettings(AmqpSettings, PostgresSettings, LadderSettings):
    """What the set-up step is told."""


async def main() -> None:
    settings = load(SetupSettings)
    configure_logs("setup", "setup", settings.log_level)
    log = structlog.get_logger(__name__)
    for schema, folder in migrations():
        migrate(settings.postgres_url.get_secret_value(), schema, folder)
        log.info("schema.migrated", schema=schema)
    table = topology(settings.retry_schedule_s)
    connection = await connect(settings.amqp_url.get_secret_value())
    async with connection:
        await declare(connection, table)
    log.info("topology.declared", queues=len(table.queues), exchanges=len(table.exchanges))


def migrations() -> Iterator[tuple[str, Path]]:
    """(schema, folder) of every service that has tables; a service's schema bears its name."""
    for folder in sorted(SERVICES.glob("*/migrations")):
        if any(folder.glob("*.sql")):
            yield folder.parent.name, folder


def migrate(postgres_url: str, schema: str, folder: Path) -> None:
    """Bring one schema up to date. Raises: Fatal with dbmate's last words."""
    dbmate = Path(sys.executable).with_name("dbmate")
    command = [str(dbmate), "--wait", f"--wait-timeout={WAIT_S}s", "--migration-lock", "--no-dump-schema"]
    command += [f"--migrations-dir={folder}", f"--migrations-table={schema}.schema_migrations", "up"]
    environment = {"DATABASE_URL": _plain_unless_asked(postgres_url), "PATH": os.environ.get("PATH", "")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  ours
    if done.returncode != 0:
        where = URL(postgres_url).with_user(None).with_query(None)
        raise Fatal(f"migrating the schema '{schema}' of {where} failed: {(done.stdout + done.stderr).strip()[-1500:]}")


async def connect(amqp_url: str) -> aio_pika.abc.AbstractConnection:
    """Raises: Fatal on a wrong login, or when no broker answers within `WAIT_S`."""
    where = URL(amqp_url).with_user(None)
    backoff, reason = Backoff(first_s=0.2, cap_s=2.0), "no answer"
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    return await aio_pika.connect(amqp_url, timeout=5)
                except (AMQPError, OSError, TimeoutError) as error:
                    if is_wrong_login(error):
                        raise Fatal(f"RabbitMQ at {where} refused the login: check CARILLON_AMQP_URL") from error
                    reason = tls_trouble(error) or repr(error)
                    await asyncio.sleep(backoff.next())
    except TimeoutError as error:
        raise Fatal(
            f"no RabbitMQ at {where} let us in within {WAIT_S} s: start it, or check CARILLON_AMQP_URL ({reason})"
        ) from error


def _plain_unless_asked(postgres_url: str) -> str:
    """dbmate's driver demands TLS unless told otherwise; asyncpg, which the services use, does not."""
    url = URL(postgres_url)
    return postgres_url if "sslmode" in url.query else str(url.update_query(sslmode="disable"))


if __name__ == "__main__":
    run(main)
