"""What to tell a person when TLS with a server cannot be made.

The URLs say which CA and which client certificate (docs/tls.md); verifying is the libraries' work. What fails here is
waited for like a server that is away: certificates are renewed and files replaced while we run, and each new
connection reads them anew.
"""

import errno
import ssl
from collections.abc import Iterator

# X509_V_ERR_*, as OpenSSL numbers them.
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
_REMEDIES = {
    _NOT_YET_VALID: "set the clocks right",
    _EXPIRED: "renew it on the server",
    _OTHER_HOST: "name the server in the URL as its certificate does",
    _OTHER_ADDRESS: "name the server in the URL as its certificate does",
}
_UNKNOWN_CA = "name the CA that signed it in the URL"
_UNREADABLE = (errno.ENOENT, errno.EACCES)


def tls_trouble(error: BaseException) -> str | None:
    """Why there is no TLS, and what to do, when that is what `error` or a cause of it says; else None."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            remedy = _REMEDIES.get(cause.verify_code, _UNKNOWN_CA)
            return f"its certificate is refused ({cause.verify_message.rstrip('.')}): {remedy}, see docs/tls.md"
        if isinstance(cause, ssl.SSLError):
            return f"no TLS with it ({cause.strerror}): check port, protocol and certificates, see docs/tls.md"
        if isinstance(cause, OSError) and cause.errno in _UNREADABLE:
            return f"a file that its URL names cannot be read ({cause.strerror}), see docs/tls.md"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()  # the causes of what several tasks pass on may go in a circle
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
