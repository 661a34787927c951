"""Makes the passwords of an installation, and the files and Secrets that carry them to who needs them.

    python3 deploy/secrets.py compose DIR              DIR/<consumer>/<file>, what a container mounts at /run/secrets
    python3 deploy/secrets.py kubernetes > FILE        a Secret per consumer

A password is made once and never changed (DIR/passwords.json); the files follow from the passwords, so that a release
may give a RabbitMQ user other rights. Needs the standard library only: whoever deploys has no virtual environment.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

if __name__ == "__main__":  # the folder of this file would hide the standard library's `secrets`
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from libs.common import topology
from libs.common.topology import Queue

SERVICES = ("ingest", "scheduler", "dispatcher", "mailer")
USERS = ("setup", *SERVICES, "operator")
"""Of RabbitMQ; `operator` is a person, for the management pages."""
VHOST = "carillon"
DATABASE = "carillon"

PUBLISHES: Mapping[str, tuple[topology.Route, ...]] = {
    "ingest": (
        topology.CREATE,
        topology.FALLBACK_ENTRY,
        topology.SCHEDULER_COMMAND,
        topology.DISPATCHER_COMMAND,
        topology.MAILER_COMMAND,
        topology.REPLICA_SEEN,
    ),
    "scheduler": (topology.DUE, topology.TASK_EVENT, topology.REPLICA_SEEN),
    "dispatcher": (
        topology.ATTEMPT_EVENT,
        topology.TASK_EVENT,
        topology.FALLBACK_ENTRY,
        topology.TARGET_EVENT,
        topology.RETURN,
        topology.CREATE,  # of callbacks
        topology.URGENT_NOTICE,
        topology.rung(0),
        topology.REPLICA_SEEN,
    ),
    "mailer": (topology.DIGEST_PAGE, topology.DIGEST_MEMORY, topology.mailer_rung(0), topology.REPLICA_SEEN),
}
"""Besides what every consumer does with its own queue: publish an item again, or park it."""

ALSO_CONSUMES = {"ingest": (topology.PARKING,), "mailer": (topology.FALLBACK,)}
"""Besides the queues that bear the service's name."""

REPLIES = ("scheduler", "dispatcher", "mailer")
"""Who answers commands: by the default exchange, whose rights RabbitMQ asks for under the name amq.default."""

Files = dict[str, dict[str, str]]


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    hosts = (options.rabbitmq, options.postgres, options.redis)
    if options.target == "compose":
        write(options.folder, files(kept_passwords(options.folder / "passwords.json"), *hosts))
    else:
        passwords = kept_passwords(options.passwords) if options.passwords else new_passwords()
        print(manifests(files(passwords, *hosts), options.namespace), end="")


def new_passwords() -> dict[str, str]:
    """Letters and digits only: they stand in URLs and in a Redis configuration as they are."""
    users = (f"rabbitmq-{user}" for user in USERS)
    keys = ("bootstrap-key", "signing-master-key", "erlang-cookie")
    return {name: os.urandom(24).hex() for name in (*users, "postgres", "redis", *keys)}


def kept_passwords(path: Path) -> dict[str, str]:
    """Those in `path`, and there from now on: a new one for each that is missing."""
    known = json.loads(path.read_text()) if path.exists() else {}
    passwords = new_passwords() | known
    if passwords != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(passwords, indent=1) + "\n", 0o400)
    return passwords


def files(passwords: Mapping[str, str], rabbitmq: str, postgres: str, redis: str) -> Files:
    """By consumer and file name: what each may know, and no more."""
    found: Files = {
        user: {"carillon_amqp_url": f"amqp://{user}:{passwords[f'rabbitmq-{user}']}@{rabbitmq}:5672/{VHOST}"}
        for user in ("setup", *SERVICES)
    }
    for user in ("setup", "ingest", "scheduler"):
        found[user]["carillon_postgres_url"] = (
            f"postgres://{DATABASE}:{passwords['postgres']}@{postgres}:5432/{DATABASE}"
        )
    for user in ("ingest", "dispatcher"):
        found[user]["carillon_redis_url"] = f"redis://:{passwords['redis']}@{redis}:6379/0"
        found[user]["carillon_signing_master_key"] = passwords["signing-master-key"]
    found["ingest"]["carillon_bootstrap_key"] = passwords["bootstrap-key"]
    found["demo"] = {"carillon_bootstrap_key": passwords["bootstrap-key"]}
    found["rabbitmq"] = {
        "definitions.json": json.dumps(definitions(passwords), indent=1),
        "operator_password": passwords["rabbitmq-operator"],
        "erlang_cookie": passwords["erlang-cookie"],
    }
    found["postgres"] = {"postgres_password": passwords["postgres"]}
    found["redis"] = {"redis.conf": f"requirepass {passwords['redis']}\n"}
    return found


