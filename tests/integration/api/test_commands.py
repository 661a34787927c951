"""The shell commands that README and /docs show, run as they stand."""

import html
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.api.served import Served

BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
PROJECT = "reader"


@pytest.fixture
def shell(served: Served, tmp_path: Path) -> "Shell":
    return Shell(served, tmp_path)


class Shell:
    """Where localhost:8080 is the served port: curl's own configuration says so, the commands stay untouched."""

    def __init__(self, served: Served, home: Path) -> None:
        host_and_port = served.url.removeprefix("http://")
        (home / ".curlrc").write_text(f'connect-to = "localhost:8080:{host_and_port}"\nshow-error\nsilent\n')
        self._environ = {
            "PATH": "/usr/bin:/bin",
            "CURL_HOME": str(home),
            "HOME": str(home),
            "CARILLON_URL": served.url,
            "CARILLON_API_KEY": served.key(PROJECT),
        }

    def run(self, command: str) -> str:
        done = subprocess.run(["bash", "-ec", command], env=self._environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_the_first_command_of_the_readme_schedules_a_task(shell: Shell) -> None:
    assert "curl -X POST localhost:8080/v1/tasks" in BLOCKS[0]
    task = json.loads(shell.run(BLOCKS[0]))
    assert task["status"] == "scheduled"
    assert task["body"] == {"order": 42}


def test_the_readmes_commands_schedule_look_and_see_every_attempt(shell: Shell) -> None:
    [block] = [block for block in BLOCKS if "Idempotency-Key" in block]
    schedule, rest = block.split("curl -s $CARILLON_URL/v1/tasks/<id> ", 1)
    task = json.loads(shell.run(schedule))
    look, attempts = (f"curl -s $CARILLON_URL/v1/tasks/<id> {rest}").replace("<id>", task["id"]).splitlines()
    assert json.loads(shell.run(look))["id"] == task["id"]
    assert json.loads(shell.run(attempts))["data"] == []


def test_every_command_of_the_docs_page_is_understood(served: Served, shell: Shell) -> None:
    page = served.ask("GET", "/docs").body.decode()
    commands = [html.unescape(each) for each in re.findall(r'<pre class="curl">(.*?)</pre>', page, re.DOTALL)]
    document = served.ask("GET", "/openapi.json").json
    assert len(commands) == sum(map(len, document["paths"].values()))
    for command in commands:
        status = shell.run(_filled_in(command) + " -o /dev/null -w '%{http_code}'")
        # A digest is for everybody, so only the operator's project sends it.
        assert status in ({"403"} if "/v1/digest/send" in command else {"200", "201", "202", "204", "404"}), command


def _filled_in(command: str) -> str:
    """An id that is not there; a failed look-up says that everything else was right."""
    unknown = "0199c0de-1111-7222-8333-444455556666"
    return command.replace("<id>", unknown).replace("<name>", "nightly").replace("<host>", "example.com")
