"""The docker command: what it printed, or an error that holds what it printed."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 300.0


class CommandFailed(Exception):
    """A command that should have worked did not. Its text ends with what the command printed."""


def run(*command: str, timeout_s: float = TIMEOUT_S, env: Mapping[str, str] | None = None) -> str:
    """The command's standard output. Raises: CommandFailed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s, env=env)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{' '.join(command)}: not within {timeout_s:g} s") from error
    except FileNotFoundError as error:
        raise CommandFailed(str(error)) from error
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def docker(*words: str, timeout_s: float = TIMEOUT_S) -> str:
    return run("docker", *words, timeout_s=timeout_s)


def inspect(*ids: str) -> list[dict[str, Any]]:
    """What the engine knows of these containers."""
    found: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
    return found


def works(*words: str) -> bool:
    try:
        docker(*words, timeout_s=30)
    except CommandFailed:
        return False
    return True