def definitions(passwords: Mapping[str, str]) -> dict[str, object]:
    """What RabbitMQ loads at each start: the virtual host, its users and their rights."""
    return {
        "vhosts": [{"name": VHOST}],
        "users": [
            {
                "name": user,
                "password_hash": password_hash(passwords[f"rabbitmq-{user}"]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["administrator"] if user == "operator" else [],
            }
            for user in USERS
        ],
        "permissions": [{"user": user, "vhost": VHOST, **permissions(user)} for user in USERS],
    }


def permissions(user: str) -> dict[str, str]:
    """Regular expressions: the set-up step makes everything, a service makes nothing (to look needs no right)."""
    if user in ("setup", "operator"):
        return {"configure": ".*", "write": ".*", "read": ".*"}
    queues = consumed(user)
    again = [topology.REPUBLISH[queue] for queue in queues if queue in topology.REPUBLISH]
    exchanges = {route.exchange for route in (*PUBLISHES[user], *again, topology.PARKED)}
    exchanges |= {"amq.default"} if user in REPLIES else set()
    return {"configure": "^$", "write": _one_of(exchanges), "read": _one_of(queues)}


def consumed(service: str) -> list[str]:
    """The queues that `service` reads: those of its name, except the rungs, which nobody reads."""
    own = (queue.name for queue in topology.topology().queues if _is_read_by(service, queue))
    return [*own, *ALSO_CONSUMES.get(service, ())]


def password_hash(password: str) -> str:
    """RabbitMQ's own form: base64 of a salt of 4 bytes and SHA-256 of salt and password.

    The salt follows from the password, so that the same password gives the same file; it is there to hide that two
    users have one password, and ours are random.
    """
    salt = hashlib.sha256(f"salt {password}".encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def write(folder: Path, found: Files) -> None:
    """Each consumer's folder of `folder`; a file that is right already is left alone."""
    for consumer, contents in found.items():
        # Ours run under the user that writes this. The servers' users differ from image to image, so their files are
        # open to whoever sees the folder: the one container that mounts it.
        mode = 0o444 if consumer in ("rabbitmq", "postgres", "redis") else 0o400
        (folder / consumer).mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, content in contents.items():
            path = folder / consumer / name
            if not path.exists() or path.read_text() != content:
                _replace(path, content, mode)


def manifests(found: Files, namespace: str) -> str:
    """A Secret per consumer, as YAML. Values are JSON strings, which YAML reads as they are."""
    lines: list[str] = []
    for consumer in (consumer for consumer in found if consumer != "demo"):
        lines += ["---", "apiVersion: v1", "kind: Secret", "metadata:"]
        lines += [f"  name: carillon-{consumer}", f"  namespace: {namespace}"]
        lines += ["  labels: {app.kubernetes.io/part-of: carillon}", "type: Opaque", "stringData:"]
        lines += [f"  {name}: {json.dumps(content)}" for name, content in found[consumer].items()]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Makes the passwords of an installation.")
    for server in ("rabbitmq", "postgres", "redis"):
        parser.add_argument(f"--{server}", default=server, metavar="HOST", help=f"host name of {server}")
    targets = parser.add_subparsers(dest="target", required=True)
    compose = targets.add_parser("compose", help="write a folder per consumer")
    compose.add_argument("folder", type=Path)
    kubernetes = targets.add_parser("kubernetes", help="print a Secret per consumer")
    kubernetes.add_argument("--namespace", default="carillon")
    kubernetes.add_argument("--passwords", type=Path, metavar="FILE", help="keep the passwords in FILE, to print again")
    return parser


def _is_read_by(service: str, queue: Queue) -> bool:
    return queue.name.startswith(f"{service}.") and "x-message-ttl" not in queue.arguments


def _one_of(names: Iterable[str]) -> str:
    return f"^({'|'.join(re.escape(name) for name in sorted(names))})$"


def _replace(path: Path, content: str, mode: int) -> None:
    """All of it or nothing, never readable by others in between."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(mode)  # whatever the umask took
    temporary.replace(path)


if __name__ == "__main__":
    main()
