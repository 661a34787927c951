"""The demo among containers: schedule its ten tasks by the API, print each change of state, end when all have ended.

Exit code 0 when each ended as it should. `make demo` is the one with a table, a stack of its own and the mail.
"""

import asyncio
import os
import sys
from pathlib import Path

import aiohttp

from deploy.demo.script import Line, lines, refresh, schedule

KEY_FILE = Path("/run/secrets/carillon_bootstrap_key")
DEADLINE_S = 90.0
REFRESH_S = 0.25


async def main(key: str) -> int:
    rows = lines()
    async with aiohttp.ClientSession(os.environ["CARILLON_URL"], headers={"Authorization": f"Bearer {key}"}) as session:
        for row in rows:
            await schedule(session, row, os.environ["RECEIVER_URL"])
        async with asyncio.timeout(DEADLINE_S):
            while not all(row.has_ended for row in rows):
                await asyncio.gather(*(look(session, row) for row in rows if not row.has_ended))
                await asyncio.sleep(REFRESH_S)
    wrong = [row for row in rows if row.task["status"] != row.should_end]
    for row in wrong:
        print(f"{row.name} should have {row.should_end}", file=sys.stderr)
    return 1 if wrong else 0


async def look(session: aiohttp.ClientSession, row: Line) -> None:
    before = row.task.get("status")
    await refresh(session, row)
    if row.task.get("status") != before:
        print(f"{row.name:8} {row.what:28} due {row.task['due_at']}  {row.task['status']}", flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(os.environ.get("CARILLON_API_KEY") or KEY_FILE.read_text())))
