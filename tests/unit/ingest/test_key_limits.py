"""How a limit is told to its client."""

import pytest

from services.ingest.key_limits import Allowance, Limit, headers


@pytest.mark.parametrize(
    ("limit", "allowance", "policy", "now"),
    [
        (Limit(5, 10), Allowance(0, 9, 0), '"key";q=10;w=2', '"key";r=9;t=2'),
        (Limit(5, 10), Allowance(0, 0, 0.17), '"key";q=10;w=2', '"key";r=0;t=1'),
        (Limit(5, 10), Allowance(0.17, 0, 0.17), '"key";q=10;w=2', '"key";r=0;t=1'),
        (Limit(0.01, 1), Allowance(99.2, 0, 99.2), '"key";q=1;w=100', '"key";r=0;t=100'),
        (Limit(1000, 1000), Allowance(0, 999, 0), '"key";q=1000;w=1', '"key";r=999;t=1'),
        (Limit(2.5, 3), Allowance(0, 1, 0), '"key";q=3;w=2', '"key";r=1;t=2'),
    ],
)
def test_the_fields_are_those_of_the_draft(limit: Limit, allowance: Allowance, policy: str, now: str) -> None:
    """draft-ietf-httpapi-ratelimit-headers-11: structured fields, whole seconds, and a `w` above 0."""
    assert headers(limit, allowance) == {"RateLimit-Policy": policy, "RateLimit": now}
