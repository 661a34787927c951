"""The probe asks the admin port of its own container, and needs nothing but the standard library for it."""

import asyncio
import subprocess
import sys

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from libs.common import probe
from libs.common.ports import ADMIN_PORTS
from libs.common.settings import CommonSettings
from services.dispatcher.settings import DispatcherSettings
from services.ingest.settings import IngestSettings
from services.mailer.settings import MailerSettings
from services.scheduler.settings import SchedulerSettings
from tests.conftest import ROOT


async def answering(aiohttp_server: AiohttpServer, status: int, text: str) -> dict[str, str]:
    """The environment of a container whose admin port answers /readyz so."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_get("/readyz", answer)
    server = await aiohttp_server(app)
    return {"CARILLON_ADMIN_PORT": str(server.port)}


async def ask(environ: dict[str, str], path: str = "/readyz") -> str | None:
    return await asyncio.to_thread(probe.reason_against, path, environ)


async def test_a_ready_service_is_healthy(aiohttp_server: AiohttpServer) -> None:
    assert await ask(await answering(aiohttp_server, 200, "ok")) is None


async def test_an_unready_service_says_why_in_one_line(aiohttp_server: AiohttpServer) -> None:
    reason = await ask(await answering(aiohttp_server, 503, '{"postgres":\n "no answer"}'))
    assert reason is not None
    assert "503" in reason
    assert '{"postgres": "no answer"}' in reason


async def test_an_unknown_path_is_unhealthy(aiohttp_server: AiohttpServer) -> None:
    reason = await ask(await answering(aiohttp_server, 200, "ok"), "/nope")
    assert reason is not None
    assert "404" in reason


async def test_a_port_that_nobody_listens_on_is_unhealthy(unused_tcp_port: int) -> None:
    reason = await ask({"CARILLON_ADMIN_PORT": str(unused_tcp_port)})
    assert reason is not None
    assert "refused" in reason


async def test_a_service_that_accepts_and_says_nothing_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(probe, "TIMEOUT_S", 0.1)
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        async with asyncio.timeout(2):
            reason = await ask({"CARILLON_ADMIN_PORT": str(server.sockets[0].getsockname()[1])})
    assert reason is not None
    assert "timed out" in reason


async def test_a_service_that_hangs_up_is_unhealthy() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(rude, "127.0.0.1", 0) as server:
        reason = await ask({"CARILLON_ADMIN_PORT": str(server.sockets[0].getsockname()[1])})
    assert reason is not None
    assert "no answer" in reason


async def test_without_a_port_it_says_what_to_set() -> None:
    reason = await ask({})
    assert reason is not None
    assert "CARILLON_ADMIN_PORT" in reason


def test_the_image_need_only_name_the_service() -> None:
    of_settings: dict[str, type[CommonSettings]] = {
        "ingest": IngestSettings,
        "scheduler": SchedulerSettings,
        "dispatcher": DispatcherSettings,
        "mailer": MailerSettings,
    }
    assert {name: kind.model_fields["admin_port"].default for name, kind in of_settings.items()} == ADMIN_PORTS
    reason = probe.reason_against("/", {"SERVICE": "mailer", "CARILLON_ADMIN_HOST": "127.0.0.257"})
    assert reason is not None
    assert reason.startswith(f"127.0.0.257:{ADMIN_PORTS['mailer']}")


async def test_as_a_program_its_exit_code_tells(aiohttp_server: AiohttpServer) -> None:
    for status, code in ((200, 0), (503, 1)):
        environ = await answering(aiohttp_server, status, "so it is")
        command = (sys.executable, "-m", "libs.common.probe", "/readyz")
        process = await asyncio.create_subprocess_exec(*command, env=environ, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
        assert process.returncode == code
        assert (b"so it is" in said) == (status == 503)


def test_it_imports_nothing_but_the_standard_library() -> None:
    show = "import sys, libs.common.probe; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", show], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(loaded) - sys.stdlib_module_names <= {"libs", "__main__"}
