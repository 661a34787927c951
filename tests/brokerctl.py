"""rabbitmqctl for the broker of a local stack, which is on nobody's PATH and has a port mapper of its own."""

import os
from pathlib import Path

from deploy.local.layout import PROJECT


def in_stack(stack: Path) -> tuple[list[str], dict[str, str]]:
    """The command and the environment it needs, for the broker that runs in this stack's folder."""
    process = Path(f"/proc/{broker_pid(stack)}/environ")
    environ = dict(pair.split("=", 1) for pair in process.read_text().split("\0") if "=" in pair)
    scripts = (folder / "rabbitmqctl" for folder in _script_folders(environ))
    return [str(next(script for script in scripts if script.exists()))], environ


def broker_pid(stack: Path) -> int:
    return int((stack / "pids" / "rabbitmq").read_text())


def _script_folders(environ: dict[str, str]) -> list[Path]:
    unpacked = sorted((PROJECT / ".local" / "rabbitmq").glob("**/rabbitmq_server-*/sbin"))
    installed = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))
    return [*unpacked, *installed, *(Path(folder) for folder in environ.get("PATH", "").split(os.pathsep))]
