"""A call as a shell command that repeats it byte for byte. Pure."""

import base64
import shlex
from collections.abc import Callable, Iterator

from libs.common.contracts import Call

AsArgument = Callable[[bytes], str | None]


def curl_command(call: Call, *, as_argument: AsArgument | None = None) -> str:
    """For a POSIX shell with curl, and base64 for a body that `as_argument` gives no text of."""
    words = ["curl", "--globoff", "--path-as-is"]  # the URL as it is: no ranges in brackets, no folding of ..
    words += ["--head"] if call.method == "HEAD" else ["--request", call.method]
    for header in _headers(call):
        words += ["--header", header]
    if not call.body:
        return shlex.join([*words, call.url])
    text = (as_argument or body_argument)(call.body)
    if text is not None:
        return shlex.join([*words, "--data-raw", text, call.url])  # --data would read a file for a leading @
    encoded = base64.b64encode(call.body).decode()
    return f"echo {encoded} | base64 -d | {shlex.join([*words, '--data-binary', '@-', call.url])}"


def _headers(call: Call) -> Iterator[str]:
    for name, value in call.headers:
        yield f"{name}: {value}" if value else f"{name};"  # curl's way to send an empty header
    if call.body and not any(name.lower() == "content-type" for name, _value in call.headers):
        yield "Content-Type:"  # else curl calls it a form


def body_argument(body: bytes) -> str | None:
    """None when no argument of a process can hold it."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
