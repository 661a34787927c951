"""What no call may reach while nothing is opened, as a client could write or disguise it. Two suites go through it:
ingest answers 422 to what a URL says, and no caller connects."""

from typing import NamedTuple

PORT = 8080
"""Where the canary listens for all that is about addresses."""

ADDRESSES = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.0.0.2 127.255.255.254 169.254.0.1
    169.254.169.254 169.254.170.2 169.254.170.23 168.63.129.16 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.250
    240.0.0.1 255.255.255.255
    :: ::1 0:0:0:0:0:0:0:1 ::2 ::127.0.0.1 ::169.254.169.254 ::ffff:0.0.0.0 ::ffff:127.0.0.1 ::ffff:7f00:1
    0:0:0:0:0:ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:168.63.129.16 ::ffff:0:127.0.0.1
    64:ff9b::7f00:1 64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::a00:1 64:ff9b::a83f:8110 64:ff9b:1::1
    64:ff9b:1::7f00:1 64:ff9b:1:7f00:0:100::
    100::1 2001::1 2001:0:7f00:1:: 2001:0:808:808::80ff:fffe 2001:2::1 2001:10::1 2001:db8::1
    2002:7f00:1:: 2002:a9fe:a9fe:: 2002:a00:1::1 2002:a83f:8110::
    2a00:1450:4001:81a:0:5efe:7f00:1 2a00:1450:4001:81a:200:5efe:a00:1 fe80::5efe:a9fe:a9fe
    3fff::1 4000::1 5f00::1 8000::1 fc00::1 fd00::1 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42 fe00::1
    fe80::1 fe80::a9fe:a9fe febf::1 fec0::1 feff::1 ff02::1 ff0e::1
""".split()

# No client may write these, whatever they stand for: a resolver, a connector or an IDNA step may read an address there.
SPELLINGS = """
    localhost LOCALHOST localhost. api.localhost 127.0.0.1. 127.1 127.0.1 0177.0.0.1 0x7f.0.0.1 0x7f.1 0X7F000001
    2130706433 017700000001 0 0x0 127.0.0.01 00127.0.0.1 127.0.0.1%00 127.0.0.1%20 %31%32%37.0.0.1 1.2.3.4.5 256.0.0.1
    ①②⑦.⓪.⓪.① 127。0。0。1 127.0.0。1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ 3232235777 0xa9fea9fe 0251.0376.0251.0376
    [fe80::1%25eth0] [fe80::1%25lo] [fe80::1%25] [::1%25lo] [::1%lo] [::ffff:127.0.0.1%25lo] [::ffff:127.1] [v1.x]
""".split()

# Another protocol's, at an address that may be called.
PORTS = (1, 7, 19, 22, 23, 25, 110, 111, 143, 389, 465, 587, 636, 993, 2049, 3659, 4190, 4369, 5060, 5432, 5671, 5672,
         6000, 6379, 6667, 10080, 25672)  # fmt: skip


class Name(NamedTuple):
    """A name that only a resolver knows to be bad. A list of addresses for each time it is asked, the last for ever."""

    name: str
    answers: tuple[tuple[str, ...], ...]


PUBLIC, PUBLIC_6, DEAD = "93.184.216.34", "2606:2800:220:1::1", "198.35.26.96"
"""May be called; nothing leads to DEAD."""

NAMES = (
    Name("loopback.example", (("127.0.0.1",),)),
    Name("loopback-6.example", (("::1",),)),
    Name("both.example", (("127.0.0.1", "::1"),)),
    Name("private.example", (("10.0.0.1", "192.168.1.1", "172.16.0.1", "fd00::1"),)),
    Name("metadata.google.internal", (("169.254.169.254",),)),
    Name("unspecified.example", (("0.0.0.0", "::"),)),
    Name("mapped.example", (("::ffff:127.0.0.1",),)),
    Name("nat64.example", (("64:ff9b::7f00:1",),)),
    Name("nat64-metadata.example", (("64:ff9b::a9fe:a9fe",),)),
    Name("6to4.example", (("2002:7f00:1::",),)),
    Name("teredo.example", (("2001:0:808:808::80ff:fffe",),)),
    Name("isatap.example", (("2a00:1450:4001:81a:0:5efe:7f00:1",),)),
    Name("wire-server.example", (("168.63.129.16",),)),
)

# With an answer that may be called among those that may not: what is reached must be PUBLIC alone, or nothing.
REBINDING = (
    Name("flips.example", ((PUBLIC,), ("127.0.0.1",), (PUBLIC,), ("169.254.169.254",), (PUBLIC,), ("10.0.0.1",))),
    Name("flips-after-the-check.example", ((PUBLIC,), ("127.0.0.1",))),
    Name("flips-to-6.example", ((PUBLIC, PUBLIC_6), ("::1",))),
    Name("flips-back.example", (("127.0.0.1",), (PUBLIC,))),
    Name("beside.example", ((PUBLIC, "127.0.0.1", "::1"),)),
    Name("beside-6.example", (("::1", "64:ff9b::7f00:1", PUBLIC),)),
    Name("second-best.example", ((DEAD, "127.0.0.1"),)),
    Name("third-best.example", ((DEAD, "127.0.0.1", PUBLIC),)),
)


def hosts() -> list[str]:
    """What a URL says by itself."""
    return [f"[{address}]" if ":" in address else address for address in ADDRESSES] + SPELLINGS
