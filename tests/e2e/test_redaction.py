"""No secret of the stack, of its clients or of a call is in any log or metric of the run."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from yarl import URL

from tests.e2e.conftest import STACK, Receiver, create, eventually, task_in
from tests.e2e.test_operation import PROCESSES, admin

PLANTED = uuid4().hex
PUBLIC = f"request-{PLANTED}"
"""An id that a client gives its request: it is in the log, so that it can be found."""


async def test_no_log_and_no_metric_holds_a_secret_that_was_planted(
    stack: dict[str, str], api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    planted = {f"the stack's {path.name}": path.read_text().strip() for path in (STACK / "secrets").iterdir()}
    planted |= await told_by_the_api(api) | await used_in_a_task(api, receiver) | await tried_at_the_doors(api, stack)
    assert len(planted) >= 11
    seen = logs() | {f"metrics of {service}-{n}": await metrics(api, service, n) for service, n in PROCESSES}
    assert len(seen) > 2 * len(PROCESSES)  # the servers' logs as well
    found = [f"{what} is in {where}" for where, text in seen.items() for what, word in planted.items() if word in text]
    assert found == []
    assert any(PUBLIC in text for text in seen.values()), "the search finds nothing at all"


async def told_by_the_api(api: aiohttp.ClientSession) -> dict[str, str]:
    """What is shown once: a new key, and the secret that calls are signed with."""
    wanted = {"name": "redaction", "scopes": ["tasks:read"]}
    async with api.post("/v1/keys", json=wanted, headers={"X-Request-Id": PUBLIC}) as response:
        assert response.status == 201, await response.text()
        key = (await response.json())["key"]
    async with api.get("/v1/signing-secret") as response:
        assert response.status == 200, await response.text()
        secrets = await response.json()
    return {"a new key": key, "the signing secret": secrets["secret"]}


async def used_in_a_task(api: aiohttp.ClientSession, receiver: Receiver) -> dict[str, str]:
    """Of one task that is called, one whose call fails for good, and one whose receiver cannot be reached."""
    words = {part: f"{part}-{PLANTED}" for part in ("header", "body", "query")}
    receiver.answers["redaction-fails"] = [410]
    call: dict[str, Any] = {
        "headers": {"Authorization": f"Bearer {words['header']}"},
        "body": {"password": words["body"]},
    }
    urls = [f"{receiver.url}/redaction", f"{receiver.url}/redaction-fails", "http://127.0.0.1:59999/redaction-away"]
    tasks = [await create(api, url=f"{url}?token={words['query']}", retry={"schedule_s": []}, **call) for url in urls]
    for task in tasks:
        await task_in(api, task["id"], "succeeded", "failed")
    return {f"a task's {part}": word for part, word in words.items()}


async def tried_at_the_doors(api: aiohttp.ClientSession, stack: dict[str, str]) -> dict[str, str]:
    """What somebody sends that is refused: a wrong key, a login in a URL, a wrong password, a secret in a bad body."""
    words = {part: f"{part}-{PLANTED}" for part in ("key", "login", "password", "field")}
    url = URL(stack["CARILLON_URL"])
    async with aiohttp.ClientSession() as stranger:
        headers = {"Authorization": f"Bearer rk_live_{words['key']}"}
        async with stranger.post(url / "v1/tasks", json={}, headers=headers) as response:
            assert response.status == 401
        fields = {"username": "root", "password": words["password"]}
        await stranger.post(url / "console/login", data=fields, headers={"Origin": str(url.origin())})
    async with api.post("/v1/tasks", json={"url": f"http://me:{words['login']}@example.com/"}) as response:
        assert response.status == 422
    async with api.post("/v1/tasks", json={"url": 5, words["field"]: {"secret": words["field"]}}) as response:
        assert response.status in (400, 422)
    return {f"a refused {part}": word for part, word in words.items()}


def logs() -> dict[str, str]:
    return {path.name: path.read_text(errors="replace") for path in sorted(Path(STACK / "logs").iterdir())}


async def metrics(api: aiohttp.ClientSession, service: str, replica: int) -> str:
    async def look() -> str | None:
        try:
            async with api.get(f"{admin(service, replica)}/metrics") as response:
                return await response.text()
        except aiohttp.ClientConnectionError:
            return None  # a test before this one has killed it

    return await eventually(f"metrics of {service}-{replica}", look)
