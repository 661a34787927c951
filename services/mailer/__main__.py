"""The mailer process: what failed comes in, is collected on a schedule, and goes out as digest mails."""

import asyncio
from contextlib import AsyncExitStack

from libs.common import topology
from libs.common.admin import AdminServer
from libs.common.asking import Replier, asked_decoder
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.consumer import ItemConsumer
from libs.common.contracts import AskDigest, DigestPage
from libs.common.digest.render import Letterhead
from libs.common.heartbeat import Heartbeat
from libs.common.intake import Intake, decoder
from libs.common.lifecycle import Worker, run, run_until_stopped
from libs.common.logs import configure_logs
from libs.common.metrics import build_info
from libs.common.publisher import Publisher
from libs.common.settings import load
from libs.common.version import VERSION
from services.mailer.collect import FallbackQueue
from services.mailer.commands import Commands, Readers
from services.mailer.outbox import Outbox
from services.mailer.runs import Runs
from services.mailer.schedule import Schedule
from services.mailer.settings import MailerSettings
from services.mailer.smtp import SmtpServer

# One mail at a time: a crash repeats at most one, and a mail server is not flooded after an outage.
MAILS_AT_A_TIME = 1
COMMANDS_AT_A_TIME = 1
VITALS = {
    "waiting": "carillon_mailer_waiting_messages",
    "waiting_since": "carillon_mailer_waiting_since_timestamp_seconds",
    "login_refused": "carillon_mailer_login_refused",
}


async def main() -> None:
    settings = load(MailerSettings)
    configure_logs("mailer", settings.replica, settings.log_level)
    build_info("mailer", VERSION)

    amqp_url, clock = settings.amqp_url.get_secret_value(), SystemClock()
    publishing = Link(amqp_url, "mailer publish", topology.topology())
    consuming = Link(amqp_url, "mailer consume", topology.topology())
    publisher = Publisher()
    publishing.join(publisher)

    fallback, replier = FallbackQueue(publisher, clock, settings.routes), Replier()
    runs = Runs(fallback, Schedule(settings.digest_cron, settings.digest_timezone), clock)
    asked = Intake(topology.MAILER_COMMANDS, asked_decoder(AskDigest), publisher, prefetch=COMMANDS_AT_A_TIME)
    commands = Commands(runs, fallback, replier, Readers(settings.digest_to, settings.routes))

    server = SmtpServer.from_url(settings.smtp_url.get_secret_value())
    letterhead = Letterhead(settings.digest_from, settings.digest_to, settings.public_url)
    outbox = Outbox(server.send, publisher, letterhead, settings.routes)
    pages = Intake(topology.MAILER_OUTBOX, decoder(DigestPage), publisher, prefetch=MAILS_AT_A_TIME)
    consuming.join(fallback)
    consuming.join(pages)
    consuming.join(replier)
    consuming.join(asked)

    async with AsyncExitStack() as opened:  # closed last-in first-out, after the drain
        await opened.enter_async_context(publishing)
        await opened.enter_async_context(consuming)
        workers: list[Worker] = [
            AdminServer(
                settings.admin_host,
                settings.admin_port,
                ready={"publishing": publishing.ping, "consuming": consuming.ping},
            ),
            publishing,
            consuming,
            runs,
            Heartbeat("mailer", settings.replica, publisher, clock, VITALS),
            ItemConsumer(pages, outbox.handle, asyncio.Semaphore(MAILS_AT_A_TIME)),
            ItemConsumer(asked, commands.handle, asyncio.Semaphore(COMMANDS_AT_A_TIME)),
        ]
        await run_until_stopped(workers, drain_s=settings.drain_s)


if __name__ == "__main__":
    run(main)
