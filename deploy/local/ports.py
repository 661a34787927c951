"""Are the ports of a stack free, before anything is started?"""

import errno
import socket
from collections.abc import Iterable

from deploy.local.errors import StackError
from deploy.local.layout import LOOPBACK, Listener


def check_free(listeners: Iterable[Listener]) -> None:
    """Raises `StackError` that lists every port taken, and what it is wanted for."""
    taken = [listener for listener in listeners if not is_free(listener.port)]
    if taken:
        lines = [f"  {port}, wanted by {process} ({purpose})" for process, purpose, port in taken]
        raise StackError(
            "these ports are taken:\n"
            + "\n".join(lines)
            + "\nEnd what listens there (ss -ltnp shows it), or shift all ports: --port-offset 100"
        )


def is_free(port: int) -> bool:
    """Could a server listen here now?"""
    if not 0 < port < 65536:
        raise StackError(f"there is no port {port}: choose a smaller --port-offset or fewer --replicas")
    with socket.socket() as probe:
        # As servers do: connections of the last run that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise StackError(f"cannot listen on port {port}: {error.strerror}") from error
    return True
