"""The peers' own environment under .local/peers: pinned packages of PyPI and npm, none of them the services'.

requirements.lock is made in adapters/ of requirements.in, package-lock.json of package.json:

    uv pip compile --universal --python-version 3.11 --generate-hashes --no-header requirements.in -o requirements.lock
    npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

SOURCE = Path(__file__).resolve().parent / "adapters"
PYTHON_LOCK, NODE_MANIFEST, NODE_LOCK = "requirements.lock", "package.json", "package-lock.json"
_PIN = re.compile(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+)", re.MULTILINE)


class _Manifest(msgspec.Struct):
    dependencies: dict[str, str]


class InstallError(Exception):
    """pip or npm did not do it; what they said."""


@dataclass(frozen=True)
class Environment:
    """`bin` holds python, node and every command of the packages; `adapters` the files of adapters/."""

    bin: Path
    adapters: Path
    versions: Mapping[str, str]

    @property
    def path(self) -> str:
        return f"{self.bin}{os.pathsep}{os.environ.get('PATH', '')}"


def installed(folder: Path) -> Environment:
    """Raises: InstallError. Takes half a minute the first time, and nothing while the locks are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = Environment(folder / "env" / "bin", folder / "adapters", versions())
    if _stamp(folder).exists() and _stamp(folder).read_text() == _fingerprint():
        _copy_adapters(environment)
        return environment
    _stamp(folder).unlink(missing_ok=True)
    _install(folder, environment)
    _copy_adapters(environment)
    _stamp(folder).write_text(_fingerprint())
    return environment


def versions() -> dict[str, str]:
    """Of every package that is asked for by name, as pinned."""
    node = msgspec.json.decode((SOURCE / NODE_MANIFEST).read_bytes(), type=_Manifest)
    return dict(_PIN.findall((SOURCE / "requirements.in").read_text())) | node.dependencies


def _install(folder: Path, environment: Environment) -> None:
    _run([sys.executable, "-m", "venv", "--clear", str(folder / "env")], folder, environment)
    python = [str(environment.bin / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*python, "--require-hashes", "--requirement", str(SOURCE / PYTHON_LOCK)], folder, environment)
    for name in (NODE_MANIFEST, NODE_LOCK):
        shutil.copy(SOURCE / name, folder / name)
    _run([str(environment.bin / "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder, environment)


def _copy_adapters(environment: Environment) -> None:
    """Beside node_modules: that is where an import is looked for."""
    shutil.rmtree(environment.adapters, ignore_errors=True)
    shutil.copytree(SOURCE, environment.adapters, ignore=shutil.ignore_patterns("__pycache__"))


def _run(command: list[str], folder: Path, environment: Environment) -> None:
    done = subprocess.run(  # noqa: S603  our own words
        command, cwd=folder, env=os.environ | {"PATH": environment.path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InstallError(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-3000:]}")


def _stamp(folder: Path) -> Path:
    return folder / "installed"


def _fingerprint() -> str:
    locks = b"".join((SOURCE / name).read_bytes() for name in (PYTHON_LOCK, NODE_LOCK))
    return hashlib.sha256(locks + sys.version.encode()).hexdigest()
