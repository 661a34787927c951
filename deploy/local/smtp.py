"""A mail server that sends nothing on: each mail becomes a file. Started by the supervisor.

The sender hears 250 only when the file is complete on disk, as a real server would have it.
"""

import argparse
import asyncio
import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.local.layout import LOOPBACK


class Catcher:
    """Keeps mails in a folder as `<utc time>-<n>.eml`, byte for byte."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        content = envelope.content or b""
        await asyncio.to_thread(self.keep, content if isinstance(content, bytes) else content.encode())
        return "250 kept"

    def keep(self, content: bytes) -> Path:
        """Returns the file, complete and on disk."""
        arrived_at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self._folder / f"{arrived_at}-{next(self._numbers)}.eml"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        return path


async def serve(folder: Path, port: int) -> None:
    """Catch mail into a folder that exists, until cancelled."""
    loop, catcher = asyncio.get_running_loop(), Catcher(folder)
    server = await loop.create_server(lambda: SMTP(catcher, enable_SMTPUTF8=True, loop=loop), LOOPBACK, port)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="deploy.local.smtp", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.folder, options.port))


if __name__ == "__main__":
    main()
