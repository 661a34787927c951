"""`make demo`: start the stack, schedule ten tasks, watch them being called, wait for the mail that tells of one."""

import asyncio
import os
import sys
from email import message_from_bytes, policy
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.live import Live

from deploy.demo.receiver import Receiver
from deploy.demo.script import Line, lines, refresh, schedule
from deploy.demo.table import lateness_ms, percentile, table
from deploy.local.__main__ import main as local_stack
from deploy.local.private import read_env_file

STACK = Path(".local")
DEADLINE_S = 90.0
REFRESH_S = 0.25
# Every five seconds instead of daily at 08:00, so that the mail is worth waiting for.
DIGEST_CRON = "*/5 * * * * *"

console = Console()


def main() -> int:
    os.environ.setdefault("CARILLON_DIGEST_CRON", DIGEST_CRON)
    if code := local_stack(["up", "--dir", str(STACK)]):
        return code
    return asyncio.run(demo(read_env_file(STACK / "env")))


async def demo(stack: dict[str, str]) -> int:
    receiver, rows = Receiver(), lines()
    authorization = {"Authorization": f"Bearer {stack['CARILLON_API_KEY']}"}
    async with (
        receiver.listening() as receiver_url,
        aiohttp.ClientSession(stack["CARILLON_URL"], headers=authorization) as session,
    ):
        for row in rows:
            await schedule(session, row, receiver_url)
        mail = await watch(session, rows, receiver)
    return report(rows, receiver, mail)


async def watch(session: aiohttp.ClientSession, rows: list[Line], receiver: Receiver) -> str | None:
    """Draw until every task has ended and the mail is here; gives the mail's subject."""
    broken = next(row for row in rows if row.should_end == "failed")
    mail = None
    with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:
        async with asyncio.timeout(DEADLINE_S) as limit:
            while not (all(row.has_ended for row in rows) and mail):
                await asyncio.gather(*(refresh(session, row) for row in rows if not row.has_ended))
                mail = mail or mail_about(broken.task_id)
                live.update(table(rows, receiver.calls, mail), refresh=console.is_terminal)
                if asyncio.get_running_loop().time() > (limit.when() or 0) - 2 * REFRESH_S:
                    break
                await asyncio.sleep(REFRESH_S)
    return mail


def mail_about(task_id: str) -> str | None:
    """The subject of the digest that tells of `task_id`."""
    for path in sorted((STACK / "mail").glob("*.eml")):
        message = message_from_bytes(path.read_bytes(), policy=policy.default)
        body = message.get_body(("plain",))
        if body is not None and task_id in body.get_content():
            return str(message["Subject"])
    return None


def report(rows: list[Line], receiver: Receiver, mail: str | None) -> int:
    if not console.is_terminal:
        console.print(table(rows, receiver.calls, mail))
    wrong = [
        f"{row.name}: {row.task.get('status', 'unknown')} after {len(receiver.calls[row.name])} calls,"
        f" should be {row.should_end} after {row.should_call}"
        for row in rows
        if row.task.get("status") != row.should_end or len(receiver.calls[row.name]) != row.should_call
    ]
    late = [ms for row in rows if (ms := lateness_ms(row, receiver.calls[row.name])) is not None]
    wrong += [f"a task was called {-ms:.0f} ms early" for ms in late if ms < 0]
    if mail is None:
        wrong.append("the digest mail did not arrive")
    if late:
        console.print(
            f"lateness p50 {percentile(late, 0.5):.0f} ms, p99 {percentile(late, 0.99):.0f} ms, {len(late)} tasks"
        )
    for line in wrong:
        console.print(f"[red]{line}[/]")
    if not wrong:
        console.print("all ended as they should; the stack goes on, `make down` ends it", soft_wrap=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
