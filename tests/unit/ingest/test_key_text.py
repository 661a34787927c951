"""What a key looks like."""

import re
from collections import Counter

import pytest

from services.ingest.key_text import digest, is_key, new_key


def test_a_key_can_be_recognised_and_copied_with_one_click() -> None:
    assert re.fullmatch(r"ck_[0-9A-Za-z]{36}", new_key())


def test_a_key_is_random_at_each_of_its_thirty_places() -> None:
    keys = [new_key()[3:33] for _ in range(2000)]
    for place in range(30):
        seen = Counter(key[place] for key in keys)
        assert len(seen) == 62, f"place {place} has only {sorted(seen)}"  # one of 62 is missing once in 10 ** 10 runs
        assert max(seen.values()) < 90  # 32 on average


def test_the_check_tells_a_key_from_one_with_a_typing_mistake() -> None:
    key = new_key()
    assert is_key(key)
    for place in range(3, len(key)):
        for wrong in "0Aa":
            if wrong != key[place]:
                assert not is_key(key[:place] + wrong + key[place + 1 :])


@pytest.mark.parametrize(
    "text", ["", "ck_", "ck_" + "a" * 35, "ck_" + "ä" * 36, new_key() + "\n", "x" + new_key(), "\udcff"]
)
def test_what_has_another_shape_is_no_key(text: str) -> None:
    assert not is_key(text)


def test_a_digest_is_sha256_of_the_key_even_of_bytes_that_are_no_text() -> None:
    assert digest("abc").hex().startswith("ba7816bf8f01cfea")
    assert len(digest("\udcff")) == 32
