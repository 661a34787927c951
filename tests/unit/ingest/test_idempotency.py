from datetime import UTC, datetime
from uuid import UUID

import pytest

from libs.common.publisher import PublishUnknown, Refused, Unroutable
from services.ingest.idempotency import RecentKeys, Use
from services.ingest.problems import Problem

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ID = UUID(int=1)


def test_the_oldest_keys_are_forgotten_first() -> None:
    recent = RecentKeys(keys_max=2)
    for number in (1, 2, 1, 3):
        recent.settle(UUID(int=number), Use("f", NOW), None)
    assert recent.use(UUID(int=2), "f") is None
    assert recent.use(UUID(int=1), "f") == recent.use(UUID(int=3), "f") == Use("f", NOW, is_confirmed=True)


@pytest.mark.parametrize("refusal", [Refused("full"), Unroutable("no queue")])
def test_what_the_broker_refused_is_not_remembered(refusal: Refused | Unroutable) -> None:
    recent = RecentKeys()
    recent.settle(ID, Use("f", NOW), refusal)
    assert recent.use(ID, "other") is None


def test_a_refusal_after_an_unknown_outcome_does_not_free_the_key() -> None:
    recent = RecentKeys()
    recent.settle(ID, Use("f", NOW), PublishUnknown("no answer"))
    recent.settle(ID, Use("f", NOW), Refused("full"))
    assert recent.use(ID, "f") == Use("f", NOW, is_confirmed=False)
    with pytest.raises(Problem, match="another body"):
        recent.use(ID, "other")


def test_a_key_is_free_again_when_its_request_has_crashed() -> None:
    recent = RecentKeys()
    with pytest.raises(RuntimeError), recent.claimed(ID, "f"):
        raise RuntimeError
    with recent.claimed(ID, "f"), pytest.raises(Problem, match="still running"), recent.claimed(ID, "f"):
        pass
