"""A world in which every address is this machine, and so is every name server: each call that is made is heard.

Run as a program in a network namespace of its own (`NAMESPACE`), which it furnishes: all addresses are local (Linux'
AnyIP), a canary listens on all of them, and a DNS server of some lines answers whatever a caller asks. Reads what to
call from stdin as JSON, writes what was met and which addresses heard it.
"""

import asyncio
import json
import socket
import ssl
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Protocol

import msgspec

from libs.common.clock import Clock, SystemClock
from libs.common.contracts import Call
from libs.common.egress import EgressRules
from services.dispatcher.caller import Caller, Request
from services.dispatcher.guard import Egress, ssl_context
from services.dispatcher.http.caller import LeanCaller
from tests.forbidden import DEAD, NAMES, REBINDING
from tests.integration.dispatcher.aiohttp_caller import AiohttpCaller

NAMESPACE = ("unshare", "--user", "--map-root-user", "--net", "--")
A, AAAA = 1, 28


class Closable(Caller, Protocol):
    async def close(self) -> None: ...


CALLERS: dict[str, Callable[[Egress, Clock], Closable]] = {"aiohttp": AiohttpCaller, "lean": LeanCaller}


class Row(msgspec.Struct, frozen=True):
    """One thing to call, `times` times, each by a new caller: no cache and no connection is left from the last."""

    caller: str
    url: str
    times: int = 1
    allow_networks: tuple[str, ...] = ()
    deny_networks: tuple[str, ...] = ()
    own_ports: tuple[int, ...] = ()


class Met(msgspec.Struct):
    errors: list[str | None]
    details: list[str | None]
    statuses: list[int | None]
    reached: list[str]
    """Each connection that the canary took, as the address that was dialled."""
    asked: int
    """Questions that the DNS server heard."""


class World(msgspec.Struct):
    ports: list[int]
    rows: list[Row]


class Canary(asyncio.Protocol):
    """Says 200 to whoever comes, and remembers where they went."""

    def __init__(self, reached: list[str]) -> None:
        self._reached = reached

    def connection_made(self, transport: Any) -> None:
        self._reached.append(transport.get_extra_info("sockname")[0])
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class Dns(asyncio.DatagramProtocol):
    """RFC 1035, as much as a stub resolver asks for. Time to live 0: nobody may keep an answer."""

    def __init__(self, asked: Counter[tuple[str, int]]) -> None:
        self._asked = asked
        self._zone = {name.name: name.answers for name in (*NAMES, *REBINDING)}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        name, kind, end = _question(data)
        answers = self._zone.get(name, ())
        ips = answers[min(self._asked[name, kind], len(answers) - 1)] if answers else ()
        self._asked[name, kind] += 1
        packed = [ip_address(ip).packed for ip in ips if (AAAA if ":" in ip else A) == kind]
        records = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(each)) + each for each in packed)
        flags = 0x8180 if answers else 0x8183  # a name that is not in the zone does not exist
        head = data[:2] + struct.pack("!HHHHH", flags, 1, len(packed), 0, 0)
        self._transport.sendto(head + data[12:end] + records, addr)


def _question(data: bytes) -> tuple[str, int, int]:
    labels, at = [], 12
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower(), struct.unpack_from("!H", data, at + 1)[0], at + 5


def furnish() -> None:
    for command in (
        "link set lo up",
        "route add local 0.0.0.0/0 dev lo",
        "-6 route add local ::/0 dev lo",
        f"route add unreachable {DEAD}/32 table local",
    ):
        subprocess.run(["ip", *command.split()], check=True)


async def main(world: World) -> list[Met]:
    loop = asyncio.get_running_loop()
    reached: list[str] = []
    asked: Counter[tuple[str, int]] = Counter()
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        heard = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        heard.bind((everywhere, 53))
        await loop.create_datagram_endpoint(lambda: Dns(asked), sock=heard)
        for port in world.ports:
            await loop.create_server(lambda: Canary(reached), everywhere, port, family=family)
    tls = ssl_context()
    return [await meet(row, tls, reached, asked) for row in world.rows]


async def meet(row: Row, tls: ssl.SSLContext, reached: list[str], asked: Counter[tuple[str, int]]) -> Met:
    egress = Egress(EgressRules(row.allow_networks, row.deny_networks, row.own_ports), tls)
    heard_before, asked_before = len(reached), asked.total()
    answers = []
    for _ in range(row.times):
        caller = CALLERS[row.caller](egress, SystemClock())
        answers.append(await caller.call(Request(Call(url=row.url, method="GET", timeout_s=5.0), ())))
        await caller.close()
    return Met(
        [answer.error for answer in answers],
        [answer.error_detail for answer in answers],
        [answer.status_code for answer in answers],
        reached[heard_before:],
        asked.total() - asked_before,
    )


if __name__ == "__main__":
    furnish()
    told = msgspec.json.decode(sys.stdin.buffer.read(), type=World)
    json.dump(msgspec.to_builtins(asyncio.run(main(told))), sys.stdout)
