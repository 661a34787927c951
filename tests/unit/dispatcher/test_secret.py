"""The command that prints what receivers verify with."""

from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook

from services.dispatcher.secret import main
from services.dispatcher.signature import Signer, Versions
from tests.unit.dispatcher.samples import MASTER_KEY, a_task


@pytest.mark.parametrize(("options", "version"), [([], 1), (["--version", "2"], 2)])
def test_what_it_prints_verifies_a_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], version: int
) -> None:
    monkeypatch.setenv("CARILLON_SIGNING_MASTER_KEY", MASTER_KEY)
    assert main(["shop", *options]) == 0
    printed = capsys.readouterr().out.strip()
    signed = Signer(MASTER_KEY, lambda _project: Versions(version)).headers(a_task(), b"{}", datetime.now(UTC))
    Webhook(printed).verify(b"{}", dict(signed))


def test_without_the_master_key_it_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CARILLON_SIGNING_MASTER_KEY", raising=False)
    assert main(["shop"]) == 78
    said = capsys.readouterr()
    assert said.err.startswith("CARILLON_SIGNING_MASTER_KEY: is not set")
    assert not said.out
