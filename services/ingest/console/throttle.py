"""How often a password may be tried, counted in Redis for all replicas: of one account, and from one address.

A try counts as failed before its password is looked at, so that many at once are not many guesses; a success takes it
back. An account that does not exist counts as one that does. From an address that has logged in to the account before,
tries are counted apart: so who guesses at it from elsewhere does not lock its owner out.
"""

import hashlib
import ipaddress

from redis.asyncio import Redis

from libs.common.redis import translating

PREFIX = "carillon:ingest:login:"
WAIT_FIRST_S, WAIT_MAX_S = 1, 300
"""After a failed try of an account; doubled by each that follows it."""
FORGOTTEN_S = 900
"""After the last try of an account."""
PER_ADDRESS, PER_ADDRESS_S = 20, 300
KNOWN_S = 30 * 86_400
_IPV6_HOME = 64
"""Bits of an address that one customer has all of."""

# By Redis' clock. KEYS: the account, the account from this address, whether that has been in, the address.
# Gives the milliseconds to wait; 0: counted, go on.
_TRY = """
local account = redis.call('EXISTS', KEYS[3]) == 1 and KEYS[2] or KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local tries = tonumber(redis.call('HGET', account, 'tries') or '0')
local from = tonumber(redis.call('HGET', account, 'from') or '0')
local of_address = tonumber(redis.call('GET', KEYS[4]) or '0')
local wait = math.max(from - now, 0)
if of_address >= tonumber(ARGV[4]) then
    wait = math.max(wait, redis.call('PTTL', KEYS[4]))
end
if wait > 0 then
    return wait
end
local pause = math.min(tonumber(ARGV[1]) * 2 ^ math.min(tries, 32), tonumber(ARGV[2]))
redis.call('HSET', account, 'tries', tries + 1, 'from', string.format('%.0f', now + pause * 1000))
redis.call('EXPIRE', account, ARGV[3])
if redis.call('INCR', KEYS[4]) == 1 then
    redis.call('EXPIRE', KEYS[4], ARGV[5])
end
return 0
"""
# KEYS as above. The try that succeeded was no failure of the address; the account's are forgotten.
_SUCCEEDED = """
local account = redis.call('EXISTS', KEYS[3]) == 1 and KEYS[2] or KEYS[1]
redis.call('DEL', account)
redis.call('SET', KEYS[3], '1', 'EX', ARGV[1])
if tonumber(redis.call('GET', KEYS[4]) or '0') > 0 then
    redis.call('DECR', KEYS[4])
end
"""


class Throttle:
    """All raise RedisAway."""

    def __init__(self, redis: Redis) -> None:
        self._try = redis.register_script(_TRY)
        self._succeeded = redis.register_script(_SUCCEEDED)

    async def attempt(self, name: str, address: str) -> float:
        """Count a try. Gives the seconds to wait in its place; 0: look at the password."""
        settings = [WAIT_FIRST_S, WAIT_MAX_S, FORGOTTEN_S, PER_ADDRESS, PER_ADDRESS_S]
        with translating():
            wait_ms = await self._try(_keys(name, address), settings)
        return int(wait_ms) / 1000

    async def succeeded(self, name: str, address: str) -> None:
        """Take the try back: the password was right."""
        with translating():
            await self._succeeded(_keys(name, address), [KNOWN_S])


def home_of(address: str) -> str:
    """The part of an address that one customer has: of IPv6 all with the same first 64 bits are one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, _IPV6_HOME), strict=False))
    return str(ip)


def _keys(name: str, address: str) -> list[str]:
    account = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    home = home_of(address)
    return [
        f"{PREFIX}account:{account}",
        f"{PREFIX}account:{account}:{home}",
        f"{PREFIX}known:{account}:{home}",
        f"{PREFIX}address:{home}",
    ]
