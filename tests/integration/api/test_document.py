"""The served document against the served application: schemathesis asks everything that the document allows, and
everything that it forbids."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.openapi import FILE, endpoints
from tests.conftest import ROOT
from tests.integration.api.served import Served

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "20"))
CONFIG = Path(__file__).parent / "schemathesis.toml"
PROJECT = "schemathesis"


def test_the_served_document_is_the_one_in_docs(served: Served) -> None:
    """So the file has every door that is wired, and none that is not."""
    answer = served.ask("GET", "/openapi.json")
    assert answer.status == 200
    assert answer.json == json.loads(FILE.read_text())


@pytest.mark.timeout(420)
def test_schemathesis_finds_no_undocumented_answer(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    key = served.key(PROJECT)
    environ = {
        **os.environ,
        "CLOSED_PORT": str(served.closed_port),
        "TASK_IDS": " ".join(_tasks(served, key)),
        "KEY_IDS": " ".join(served.new_key(PROJECT)[1] for _ in range(3)),
        "PARKED_IDS": " ".join(served.park(PROJECT, f"parked-{number}") for number in range(9)),
        "SCHEDULES": _schedule(served, key),
    }
    program = str(Path(sys.executable).parent / "schemathesis")
    command = [
        program, "--config-file", str(CONFIG), "run", f"{served.url}/openapi.json",
        "--header", f"Authorization: Bearer {key}", "--max-examples", str(EXAMPLES),
        # With two, hypothesis' callback of the collector lets one thread into the other's `ast.parse`, and Python 3.11
        # raises "SystemError: AST constructor recursion depth mismatch".
        "--workers", "1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    with capfd.disabled():
        print(f"\n{_summary(done.stdout)}")
    crashes = [line for line in served.log().splitlines() if "request.crashed" in line]
    assert not crashes, "\n".join(crashes)
    assert done.returncode == 0, done.stdout + done.stderr
    selected = re.search(r"Operations:\s+(\d+) selected / (\d+) total", done.stdout)
    assert selected is not None, done.stdout
    assert selected[1] == selected[2] == str(len(endpoints()))


def _tasks(served: Served, key: str) -> list[str]:
    """Far off, and called already."""
    due = (datetime.now(UTC) + timedelta(days=30), datetime.now(UTC))  # 9 of each
    url = f"http://127.0.0.1:{served.closed_port}/"
    bodies = [{"url": url, "due_at": each.isoformat(), "retry": {"schedule_s": []}} for each in due for _ in range(9)]
    return [served.ask("POST", "/v1/tasks", key=key, body=body).json["id"] for body in bodies]


def _schedule(served: Served, key: str) -> str:
    body = {"cron": "0 0 1 1 *", "task": {"url": f"http://127.0.0.1:{served.closed_port}/"}}
    assert served.ask("PUT", "/v1/schedules/yearly", key=key, body=body).status == 201
    return "yearly"


def _summary(output: str) -> str:
    return output[output.rfind("SUMMARY") - 40 :]
