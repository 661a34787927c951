"""Names for things. A fresh id sorts by the time it was made; a derived one is the same for the same parts.

Derived ids let a repeated request find the task it already made: the id is a function of the project and the
Idempotency-Key, so no look-up is needed and none can be lost.
"""

import hashlib
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

_VERSION_MASK, _VERSION_8 = 0xF << 76, 0x8 << 76
_VARIANT_MASK, _VARIANT_RFC = 0b11 << 62, 0b10 << 62
_LENGTH_BYTES = 8


def new_id() -> UUID:
    """A fresh UUIDv7."""
    return uuid7()


def text_of(id_: UUID) -> str:
    """`str(id_)` in a third of its time: that is Python, this is C."""
    text: str = msgspec.to_builtins(id_)
    return text


def derived_id(project: str, key: str, *extra: str) -> UUID:
    """The UUIDv8 of these parts, in this order, the same in every process and release.

    122 bits of SHA-256, each part prefixed by its length, so that ("a", "bc") and ("ab", "c") differ.
    Source: RFC 9562 section 5.8 and appendix B.2.
    """
    digest = hashlib.sha256()
    for part in (project, key, *extra):
        # A header or a JSON string may hold a lone surrogate, which plain UTF-8 refuses.
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded)
    number = int.from_bytes(digest.digest()[:16], "big")
    return UUID(int=number & ~_VERSION_MASK & ~_VARIANT_MASK | _VERSION_8 | _VARIANT_RFC)


def callback_id(project: str, task: UUID, generation: int, outcome: str) -> UUID:
    """The task that tells a task's owner how that generation of it ended."""
    return derived_id(project, "callback", str(task), str(generation), outcome)
