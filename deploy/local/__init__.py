"""The local stack: servers and services on this machine without Docker, root or an installed server."""
