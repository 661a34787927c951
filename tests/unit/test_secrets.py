"""The generator of passwords: each consumer gets what it needs, no more, and nothing changes by running it again."""

import ast
import base64
import hashlib
import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy import secrets
from libs.common import topology
from libs.common.settings import CommonSettings, SettingsError, load
from libs.common.topology import Route
from services.dispatcher.settings import DispatcherSettings
from services.ingest.settings import IngestSettings
from services.mailer.settings import MailerSettings
from services.scheduler.settings import SchedulerSettings
from tests.conftest import ROOT

SETTINGS: dict[str, type[CommonSettings]] = {
    "ingest": IngestSettings,
    "scheduler": SchedulerSettings,
    "dispatcher": DispatcherSettings,
    "mailer": MailerSettings,
}
TABLE = topology.topology(topology.DEFAULT_RETRY_SCHEDULE_S)
QUEUES = {queue.name for queue in TABLE.queues}
RUNGS = {queue.name for queue in TABLE.queues if "x-message-ttl" in queue.arguments}
COMMAND = (sys.executable, str(ROOT / "deploy" / "secrets.py"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_of_topology(service: str) -> set[str]:
    """What of libs/common/topology.py the code of `service` names."""
    found: set[str] = set()
    for path in (ROOT / "services" / service).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "libs.common.topology":
                found |= {name.name for name in node.names}
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "topology":
                found.add(node.attr)
    return found


def value_of(name: str) -> object:
    """The constant, or what a function that makes routes gives."""
    value = getattr(topology, name)
    return value(1000) if name in ("rung", "mailer_rung") else value


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    secrets.main(["compose", str(tmp_path)])
    before = content(tmp_path)
    secrets.main(["compose", str(tmp_path)])
    assert content(tmp_path) == before


def test_two_installations_share_no_password(tmp_path: Path) -> None:
    here, there = (secrets.kept_passwords(tmp_path / name) for name in ("here", "there"))
    assert len({*here.values(), *there.values()}) == 2 * len(here)


def test_what_is_missing_is_made_again_with_the_same_passwords(tmp_path: Path) -> None:
    secrets.main(["compose", str(tmp_path)])
    before = content(tmp_path)
    (tmp_path / "ingest" / "carillon_amqp_url").unlink()
    secrets.main(["compose", str(tmp_path)])
    assert content(tmp_path) == before


def test_a_release_with_one_more_user_keeps_the_passwords_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "passwords.json"
    before = secrets.kept_passwords(path)
    path.chmod(0o600)
    path.write_text(json.dumps({name: value for name, value in before.items() if name != "rabbitmq-mailer"}))
    after = secrets.kept_passwords(path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"rabbitmq-mailer"}


def test_a_release_may_change_the_rights_of_a_user(tmp_path: Path) -> None:
    secrets.main(["compose", str(tmp_path)])
    definitions = tmp_path / "rabbitmq" / "definitions.json"
    right = definitions.read_text()
    definitions.chmod(0o600)
    definitions.write_text("{}")
    secrets.main(["compose", str(tmp_path)])
    assert definitions.read_text() == right


def test_only_the_owner_reads_what_our_services_get(tmp_path: Path) -> None:
    secrets.main(["compose", str(tmp_path)])
    open_to_all = {path.parent.name for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077}
    assert open_to_all == {"rabbitmq", "postgres", "redis"}
    assert stat.S_IMODE((tmp_path / "passwords.json").stat().st_mode) == 0o400


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_starts_from_its_own_folder(tmp_path: Path, service: str) -> None:
    secrets.main(["compose", str(tmp_path)])
    environ = {
        "CARILLON_SMTP_URL": "smtp://mailpit:1025",
        "CARILLON_DIGEST_TO": "a@example.com",
        "CARILLON_DIGEST_FROM": "b@example.com",
    }
    given = environ if service == "mailer" else {}
    settings = load(SETTINGS[service], given, secrets_dir=tmp_path / service)
    assert f"amqp://{service}:" in settings.amqp_url.get_secret_value()
    (tmp_path / service / "carillon_amqp_url").unlink()
    with pytest.raises(SettingsError):
        load(SETTINGS[service], given, secrets_dir=tmp_path / service)


def test_nobody_gets_a_password_that_is_not_theirs(tmp_path: Path) -> None:
    secrets.main(["compose", str(tmp_path)])
    passwords = json.loads((tmp_path / "passwords.json").read_text())
    who_knows = {
        name: {path.parent.name for path in tmp_path.glob("*/*") if password in path.read_text()}
        for name, password in passwords.items()
    }
    assert who_knows == {
        **{f"rabbitmq-{user}": {user} for user in ("setup", *SETTINGS)},
        "rabbitmq-operator": {"rabbitmq"},
        "erlang-cookie": {"rabbitmq"},
        "postgres": {"postgres", "setup", "ingest", "scheduler"},
        "redis": {"redis", "ingest", "dispatcher"},
        "bootstrap-key": {"ingest", "demo"},
        "signing-master-key": {"ingest", "dispatcher"},
    }


def test_a_password_hash_is_salt_and_sha256_of_salt_and_password() -> None:
    raw = base64.b64decode(secrets.password_hash("correct horse"))
    assert len(raw) == 4 + 32
    assert raw[4:] == hashlib.sha256(raw[:4] + b"correct horse").digest()
    assert raw[:4] != base64.b64decode(secrets.password_hash("battery staple"))[:4]


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_may_write_where_its_code_publishes_and_nowhere_else(service: str) -> None:
    values = [value_of(name) for name in names_of_topology(service)]
    needed = {value.exchange for value in values if isinstance(value, Route)}
    needed |= {topology.REPUBLISH[queue].exchange for queue in secrets.consumed(service) if queue in topology.REPUBLISH}
    needed.add(topology.PARKING_EXCHANGE)  # by libs/common/intake.py
    needed.add(topology.REPLICA_SEEN.exchange)  # by libs/common/heartbeat.py
    allowed = secrets.permissions(service)["write"]
    exchanges = {exchange.name for exchange in TABLE.exchanges}
    assert {name for name in exchanges if re.search(allowed, name)} == needed


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_may_read_the_queues_that_its_code_names(service: str) -> None:
    named = {value for name in names_of_topology(service) if isinstance(value := value_of(name), str)} & QUEUES
    allowed = secrets.permissions(service)["read"]
    readable = {name for name in QUEUES if re.search(allowed, name)}
    assert named <= readable
    assert all(name.startswith(f"{service}.") for name in readable - named)  # commands that are not built yet


def test_every_queue_but_the_rungs_has_one_reader_and_a_rung_has_none() -> None:
    readers = {
        queue: [service for service in SETTINGS if re.search(secrets.permissions(service)["read"], queue)]
        for queue in QUEUES
    }
    assert {queue: len(services) for queue, services in readers.items()} == {
        queue: 0 if queue in RUNGS else 1 for queue in QUEUES
    }


def test_no_service_may_make_or_delete_anything() -> None:
    for service in SETTINGS:
        assert not [name for name in QUEUES if re.search(secrets.permissions(service)["configure"], name)]


def test_who_answers_commands_may_publish_to_the_default_exchange_and_no_other() -> None:
    """RabbitMQ asks for the right to `amq.default`; with it a service reaches any queue, so it is not for everybody."""
    answering = {
        service
        for service in SETTINGS
        for path in (ROOT / "services" / service).rglob("*.py")
        if "Replier" in path.read_text()
    }
    allowed = {service for service in SETTINGS if re.search(secrets.permissions(service)["write"], "amq.default")}
    assert allowed == answering == set(secrets.REPLIES)


def test_the_kubernetes_secrets_hold_the_same_files_in_the_namespace_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets.main(["compose", str(tmp_path)])
    secrets.main(["kubernetes", "--namespace", "here", "--passwords", str(tmp_path / "passwords.json")])
    documents = [document for document in yaml.safe_load_all(capsys.readouterr().out) if document]
    assert {document["kind"] for document in documents} == {"Secret"}
    assert {document["metadata"]["namespace"] for document in documents} == {"here"}
    found = {
        f"{document['metadata']['name'].removeprefix('carillon-')}/{name}": value.encode()
        for document in documents
        for name, value in document["stringData"].items()
    }
    ours_only = ("passwords.json", "demo/carillon_bootstrap_key")
    assert found == {name: text for name, text in content(tmp_path).items() if name not in ours_only}


def test_it_runs_as_a_script_from_anywhere_without_our_packages(tmp_path: Path) -> None:
    isolated = (sys.executable, "-S", *COMMAND[1:])
    done = subprocess.run([*isolated, "compose", "made"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "ingest" / "carillon_bootstrap_key").read_text()
    assert not done.stdout
