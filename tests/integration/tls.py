"""A private CA, what it signs, and TLS in front of the test servers, as stunnel would do it.

The wheels' PostgreSQL knows no TLS, so the stack's servers are plain; `tests/matrix` tries the servers' own TLS.
"""

import asyncio
import ssl
from datetime import datetime
from pathlib import Path

import trustme
from yarl import URL

from tests.integration.rig import Proxy

HOST, OTHER_NAME = "localhost", "127.0.0.1"
"""What the certificates say, and a name of the same machine that they do not say."""
PARAMETERS = {
    "amqps": ("cafile", "certfile", "keyfile"),
    "smtps": ("cafile", "certfile", "keyfile"),
    "smtp+starttls": ("cafile", "certfile", "keyfile"),
    "postgresql": ("sslrootcert", "sslcert", "sslkey"),
    "rediss": ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
}
SECURE = {"amqp": "amqps", "redis": "rediss", "postgresql": "postgresql"}


class Authority:
    """Files in `folder`: ca.pem and other.pem (another CA), client.pem and client.key."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.ca, self.other = folder / "ca.pem", folder / "other.pem"
        self.client, self.client_key = folder / "client.pem", folder / "client.key"
        self._ca.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.other)
        client = self._ca.issue_cert("carillon@client", common_name="carillon")
        client.cert_chain_pems[0].write_to_path(self.client)
        client.private_key_pem.write_to_path(self.client_key)
        self.client_key.chmod(0o600)  # lib/pq refuses a key that others may read

    def server(self, *, is_expired: bool = False, asks_for_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate(is_expired=is_expired).configure_cert(context)
        if asks_for_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def certificate(self, *, is_expired: bool = False) -> trustme.LeafCert:
        if is_expired:
            return self._ca.issue_cert(HOST, not_before=datetime(2020, 1, 1), not_after=datetime(2021, 1, 1))  # noqa: DTZ001
        return self._ca.issue_cert(HOST)


def secure(url: str, port: int, ca: Path, client: tuple[Path, Path] | None = None, *, host: str = HOST) -> str:
    """The URL of a plain server as that of its TLS port, as docs/tls.md has it."""
    plain = URL(url)
    scheme = SECURE.get(plain.scheme, plain.scheme)
    cafile, certfile, keyfile = PARAMETERS[scheme]
    query = {cafile: str(ca)} | ({certfile: str(client[0]), keyfile: str(client[1])} if client else {})
    if scheme == "postgresql":
        query["sslmode"] = "verify-full"
    return str(plain.with_scheme(scheme).with_host(host).with_port(port).update_query(query))


class TlsFront(Proxy):
    """`context` may be changed: the next connection gets the new one."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        super().__init__(url)
        self.context = context
        self._asks_first = URL(url).scheme.startswith("postgres")

    @property
    def port(self) -> int:
        return self._port

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            if self._asks_first:
                await from_client.readexactly(8)  # SSLRequest
                to_client.write(b"S")
            await to_client.start_tls(self.context)
        except (OSError, asyncio.IncompleteReadError):  # the client refuses us, or we it
            to_client.transport.abort()
            return
        await super()._accept(from_client, to_client)
