"""The bytes that the lean caller sends."""

import pytest

from libs.common.contracts import Call
from services.dispatcher.caller import Request
from services.dispatcher.http.proxy import proxy_of
from services.dispatcher.http.request_head import bytes_of
from services.dispatcher.http.target import target_of


def sent(*headers: tuple[str, str], url: str = "http://a.example/b?c", proxy: str = "", **different: object) -> bytes:
    call = Call(**{"url": url, **different})  # type: ignore[arg-type]
    return bytes_of(Request(call, headers), target_of(url), proxy_of(proxy) if proxy else None)


def test_a_request_is_written_once_and_whole() -> None:
    assert sent(("X-A", "b"), ("x-a", "é"), body=b"\r\n\0") == (
        b"POST /b?c HTTP/1.1\r\nHost: a.example\r\nX-A: b\r\nx-a: \xc3\xa9\r\nContent-Length: 3\r\n\r\n\r\n\0"
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "DELETE"])
def test_a_method_that_needs_no_body_says_nothing_of_one(method: str) -> None:
    assert sent(method=method) == f"{method} /b?c HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()
    assert b"Content-Length: 1\r\n" in sent(method=method, body=b"x")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "PROPFIND"])
def test_any_other_says_that_it_is_empty(method: str) -> None:
    assert sent(method=method).endswith(b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [("X", "a\r\nb"), ("X", "a\nb"), ("X", "a\rb"), ("X", "\0"), ("X", "\r\n"), ("X\r\nY", "a"), ("X Y", "a"),
     ("X:", "a"), (" X", "a"), ("", "a"), ("é", "a"), ("X", "\ud800"), ("X\n", "a")],
)  # fmt: skip
def test_no_header_can_be_read_as_two(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        sent((name, value))


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "CONNECTION", "TE", "Trailer", "Upgrade", "Expect"]
)
def test_what_frames_a_message_is_not_the_clients(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        sent((name, "1"))


@pytest.mark.parametrize("method", ["", "GE T", "G\r\n", "G:", "É"])
def test_a_method_is_a_token(method: str) -> None:
    with pytest.raises(ValueError, match="token"):
        sent(method=method)


def test_a_proxy_reads_plain_requests_and_nothing_of_others() -> None:
    plain = sent(proxy="http://me:s%3A3@proxy.example:3128")
    assert plain.startswith(
        b"POST http://a.example/b?c HTTP/1.1\r\nHost: a.example\r\nProxy-Authorization: Basic bWU6czoz\r\n"
    )
    assert sent(proxy="http://proxy.example").startswith(
        b"POST http://a.example/b?c HTTP/1.1\r\nHost: a.example\r\nContent"
    )
    through = sent(url="https://a.example/b?c", proxy="http://me:s3@proxy.example:3128")
    assert through == sent(url="https://a.example/b?c")
