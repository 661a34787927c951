"""The signature of a call and the secret it is made with: Standard Webhooks 1.0, symmetric (`v1`). Pure.

No secret is stored. It follows from the master key, the project and a version, so who shows it and who signs with it
need not talk, and a rotation is a higher version.
Source: github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md; RFC 5869 (HKDF).
"""

import base64
import hmac

HASH = "sha256"
SECRET_BYTES = 32
_PURPOSE = b"carillon webhook"
_VERSION_BYTES = 4


def secret(master_key: str, project: str, version: int) -> bytes:
    """The 32 bytes that sign the calls of `project`: HKDF-SHA256 without a salt, whose one block is all of it."""
    extracted = hmac.digest(bytes(SECRET_BYTES), master_key.encode(), HASH)
    # What has a fixed length comes first, so that no two projects and versions give the same bytes.
    info = _PURPOSE + version.to_bytes(_VERSION_BYTES, "big") + project.encode()
    return hmac.digest(extracted, info + b"\x01", HASH)


def whsec(secret: bytes) -> str:
    """A secret as its owner keeps it and the libraries take it."""
    return f"whsec_{base64.b64encode(secret).decode()}"


def sign(secret: bytes, id: str, timestamp: int, body: bytes) -> str:
    """`v1,<base64>` over the id, the unix second of the attempt and the bytes of the body; several stand with a space
    between them."""
    signed = hmac.digest(secret, f"{id}.{timestamp}.".encode() + body, HASH)
    return f"v1,{base64.b64encode(signed).decode()}"
