"""A port offset at which a whole stack finds room: several test sessions may run on one machine."""

import os
from pathlib import Path

from deploy.local.layout import Layout
from deploy.local.ports import is_free
from deploy.local.servers import PURPOSES
from deploy.local.servers import listeners as server_listeners
from deploy.local.services import listeners as service_listeners


def free_offset(replicas: int = 2) -> int:
    """Begins at another one in each process, and stays below the range of outgoing connections."""
    offsets = [1500 + (os.getpid() + step) % 22 * 70 for step in range(22)]
    return next(offset for offset in offsets if _has_room(offset, replicas))


def _has_room(offset: int, replicas: int) -> bool:
    layout = Layout(Path(), port_offset=offset)
    wanted = server_listeners(list(PURPOSES), layout) + service_listeners(layout, replicas)
    return all(is_free(listener.port) for listener in wanted)
