"""Every row of the route table, asked with every key that must not open it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.openapi import endpoints
from services.ingest.bulk_door import BulkCommand, PurgeCommand
from services.ingest.endpoint import Endpoint
from services.ingest.examples import EXAMPLES
from tests.integration.api.served import BOOTSTRAP_KEY, SCOPES, Answer, Served, eventually

OWNER = "owner"
MARK = "only-the-owner-may-see-this"
HOST = f"{MARK}.example.com"
GUARDED = [row for row in endpoints() if row.scope is not None]
KEYLESS = [row for row in endpoints() if row.scope is None]
# By a name that each project gives: a stranger's is another one, which this makes.
OF_THE_OPERATOR = {("POST", "/v1/digest/send")}
"""What is everybody's: for the project of the bootstrap key alone."""
OF_THE_ASKER = {
    ("PUT", "/v1/schedules/{name}"),
    ("PUT", "/v1/targets/{host}"),
    ("POST", "/v1/targets/{host}/pause"),
    ("POST", "/v1/targets/{host}/resume"),
}
# All there are, where an example names some.
BODIES: Mapping[type, Any] = {BulkCommand: {"filter": {"all": True}}, PurgeCommand: {"filter": {"all": True}}}

every_guarded_row = pytest.mark.parametrize("row", GUARDED, ids=lambda row: f"{row.method} {row.path}")


@dataclass(frozen=True)
class Estate:
    """What the owner has: one of each thing, by the path that leads to it."""

    ids: Mapping[str, str]
    reads: tuple[str, ...]

    def path(self, row: Endpoint) -> str:
        prefix, _, rest = row.path.partition("{")
        return prefix + re.sub(r"^\w+\}", self.ids[prefix], rest) if rest else prefix


@pytest.fixture(scope="module")
def estate(served: Served) -> Estate:
    key = served.key(OWNER)
    url = f"http://127.0.0.1:{served.closed_port}/{MARK}"
    task = {"url": url, "delay": "1d", "labels": {"of": MARK}, "body": MARK}
    made = {
        "/v1/tasks/": answered(served.ask("POST", "/v1/tasks", key=key, body=task), 201)["id"],
        "/v1/keys/": served.new_key(OWNER, name=MARK)[1],
        "/v1/schedules/": MARK,
        "/v1/targets/": HOST,
        "/v1/parked/": served.park(OWNER, f"{MARK}-message"),
        "/v1/bulk/": answered(
            served.ask("POST", "/v1/tasks/cancel", key=key, body={"filter": {"label.of": "nothing"}}), 202
        )["id"],
    }
    daily = {"cron": "0 0 1 1 *", "task": {"url": url}}
    answered(served.ask("PUT", f"/v1/schedules/{MARK}", key=key, body=daily), 201)
    assert served.ask("POST", f"/v1/targets/{HOST}/pause", key=key).status in {200, 202}
    failed = served.ask("POST", "/v1/tasks", key=key, body={"url": url, "retry": {"schedule_s": []}}).json["id"]
    eventually(
        "the owner's failure", lambda: served.ask("GET", f"/v1/tasks/{failed}", key=key).json["status"] == "failed"
    )
    bulk = f"/v1/bulk/{made['/v1/bulk/']}"
    eventually("the owner's bulk command", lambda: served.ask("GET", bulk, key=key).json["finished_at"])
    lists = ("/v1/tasks", "/v1/keys", "/v1/schedules", "/v1/targets", "/v1/parked", "/v1/signing-secret")
    return Estate(made, (*lists, *(prefix + name for prefix, name in made.items())))


@pytest.fixture(scope="module")
def revoked(served: Served) -> str:
    """One that was in use."""
    key, id_ = served.new_key(OWNER)
    assert served.ask("GET", "/v1/tasks", key=key).status == 200
    answered(served.ask("DELETE", f"/v1/keys/{id_}?project={OWNER}", key=BOOTSTRAP_KEY), 200)
    eventually("the key refused", lambda: served.ask("GET", "/v1/tasks", key=key).status == 401)
    return key


@pytest.fixture(scope="module")
def expired(served: Served) -> str:
    """One that was in use."""
    soon = datetime.now(UTC) + timedelta(seconds=5)
    key, _id = served.new_key(OWNER, expires_at=soon.isoformat())
    assert served.ask("GET", "/v1/tasks", key=key).status == 200
    eventually("the key expired", lambda: served.ask("GET", "/v1/tasks", key=key).status == 401)
    return key


