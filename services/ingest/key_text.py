"""What an API key looks like: `ck_`, 30 random letters and digits (178 bits), 6 that check them. Pure.

The check tells a typing mistake, and most of what is guessed, from a key without a look into Postgres; the prefix lets
scanners of code and logs find a key that leaked. So many random bits need no slow hash: SHA-256 is what we keep.
"""

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "ck_"
RANDOM_CHARS = 30
CHECK_CHARS = 6  # 62 ** 6 is above 2 ** 32

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{RANDOM_CHARS}}})([0-9A-Za-z]{{{CHECK_CHARS}}})")


def new_key() -> str:
    random = "".join(secrets.choice(_ALPHABET) for _ in range(RANDOM_CHARS))
    return PREFIX + random + _check(random)


def digest(key: str) -> bytes:
    """What is stored, and compared. A header's odd bytes arrive as lone surrogates."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_key(text: str) -> bool:
    """Whether `text` may be a key of ours."""
    shape = _SHAPE.fullmatch(text)
    return shape is not None and _check(shape[1]) == shape[2]


def _check(random: str) -> str:
    number, check = zlib.crc32(random.encode()), ""
    for _ in range(CHECK_CHARS):
        number, digit = divmod(number, len(_ALPHABET))
        check = _ALPHABET[digit] + check
    return check
