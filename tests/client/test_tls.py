"""Carillon behind TLS, with a certificate of a private authority."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from carillon import Client, UnexpectedAnswer

from tests.client.conftest import KEY, TASK, Answer, Server, Time
from tests.conftest import ROOT


@pytest.fixture
async def tls_url(server: Server, tmp_path: Path) -> AsyncIterator[str]:
    """The same answers; tmp_path/ca.pem is who vouches for it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_who_cannot_prove_who_it_is_gets_no_key_and_no_repeat(server: Server, tls_url: str, time: Time) -> None:
    async with Client(tls_url, KEY) as client:
        with pytest.raises(UnexpectedAnswer, match=r"does not prove who it is: .*certificate"):
            await client.tasks.get("x")
    assert (server.seen, time.slept) == ([], [])


async def test_a_private_authority_is_named_by_the_environment(server: Server, tls_url: str, tmp_path: Path) -> None:
    server.will(Answer(200, TASK))
    own = {"CARILLON_URL": tls_url, "CARILLON_KEY": KEY, "PYTHONPATH": str(ROOT / "client")}
    environ = {**os.environ, **own, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    words = (sys.executable, "-m", "carillon", "task", "get", "x")
    done = await asyncio.to_thread(subprocess.run, words, env=environ, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