@every_guarded_row
def test_without_a_valid_key_there_is_one_answer_for_every_reason(
    served: Served, estate: Estate, revoked: str, expired: str, row: Endpoint
) -> None:
    well_formed = served.key(OWNER)[:-1] + ("0" if served.key(OWNER)[-1] != "0" else "1")
    answers = [asked(served, row, estate, key) for key in (None, "garbage", well_formed, revoked, expired)]
    for answer in answers:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert alike(answer) == alike(answers[0])
    assert MARK not in answers[0].json["detail"]


@every_guarded_row
def test_a_key_that_lacks_the_scope_is_told_which(served: Served, estate: Estate, row: Endpoint) -> None:
    answer = asked(served, row, estate, all_but(served, row.scope or ""))
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert f"scope {row.scope}." in answer.json["detail"]
    assert MARK not in answer.json["detail"]


@every_guarded_row
def test_a_key_of_another_project_finds_nothing_and_changes_nothing(
    served: Served, estate: Estate, row: Endpoint
) -> None:
    before = as_the_owner_sees(served, estate)
    stranger = served.key(f"stranger-{GUARDED.index(row)}")  # who has nothing, also after the other rows
    answer = asked(served, row, estate, stranger)
    is_of_the_owner = "{" in row.path and (row.method, row.path) not in OF_THE_ASKER
    if (row.method, row.path) in OF_THE_OPERATOR:
        assert answer.status == 403, answer.body
    else:
        assert answer.status == 404 if is_of_the_owner else answer.status < 300, answer.body
    shown = answer.body.decode()
    if answer.status == 404:
        assert answer.json["code"] == "not_found"
        shown = shown.replace(estate.path(row), "").replace(estate.path(row).split("/")[3], "")  # what was asked for
    if (row.method, row.path) not in OF_THE_ASKER:
        assert MARK not in shown
    assert not [id_ for id_ in estate.ids.values() if id_ in shown and id_ != HOST and id_ != MARK]
    assert as_the_owner_sees(served, estate) == before


def test_ids_of_another_project_are_unknown_to_a_purge(served: Served, estate: Estate) -> None:
    id_ = estate.ids["/v1/tasks/"]
    answer = served.ask("POST", "/v1/tasks/purge", key=served.key("stranger"), body={"ids": [id_]})
    assert answer.json == {"purged": [], "waiting": [], "unknown": [id_]}


def test_the_rows_without_a_scope_are_known() -> None:
    """Whoever adds one must say here why it needs none."""
    assert [(row.method, row.path) for row in KEYLESS] == [("POST", "/api/task/save")]


def test_the_ancestors_form_refuses_each_key_in_its_own_way(served: Served, revoked: str, expired: str) -> None:
    form = b"notify_url=http%3A%2F%2Fexample.com%2F"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answers = [
        served.ask("POST", "/api/task/save", key=key, body=form, headers=headers).json
        for key in (None, "garbage", revoked, expired)
    ]
    assert {answer["code"] for answer in answers} == {"no"}
    assert len({answer["data"] for answer in answers}) == 1
    without = served.ask("POST", "/api/task/save", key=all_but(served, "tasks:write"), body=form, headers=headers).json
    assert without["code"] == "no"
    assert "tasks:write" in without["data"]


def asked(served: Served, row: Endpoint, estate: Estate, key: str | None) -> Answer:
    body, headers = None, {}
    for media_type, kind in row.takes.items():
        given = BODIES.get(kind) or EXAMPLES[kind]
        body, headers = json.dumps(given).encode(), {"Content-Type": media_type}
        break
    return served.ask(row.method, estate.path(row), key=key, body=body, headers=headers)


def as_the_owner_sees(served: Served, estate: Estate) -> Mapping[str, Any]:
    """All of it, but for when which key was used."""
    seen = {path: served.ask("GET", path, key=served.key(OWNER)).body.decode() for path in estate.reads}
    return {path: re.sub(r'"last_used_at":("[^"]*"|null)', "", text) for path, text in seen.items()}


def alike(answer: Answer) -> Mapping[str, Any]:
    return {name: value for name, value in answer.json.items() if name != "request_id"}


def all_but(served: Served, scope: str) -> str:
    key, _id = served.new_key(OWNER, [each for each in SCOPES if each != scope])
    return key


def answered(answer: Answer, status: int) -> Any:
    assert answer.status == status, answer.body
    return answer.json
