"""What `up` tells a person when the stack is ready."""

from deploy.local.environment import SERVER_URLS, Environment, reachable
from deploy.local.layout import SERVICES, Layout, replica_name


def summary(
    layout: Layout, environment: Environment, replicas: int, first_link: str | None = None, *, servers_only: bool
) -> str:
    """Addresses, the key, where to look; `first_link` makes the console's first admin. Passwords stay in DIR/env."""
    lines = _servers(layout, environment)
    if not servers_only:
        lines = _services(layout, environment, replicas, first_link) + lines
    lines += [
        ("mail", str(layout.mail)),
        ("logs", str(layout.logs)),
        ("variables", f". {layout.env_file}"),
    ]
    return "\n".join(f"  {name:<13} {value}" for name, value in lines)


def _services(layout: Layout, environment: Environment, replicas: int, first_link: str | None) -> list[tuple[str, str]]:
    host = reachable(environment.shared["CARILLON_HOST"])
    admin_host = reachable(environment.shared["CARILLON_ADMIN_HOST"])
    numbers = range(1, replicas + 1)
    lines = [("API", f"http://{host}:{layout.http_port(replica)}") for replica in numbers]
    lines.append(("API key", environment.api_key))
    lines.append(("console", first_link or f"{environment.url(layout)}/console"))
    if first_link:
        lines.append(("", "this link makes the first user, once, within 24 hours"))
    for service in SERVICES:
        for replica in numbers:
            url = f"http://{admin_host}:{layout.admin_port(service, replica)}"
            lines.append((replica_name(service, replica), f"{url}/readyz  {url}/metrics"))
    return lines


def _servers(layout: Layout, environment: Environment) -> list[tuple[str, str]]:
    return [
        (server, "as given" if server in environment.given_servers else f"127.0.0.1:{layout.server_port(server)}")
        for server in SERVER_URLS
    ]
