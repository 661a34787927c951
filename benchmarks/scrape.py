"""What the services count about themselves: their /metrics pages, added up over all processes."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, frozenset[tuple[str, str]]]
"""A sample's name and its labels."""

ITEMS, MESSAGES = "carillon_publisher_items_total", "carillon_publisher_messages_total"


@dataclass(frozen=True)
class Packed:
    """What travelled to one exchange, confirmed."""

    items: int
    messages: int


class Counts:
    """All samples of all processes at one moment, or what they grew by between two."""

    def __init__(self, samples: "Counter[Key]") -> None:
        self._samples = samples

    def since(self, before: "Counts") -> "Counts":
        grown = self._samples.copy()
        grown.subtract(before._samples)
        return Counts(grown)

    def total(self, name: str, **labels: str) -> int:
        """The sum over every process and every label that is not named."""
        wanted = set(labels.items())
        return sum(value for (sample, own), value in self._samples.items() if sample == name and wanted <= own)

    def packing(self) -> dict[str, Packed]:
        """By exchange; those to which nothing travelled are left out."""
        exchanges = {dict(labels)["exchange"] for (name, labels), count in self._samples.items() if name == MESSAGES}
        packed = {exchange: self._packed(exchange) for exchange in sorted(exchanges)}
        return {exchange: travelled for exchange, travelled in packed.items() if travelled.messages}

    def _packed(self, exchange: str) -> Packed:
        items, messages = (self.total(name, exchange=exchange, outcome="confirmed") for name in (ITEMS, MESSAGES))
        return Packed(items, messages)


async def scrape(session: aiohttp.ClientSession, admin_urls: Iterable[str]) -> Counts:
    """The counters of Carillon, as whole numbers."""
    pages = await asyncio.gather(*(_page(session, url) for url in admin_urls))
    samples: Counter[Key] = Counter()
    for page in pages:
        families = text_string_to_metric_families(page)
        counters = (family for family in families if family.type == "counter" and family.name.startswith("carillon_"))
        for sample in (sample for family in counters for sample in family.samples):
            samples[sample.name, frozenset(sample.labels.items())] += int(sample.value)
    return Counts(samples)


async def gauge(session: aiohttp.ClientSession, admin_url: str, name: str) -> float:
    """A gauge without labels. Raises: ValueError when the process has none of that name."""
    lines = (line.partition(" ") for line in (await _page(session, admin_url)).splitlines())
    for sample, _, value in lines:
        if sample == name:
            return float(value)
    raise ValueError(f"{admin_url} has no {name}")


async def _page(session: aiohttp.ClientSession, admin_url: str) -> str:
    async with session.get(f"{admin_url}/metrics") as response:
        response.raise_for_status()
        return await response.text()
