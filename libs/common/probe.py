"""Asks this container's own admin port: `python -m libs.common.probe [/readyz]`. Exit code 0 on HTTP 200, else 1.

A container runtime runs it every few seconds beside the service, so it imports no more of the standard library than
`socket` and nothing of ours that would.
"""

import os
import socket
import sys
from collections.abc import Mapping

from libs.common.ports import ADMIN_PORTS

TIMEOUT_S = 3.0
ANSWER_BYTES_MAX = 4096
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  looked up, not listened on


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    reason = reason_against(arguments[0] if arguments else "/readyz", environ)
    if reason is not None:
        print(reason, file=sys.stderr)
    return 1 if reason else 0


def reason_against(path: str, environ: Mapping[str, str]) -> str | None:
    """None when the admin port answers 200 to `path`, else one line that says what it did."""
    port = environ.get("CARILLON_ADMIN_PORT") or ADMIN_PORTS.get(environ.get("SERVICE", ""))
    if not port:
        return "no admin port: set CARILLON_ADMIN_PORT, or SERVICE to the name of the service"
    listens = environ.get("CARILLON_ADMIN_HOST") or "0.0.0.0"  # noqa: S104  the default of the setting
    host = EVERY_ADDRESS.get(listens, listens)
    try:
        answer = _get(host, int(port), path)
    except (OSError, ValueError) as error:
        return f"{host}:{port}{path}: {error}"
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] == [b"200"]:
        return None
    status = head.split(b"\r\n")[0].decode("latin-1") or "no answer"
    return " ".join(f"{host}:{port}{path}: {status} {body.decode('utf-8', 'replace')}".split())


def _get(host: str, port: int, path: str) -> bytes:
    with socket.create_connection((host, port), TIMEOUT_S) as connection:
        # HTTP/1.0: the server closes after its answer, so the end of the answer needs no parsing.
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while len(answer) < ANSWER_BYTES_MAX and (part := connection.recv(ANSWER_BYTES_MAX)):
            answer += part
        return answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
