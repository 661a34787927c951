"""What can be seen of the stack from outside: who was called, which mails came, what Prometheus knows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.chaos.aftermath import Mails, read_mails
from tests.chaos.checker import Call

URL = "http://sink:8000"
"""What tasks call."""


@dataclass
class Sink:
    """`calls` is what it told so far; `look` asks for what came since."""

    http: aiohttp.ClientSession
    url: str
    calls: list[Call] = field(default_factory=list)

    async def look(self) -> list[Call]:
        async with self.http.get(f"{self.url}/calls", params={"from": str(len(self.calls))}) as response:
            self.calls += [Call(**call) for call in await response.json()]
        return self.calls

    async def calls_of(self, id_: str) -> list[Call]:
        return [call for call in await self.look() if call.id == id_]


@dataclass
class Mailpit:
    """`folder`: where mails are put to be read."""

    http: aiohttp.ClientSession
    url: str
    folder: Path

    async def containing(self, text: str) -> list[dict[str, Any]]:
        """The messages that contain `text`, whole."""
        async with self.http.get(f"{self.url}/api/v1/search", params={"query": f'"{text}"'}) as response:
            found = (await response.json())["messages"]
        return [await self._message(each["ID"]) for each in found]

    async def mails(self, notices: list[str]) -> Mails:
        """What all mails tell."""
        async with self.http.get(f"{self.url}/api/v1/messages", params={"limit": "500"}) as response:
            found = (await response.json())["messages"]
        for each in found:
            path = self.folder / f"{each['ID']}.eml"
            if not path.exists():
                async with self.http.get(f"{self.url}/api/v1/message/{each['ID']}/raw") as response:
                    path.write_bytes(await response.read())
        return read_mails(self.folder, notices)

    async def empty(self) -> None:
        async with self.http.delete(f"{self.url}/api/v1/messages") as response:
            response.raise_for_status()

    async def _message(self, id_: str) -> dict[str, Any]:
        async with self.http.get(f"{self.url}/api/v1/message/{id_}") as response:
            message: dict[str, Any] = await response.json()
            return message


@dataclass
class Prometheus:
    http: aiohttp.ClientSession
    url: str

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant query."""
        async with self.http.get(f"{self.url}/api/v1/query", params={"query": expression}) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]
