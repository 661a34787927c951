"""The receivers of docs/receivers.md, run as they stand there and called with what the dispatcher signs.

Python always; the others where their interpreter, compiler or library is (NODE_PATH names a folder with the latter).
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import pytest

from libs.common.contracts import Task
from libs.common.signing import secret, whsec
from services.dispatcher.signature import Signer, Versions
from tests.conftest import ROOT
from tests.unit.dispatcher.samples import MASTER_KEY, SIGNER, a_task

PAGE = (ROOT / "docs" / "receivers.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
UP_WITHIN_S = 20
BUILT_WITHIN_S = 90
"""A first build compiles the standard library too."""
BODY = '{"order": 42, "for": "Zo\u00eb \u2603"}'.encode()
BINARY = bytes(range(256))


class Receiver(NamedTuple):
    port: int
    takes_any_bytes: bool

    def post(self, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/hook", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def of_python(_folder: Path) -> str:
    [receiver, _] = blocks("python")
    return receiver


def of_python_with_the_library(_folder: Path) -> str:
    receiver, library = blocks("python")
    program, guard, start = receiver.partition('if __name__ == "__main__":')
    return program + library + guard + start


def of_javascript(_folder: Path) -> str:
    [receiver, _] = blocks("javascript")
    return receiver


def of_javascript_with_the_library(_folder: Path) -> str:
    node = found("node")
    if subprocess.run([node, "-e", 'require("standardwebhooks")'], capture_output=True, check=False).returncode:
        pytest.skip("Node.js finds no standardwebhooks; npm install it and name its folder in NODE_PATH")
    return "".join(blocks("javascript"))  # of two functions with one name the last one counts


def of_go(_folder: Path) -> str:
    [receiver] = blocks("go")
    return receiver


def python(file: Path) -> list[str]:
    return [sys.executable, str(file)]


def node(file: Path) -> list[str]:
    return [found("node"), str(file)]


def go(file: Path) -> list[str]:
    program = file.with_suffix("")
    own = {"GOCACHE": os.environ.get("GOCACHE", str(file.parent / "cache")), "GO111MODULE": "off", "CGO_ENABLED": "0"}
    command = [found("go"), "build", "-o", str(program), str(file)]
    subprocess.run(command, env=os.environ | own, timeout=BUILT_WITHIN_S, check=True)
    return [str(program)]


def found(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"no {name} here")


VARIANTS: dict[str, tuple[Callable[[Path], str], str, Callable[[Path], list[str]]]] = {
    "python": (of_python, "receiver.py", python),
    "python-library": (of_python_with_the_library, "receiver.py", python),
    "javascript": (of_javascript, "receiver.js", node),
    "javascript-library": (of_javascript_with_the_library, "receiver.js", node),
    "go": (of_go, "receiver.go", go),
}


@pytest.fixture(scope="module", params=VARIANTS)
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """It holds two secrets, ours being the second."""
    program, name, command = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    file = folder / name
    file.write_text(program(folder))
    port = free_port()
    held = f"{whsec(b'another secret, of another sender')} {whsec(secret(MASTER_KEY, 'shop', 1))}"
    environ = os.environ | {"PORT": str(port), "CARILLON_SECRETS": held}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command(file), env=environ, cwd=folder, stdout=log, stderr=log)
    try:
        answers(port, process, folder / "log")
        yield Receiver(port, "library" not in request.param)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"nobody listens: {log.read_text()}"
            time.sleep(0.02)


def signed(
    body: bytes = BODY, *, ago_s: float = 0, signer: Signer = SIGNER, task: Task | None = None
) -> dict[str, str]:
    return dict(signer.headers(task or a_task(), body, datetime.now(UTC) - timedelta(seconds=ago_s)))


def test_the_page_has_a_receiver_in_each_language() -> None:
    assert {language: len(blocks(language)) for language in ("python", "javascript", "go")} == {
        "python": 2, "javascript": 2, "go": 1,
    }  # fmt: skip


@pytest.mark.parametrize("body", [BODY, b"", b"no JSON\r\n"])
def test_a_call_of_ours_is_taken(receiver: Receiver, body: bytes) -> None:
    assert receiver.post(signed(body), body) == (200, "handled")


def test_any_bytes_are_taken_where_the_page_says_so(receiver: Receiver) -> None:
    status, _said = receiver.post(signed(BINARY), BINARY)
    assert status == (200 if receiver.takes_any_bytes else 401)


def test_the_second_call_with_an_id_is_not_handled_again(receiver: Receiver) -> None:
    task = a_task()
    assert receiver.post(signed(task=task, ago_s=60), BODY) == (200, "handled")
    assert receiver.post(signed(task=task), BODY) == (200, "seen before")


def test_an_id_whose_call_was_refused_is_still_handled(receiver: Receiver) -> None:
    task = a_task()
    assert receiver.post(signed(task=task), b"forged")[0] == 401
    assert receiver.post(signed(task=task), BODY) == (200, "handled")


def test_during_a_rotation_a_receiver_with_the_old_secret_takes_the_call(receiver: Receiver) -> None:
    overlapping = Signer(MASTER_KEY, lambda _project: Versions(2, datetime.now(UTC) + timedelta(hours=1)))
    assert receiver.post(signed(signer=overlapping), BODY) == (200, "handled")
    over = Signer(MASTER_KEY, lambda _project: Versions(2))
    assert receiver.post(signed(signer=over), BODY)[0] == 401


@pytest.mark.parametrize("ago_s", [310, -310])
def test_a_call_is_refused_when_it_was_signed_too_far_from_now(receiver: Receiver, ago_s: int) -> None:
    assert receiver.post(signed(ago_s=ago_s), BODY)[0] == 401
    assert receiver.post(signed(ago_s=ago_s * 0.9), BODY)[0] == 200


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_call_is_refused_without_one_of_the_headers(receiver: Receiver, name: str) -> None:
    rest = {key: value for key, value in signed().items() if key != name}
    assert receiver.post(rest, BODY)[0] == 401


@pytest.mark.parametrize("wrong", ["", "v1", "v1,", "v1,AAAA", "v1,?", "v2,{}", "{},", "garbage", "v1,x{}"])
def test_a_call_is_refused_with_another_signature(receiver: Receiver, wrong: str) -> None:
    headers = signed()
    right = headers["webhook-signature"].removeprefix("v1,")
    assert receiver.post(headers | {"webhook-signature": wrong.format(right)}, BODY)[0] == 401


def test_one_right_signature_among_others_is_enough(receiver: Receiver) -> None:
    headers = signed()
    among = f"v1a,AAAA v1,AAAA {headers['webhook-signature']} v2,AAAA"
    assert receiver.post(headers | {"webhook-signature": among}, BODY) == (200, "handled")


@pytest.mark.parametrize("timestamp", ["", "soon", "-1", "9" * 30])
def test_a_call_is_refused_with_a_timestamp_that_is_none(receiver: Receiver, timestamp: str) -> None:
    assert receiver.post(signed() | {"webhook-timestamp": timestamp}, BODY)[0] == 401


def test_a_call_is_refused_with_another_body_or_id_than_was_signed(receiver: Receiver) -> None:
    assert receiver.post(signed(), BODY + b" ")[0] == 401
    assert receiver.post(signed() | {"webhook-id": str(a_task().id)}, BODY)[0] == 401


def test_a_call_is_refused_when_somebody_else_signed_it(receiver: Receiver) -> None:
    assert receiver.post(signed(signer=Signer("another-master-key-0123456789-abcdef")), BODY)[0] == 401
    assert receiver.post(signed(task=a_task(project="another")), BODY)[0] == 401
