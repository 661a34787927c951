"""The mail catcher keeps what it has said 250 to."""

import asyncio
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
from aiosmtpd.smtp import SMTP

from deploy.local.smtp import Catcher


async def test_a_mail_is_a_complete_file_when_the_sender_hears_250(tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@b.local", "c@d.local", "Übersicht"
    mail.set_content("Grüße\n" * 1000)
    catcher = Catcher(tmp_path)
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(catcher, enable_SMTPUTF8=True), "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    try:
        await asyncio.gather(*(aiosmtplib.send(mail, hostname="127.0.0.1", port=port) for _ in range(3)))
        kept = list(tmp_path.iterdir())  # noqa: ASYNC240  a test may wait for a disk
        assert [file.suffix for file in kept] == [".eml"] * 3
        assert {file.read_bytes() for file in kept} == {bytes(mail).replace(b"\n", b"\r\n")}
    finally:
        server.close()
