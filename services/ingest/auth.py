"""Who is asking: the project that an API key belongs to.

For now there is one key, from the settings, and its project is `default`. Only digests are compared, in constant
time, so neither length nor prefix of the key leaks.
"""

import hashlib
import hmac

from services.ingest.problems import unauthorized

BOOTSTRAP_PROJECT = "default"


class Keys:
    """The keys that this process knows."""

    def __init__(self, bootstrap_key: str) -> None:
        self._digest = _digest(bootstrap_key)

    def project_of(self, authorization: str | None) -> str:
        """The project of the key in an Authorization header. Raises: Problem (401)."""
        scheme, _, key = (authorization or "").partition(" ")
        is_known = hmac.compare_digest(_digest(key.strip()), self._digest)
        if scheme.lower() != "bearer" or not is_known:
            raise unauthorized()
        return BOOTSTRAP_PROJECT


def _digest(key: str) -> bytes:
    # A header's odd bytes arrive as lone surrogates.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
