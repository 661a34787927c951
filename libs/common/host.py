"""What limits, pauses and breakers go by: the host and port that a URL writes. Pure."""


def host_of(url: str) -> str:
    """`host[:port]` of an absolute URL, lower case."""
    authority = url.partition("://")[2].partition("/")[0].partition("?")[0].partition("#")[0]
    return authority.rpartition("@")[2].lower()
