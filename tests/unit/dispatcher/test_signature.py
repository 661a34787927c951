"""What an attempt is signed with, as the reference library of Standard Webhooks sees it."""

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from libs.common.contracts import Task
from libs.common.signing import secret, whsec
from services.dispatcher.caller import request_of
from services.dispatcher.signature import Signer, Versions
from tests.unit.dispatcher.samples import MASTER_KEY, SIGNER, a_call, a_task

BODY = '{"bell": "\u266a"}'.encode()


def library(project: str = "shop", version: int = 1, master_key: str = MASTER_KEY) -> Webhook:
    return Webhook(whsec(secret(master_key, project, version)))


def headers(signer: Signer = SIGNER, task: Task | None = None, body: bytes = BODY, ago_s: float = 0) -> dict[str, str]:
    return dict(signer.headers(task or a_task(), body, now() - timedelta(seconds=ago_s)))


def now() -> datetime:
    return datetime.now(UTC)  # the library's clock


def rotating(previous_until: datetime | None) -> Signer:
    return Signer(MASTER_KEY, {"shop": Versions(2, previous_until)}.__getitem__)


@pytest.mark.parametrize("body", [BODY, b"", b"null", b'{"a":\r\n1}\n', "\ufeff\x00\U0001f514".encode()])
def test_the_library_verifies_what_we_sign(body: bytes) -> None:
    library().verify(body, headers(body=body), json_parse=False)


def test_the_library_reads_the_body_that_it_verified() -> None:
    assert library().verify(BODY, headers()) == {"bell": "\u266a"}


def test_another_body_does_not_verify() -> None:
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        library().verify(BODY + b" ", headers())


@pytest.mark.parametrize("wrong", [library("shop2"), library(version=2), library(master_key=MASTER_KEY + "x")])
def test_the_secret_of_another_project_version_or_installation_does_not_verify(wrong: Webhook) -> None:
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        wrong.verify(BODY, headers())


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
def test_id_and_timestamp_are_signed_too(name: str) -> None:
    changed = headers() | {"webhook-id": "another", "webhook-timestamp": str(int(now().timestamp()) - 9)}
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        library().verify(BODY, headers() | {name: changed[name]})


@pytest.mark.parametrize(("ago_s", "complaint"), [(302, "too old"), (-302, "too new")])
def test_what_was_signed_more_than_five_minutes_from_now_does_not_verify(ago_s: int, complaint: str) -> None:
    with pytest.raises(WebhookVerificationError, match=complaint):
        library().verify(BODY, headers(ago_s=ago_s))
    library().verify(BODY, headers(ago_s=ago_s * 0.95))


def test_each_attempt_has_the_same_id_and_a_signature_of_its_own() -> None:
    task = a_task()
    first, second = headers(task=task, ago_s=60), headers(task=task)
    assert first["webhook-id"] == second["webhook-id"] == str(task.id)
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) in (60, 61)
    assert first["webhook-signature"] != second["webhook-signature"]


def test_a_project_that_was_never_rotated_has_one_signature() -> None:
    assert headers()["webhook-signature"].count("v1,") == 1
    assert headers()["webhook-signature"].count(" ") == 0


def test_while_a_rotation_overlaps_both_secrets_verify() -> None:
    made = headers(rotating(now() + timedelta(hours=1)))
    for version in (1, 2):
        library(version=version).verify(BODY, made)
    with pytest.raises(WebhookVerificationError):
        library(version=3).verify(BODY, made)


def test_the_current_secrets_signature_comes_first() -> None:
    at, task = now(), a_task()
    [both] = {value for name, value in rotating(at + timedelta(hours=1)).headers(task, BODY, at) if "sig" in name}
    [alone] = {value for name, value in rotating(None).headers(task, BODY, at) if "sig" in name}
    assert both.split(" ")[0] == alone


@pytest.mark.parametrize("ended_ago", [None, timedelta(0), timedelta(days=1)])
def test_after_the_overlap_only_the_current_secret_verifies(ended_ago: timedelta | None) -> None:
    at = now()
    signer = rotating(None if ended_ago is None else at - ended_ago)
    made = dict(signer.headers(a_task(), BODY, at))
    library(version=2).verify(BODY, made)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        library(version=1).verify(BODY, made)


def test_a_rotation_is_seen_by_the_next_attempt() -> None:
    versions = {"shop": Versions()}
    signer = Signer(MASTER_KEY, versions.__getitem__)
    library(version=1).verify(BODY, headers(signer))
    versions["shop"] = Versions(2)
    library(version=2).verify(BODY, headers(signer))


@pytest.mark.parametrize("spelling", [str.lower, str.title, str.upper])
def test_a_task_cannot_bring_webhook_headers_of_its_own(spelling: object) -> None:
    assert callable(spelling)
    forged = [(spelling(f"webhook-{name}"), "forged") for name in ("id", "timestamp", "signature", "anything")]
    task = a_task()
    made = request_of(task, a_call(headers=(*forged, ("X-A", "b")), body=BODY), 7, now(), SIGNER).headers
    assert "forged" not in dict(made).values()
    assert dict(made)["X-A"] == "b"
    assert [name for name, _ in made if name.lower().startswith("webhook-")] == [
        "webhook-id", "webhook-timestamp", "webhook-signature",
    ]  # fmt: skip
    library().verify(BODY, dict(made))
