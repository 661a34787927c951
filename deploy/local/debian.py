"""RabbitMQ, or one program, out of Debian's or Ubuntu's packages, unpacked into a cache: no root, nothing installed.

apt works on private lists and a private cache; Erlang's start script is told its new place by a variable, so that
the cache survives being moved with the project.
"""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.layout import broker_cache

ERLANG_ROOT = "ERLANG_ROOT"
"""Environment variable that an unpacked Erlang finds itself by."""
WITHOUT_EXTRAS = "--no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances"
TOOLS = ("apt-get", "apt-cache", "dpkg-deb")


def unpacked(say: Callable[[str], None]) -> Path | None:
    """The root folder of the unpacked packages, fetched at first use; None where packages are not Debian's."""
    if (system := _system()) is None:
        return None
    cache = broker_cache(system)
    if not cache.exists():
        say(f"RabbitMQ is not installed: unpacking the system's packages into {cache} (35 MB, once)")
        try:
            _fetch_into(cache, _rabbitmq, _make_movable)
        except StackError as error:
            raise StackError(
                f"could not get RabbitMQ from the system's packages: {error}\n"
                "Install rabbitmq-server yourself, set CARILLON_AMQP_URL, or use Docker (docker compose up --build)"
            ) from error
    return cache


def unpacked_alone(package: str, folder: Path) -> Path | None:
    """The same for one package without its dependencies, unpacked below `folder`. Raises: StackError."""
    if (system := _system()) is None:
        return None
    cache = folder / system
    if not cache.exists():
        _fetch_into(cache, lambda _work, _private: [package], lambda _root: None)
    return cache


def unpacked_with_libraries(package: str, also: tuple[str, ...], folder: Path) -> Path | None:
    """The same for a package, `also` without what they depend on, and its libraries. Raises: StackError."""
    if (system := _system()) is None:
        return None
    cache = folder / system
    if not cache.exists():
        _fetch_into(cache, partial(_libraries_of, package, also), lambda _root: None)
    return cache


def _system() -> str | None:
    """Like debian-12-x86_64; None where packages are not Debian's."""
    release = platform.freedesktop_os_release()
    kin = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    if not kin & {"debian", "ubuntu"} or not all(map(shutil.which, TOOLS)):
        return None
    return f"{release['ID']}-{release.get('VERSION_ID', 'sid')}-{platform.machine()}"


def _fetch_into(
    cache: Path, packages_of: Callable[[Path, tuple[str, ...]], list[str]], finish: Callable[[Path], None]
) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Beside the cache: the rename that completes it must not cross file systems.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache.parent) as folder:
        work, root = Path(folder), Path(folder) / "root"
        for package in _download(work, packages_of):
            _run(work, "dpkg-deb", "-x", str(package), str(root))
        finish(root)
        root.chmod(0o755)
        try:
            root.rename(cache)
        except OSError:
            if not cache.exists():  # else another `up` was faster, with the same content
                raise


def _download(work: Path, packages_of: Callable[[Path, tuple[str, ...]], list[str]]) -> list[Path]:
    packages = work / "packages"
    for folder in (work / "lists" / "partial", work / "cache" / "archives" / "partial", packages):
        folder.mkdir(parents=True)
    private = (
        *("-o", f"Dir::State::Lists={work / 'lists'}", "-o", f"Dir::Cache={work / 'cache'}"),
        *("-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=2"),
    )
    with contextlib.suppress(StackError):  # one dead source among many; what we need may be there all the same
        _run(work, "apt-get", *private, "update")
    _run(packages, "apt-get", *private, "download", *packages_of(work, private))
    return sorted(packages.glob("*.deb"))


def _rabbitmq(work: Path, private: tuple[str, ...]) -> list[str]:
    """The package, and Erlang's that it depends on."""
    tree = _run(work, "apt-cache", *private, "depends", "--recurse", *WITHOUT_EXTRAS.split(), "rabbitmq-server")
    return ["rabbitmq-server", *sorted(set(re.findall(r"^erlang-[a-z0-9-]+$", tree, re.MULTILINE)))]


def _libraries_of(package: str, also: tuple[str, ...], work: Path, private: tuple[str, ...]) -> list[str]:
    (work / "nothing").touch()
    # As if nothing were installed: the answer, and so the cache, is the same on every machine of this system.
    bare = (*private, "-o", f"Dir::State::status={work / 'nothing'}", "--simulate", "--no-install-recommends")

    def installs(*names: str) -> set[str]:
        return set(re.findall(r"^Inst (\S+)", _run(work, "apt-get", *bare, "install", *names), re.MULTILINE))

    told = _run(work, "apt-cache", *private, "depends", *WITHOUT_EXTRAS.split(), package)
    libraries = re.findall(r"^  Depends: (lib\S+)$", told, re.MULTILINE)
    # What apt stands on is installed, and must not be there twice: one C library for all.
    return [package, *also, *sorted(installs(*libraries) - installs("apt"))]


def _make_movable(root: Path) -> None:
    scripts = [*root.glob("usr/lib/erlang/bin/erl"), *root.glob("usr/lib/erlang/erts-*/bin/erl")]
    if len(scripts) < 2:
        raise StackError("the Erlang packages hold no start scripts where Debian's do: use Docker")
    for script in scripts:
        text = script.read_text()
        script.write_text(text.replace("ROOTDIR=/usr/lib/erlang\n", f'ROOTDIR="${ERLANG_ROOT}"\n'))


def _run(cwd: Path, *command: str) -> str:
    done = subprocess.run(  # noqa: S603  our own words
        command,
        cwd=cwd,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise StackError(f"{command[0]} failed:\n{_tail(done.stdout)}")
    return done.stdout


def _tail(text: str, lines: int = 8) -> str:
    return "\n".join(text.splitlines()[-lines:])
