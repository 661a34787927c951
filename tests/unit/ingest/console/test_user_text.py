"""Names of users, and one-time links."""

import hashlib

import pytest

from services.ingest.console.user_text import link_digest, name_fault, name_of, new_link


@pytest.mark.parametrize("name", ["a", "ann", "ann.smith", "ann@example.com", "0", "a" * 64, "on-call_2", "a+b@c.de"])
def test_a_name_is_short_and_plain(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize("name", ["", "Ann", "-ann", ".ann", "a" * 65, "ann smith", "änn", "ann\n", "a\0", "<b>"])
def test_what_is_no_name(name: str) -> None:
    assert "is no name" in str(name_fault(name))


def test_capitals_and_spaces_around_it_do_not_matter() -> None:
    assert name_of(" Ann@Example.COM ") == "ann@example.com"


def test_a_link_has_256_random_bits_and_only_its_digest_is_kept() -> None:
    links = [new_link() for _ in range(100)]
    assert len({link.path for link in links}) == 100
    for path, digest in links:
        token = path.removeprefix("/console/link/")
        assert len(token) == 43
        assert digest == link_digest(token) == hashlib.sha256(token.encode()).digest()


def test_a_token_with_odd_characters_is_no_crash() -> None:
    assert link_digest("\udcff\0") != link_digest("")
