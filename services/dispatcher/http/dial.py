"""From an origin to a connection: name, guarded address, TLS; each step with its time and its own kind of failure."""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import aiohappyeyeballs
from aiohttp.abc import AbstractResolver

from services.dispatcher.guard import BLOCKED_ERRNO, BlockedAddress, Egress
from services.dispatcher.http.connection import Connection
from services.dispatcher.http.failure import CallFailed
from services.dispatcher.http.names import Names
from services.dispatcher.http.proxy import Proxy, open_tunnel
from services.dispatcher.http.target import Origin, is_odd_address

# RFC 8305 section 5: how long an address may keep the next one waiting.
NEXT_ADDRESS_AFTER_S = 0.25

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


@dataclass
class Phases:
    """Seconds; None for what was not needed, or not reached."""

    dns_s: float | None = None
    connect_s: float | None = None
    tls_s: float | None = None
    first_byte_s: float | None = None


class Dialler:
    def __init__(self, egress: Egress, resolver: AbstractResolver, proxy: Proxy | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._egress = egress
        self._names = Names(resolver)
        self._proxy = proxy

    async def dial(self, origin: Origin, phases: Phases) -> Connection:
        """Raises: CallFailed. `phases` is filled on the way."""
        self._check(origin)
        addresses = await self._addresses(self._proxy.origin if self._proxy else origin, phases)
        sock = await self._connect(addresses, phases)
        if self._proxy is not None and origin.is_tls:
            await self._tunnel(sock, self._proxy, origin)
        begun = self._loop.time()
        connection = await self._wrap(sock, origin)
        if origin.is_tls:
            phases.tls_s = self._loop.time() - begun
        return connection

    async def close(self) -> None:
        await self._names.close()

    def _check(self, origin: Origin) -> None:
        """What the host itself gives away; each address is checked when it is dialled."""
        try:
            self._egress.check_host(origin.host, origin.port)
        except BlockedAddress as error:
            raise CallFailed("blocked_address", str(error)) from error
        if is_odd_address(origin.host):
            raise CallFailed("protocol", f"{origin.host} is an address in an unusual form; write it like 192.0.2.1")

    async def _addresses(self, origin: Origin, phases: Phases) -> list[AddressInfo]:
        try:
            return [_address_info(str(ip_address(origin.host)), origin.port)]
        except ValueError:
            pass  # a name, then
        known = self._names.known(origin.host)
        if known is None:
            begun = self._loop.time()
            known = await self._names.ask(origin.host)
            phases.dns_s = self._loop.time() - begun
        return [_address_info(found["host"], origin.port) for found in known]

    async def _connect(self, addresses: list[AddressInfo], phases: Phases) -> socket.socket:
        begun = self._loop.time()
        try:
            sock = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, socket_factory=self._egress.socket_for
            )
        except OSError as error:
            is_blocked = error.errno == BLOCKED_ERRNO
            raise CallFailed("blocked_address" if is_blocked else "connect", str(error.strerror or error)) from error
        phases.connect_s = self._loop.time() - begun
        return sock

    async def _tunnel(self, sock: socket.socket, proxy: Proxy, origin: Origin) -> None:
        try:
            await open_tunnel(sock, proxy, origin)
        except OSError as error:
            sock.close()
            raise CallFailed("connect", f"the proxy hung up: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise

    async def _wrap(self, sock: socket.socket, origin: Origin) -> Connection:
        tls = self._egress.tls if origin.is_tls else None
        try:
            _transport, connection = await self._loop.create_connection(
                lambda: Connection(sock), sock=sock, ssl=tls, server_hostname=origin.host if tls else None
            )
        except (OSError, ssl.CertificateError) as error:
            sock.close()
            raise CallFailed("tls", f"{type(error).__name__}: {error.strerror or error}") from error
        except asyncio.CancelledError:
            sock.close()
            raise
        return connection


def _address_info(address: str, port: int) -> AddressInfo:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)
