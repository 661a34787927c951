"""Users with a password, and their way in through the form."""

from argon2 import PasswordHasher

from services.ingest.console.page import Role
from tests.integration.console.conftest import Answer, Rig, Visit

PASSWORD = "a lamp on the quay"
# Of this session: a good hash takes 19 MiB and 30 ms.
HASH = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)


async def with_password(console: Rig, name: str = "ann", role: Role = "operator", password: str | None = HASH) -> None:
    id_ = await console.user(role, name)
    async with console.postgres.acquire() as connection:
        await connection.execute("UPDATE console_user SET password = $2 WHERE id = $1", id_, password)


async def log_in(visit: Visit, name: str = "ann", password: str = PASSWORD, next_: str = "") -> Answer:
    return await visit.post("/login", {"name": name, "password": password, "next": next_})


async def is_in(visit: Visit) -> bool:
    """Whether a page that needs a session is shown."""
    return (await visit.get("/account")).status == 200
