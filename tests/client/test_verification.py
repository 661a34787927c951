"""`carillon.verify` against what the dispatcher signs, and against the standardwebhooks package, both ways."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from carillon import VerificationError, verify
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from libs.common.signing import secret, whsec
from services.dispatcher.signature import Signer, Versions
from tests.unit.dispatcher.samples import MASTER_KEY, SIGNER, a_task

SECRET = whsec(secret(MASTER_KEY, "shop", 1))
OTHER = whsec(b"another secret, of another sender")
BODY = '{"order": 42, "for": "Zo\u00eb \u2603"}'.encode()


def signed(body: bytes = BODY, *, ago_s: float = 0, signer: Signer = SIGNER) -> dict[str, str]:
    return dict(signer.headers(a_task(), body, datetime.now(UTC) - timedelta(seconds=ago_s)))


def by_the_package(body: str, *, ago_s: float = 0) -> dict[str, str]:
    at = datetime.now(UTC) - timedelta(seconds=ago_s)
    signature = Webhook(SECRET).sign("msg_1", at, body)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


@pytest.mark.parametrize("body", [BODY, b"", b"\x00\xff\r\n", b"x" * 300_000])
def test_a_call_of_the_dispatcher_is_taken_and_tells_its_id(body: bytes) -> None:
    headers = signed(body)
    received = verify(headers, body, SECRET)
    assert received.id == headers["webhook-id"]
    assert received.timestamp == int(headers["webhook-timestamp"])


@given(body=st.text(max_size=200))
def test_what_the_package_signs_is_taken(body: str) -> None:
    assert verify(by_the_package(body), body.encode(), SECRET).id == "msg_1"


HEADERS = ["webhook-id", "webhook-timestamp", "webhook-signature"]
WRONG: list[Callable[[dict[str, str]], dict[str, str]]] = [
    lambda headers: headers,
    lambda headers: {},
    lambda headers: headers | {"webhook-id": "msg_2"},
    lambda headers: headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)},
    lambda headers: headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 301)},
    lambda headers: headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 310)},
    lambda headers: headers | {"webhook-timestamp": "soon"},
    lambda headers: headers | {"webhook-signature": headers["webhook-signature"].replace("v1,", "v2,")},
    lambda headers: headers | {"webhook-signature": "v1," + base64.b64encode(bytes(32)).decode()},
    lambda headers: headers | {"webhook-signature": f"v1,AAAA {headers['webhook-signature']} v1a,x"},
    lambda headers: {name.upper(): value for name, value in headers.items()},
]


@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("body", ["", '{"a": 1}'])
def test_the_package_and_this_agree_about_every_call(
    change: Callable[[dict[str, str]], dict[str, str]], body: str
) -> None:
    headers = change(by_the_package(body))

    def package() -> bool:
        try:
            Webhook(SECRET).verify(body, headers, json_parse=False)
        except (WebhookVerificationError, ValueError):
            return False
        return True

    def ours() -> bool:
        try:
            verify(headers, body.encode(), SECRET)
        except VerificationError:
            return False
        return True

    assert ours() == package()


@given(data=st.data(), at=st.integers(0, 200))
def test_a_body_with_one_byte_changed_is_refused(data: st.DataObject, at: int) -> None:
    body = bytes(range(201))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != body[at]))
    headers = signed(body)
    with pytest.raises(VerificationError, match="no signature is right"):
        verify(headers, body[:at] + bytes([other]) + body[at + 1 :], SECRET)


@pytest.mark.parametrize("secrets", [f"{OTHER} {SECRET}", [OTHER, SECRET], (SECRET,), SECRET.removeprefix("whsec_")])
def test_one_secret_of_several_is_enough(secrets: str | list[str]) -> None:
    verify(signed(), BODY, secrets)


def test_during_a_rotation_either_secret_verifies_and_afterwards_the_new_one_alone() -> None:
    new = whsec(secret(MASTER_KEY, "shop", 2))
    overlapping = signed(signer=Signer(MASTER_KEY, lambda _: Versions(2, datetime.now(UTC) + timedelta(hours=1))))
    for each in (SECRET, new):
        verify(overlapping, BODY, each)
    over = signed(signer=Signer(MASTER_KEY, lambda _: Versions(2)))
    verify(over, BODY, new)
    with pytest.raises(VerificationError, match="no signature is right"):
        verify(over, BODY, SECRET)


@pytest.mark.parametrize("ago_s", [310, -310])
def test_a_call_signed_too_far_from_now_is_refused_and_says_how_far(ago_s: int) -> None:
    way = "ago" if ago_s > 0 else "ahead"
    with pytest.raises(VerificationError, match=rf"signed 3[01]\d s {way}, more than 300"):
        verify(signed(ago_s=ago_s), BODY, SECRET)
    verify(signed(ago_s=ago_s), BODY, SECRET, tolerance_s=320)
    verify(signed(ago_s=ago_s * 0.9), BODY, SECRET)


def test_the_time_may_be_given() -> None:
    headers = signed()
    at = int(headers["webhook-timestamp"])
    verify(headers, BODY, SECRET, now=at + 300)
    with pytest.raises(VerificationError, match="ago"):
        verify(headers, BODY, SECRET, now=at + 301)


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_header_is_named(name: str, value: str | None) -> None:
    rest = {key: said for key, said in signed().items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(VerificationError, match=f"the header {name} is missing"):
        verify(rest, BODY, SECRET)


@pytest.mark.parametrize("timestamp", ["soon", "-1", "1.5", "9" * 30, "\u0661\u0662", "1_0", " 1", "1e9"])
def test_a_timestamp_that_is_none_is_refused(timestamp: str) -> None:
    with pytest.raises(VerificationError, match="webhook-timestamp is no number"):
        verify(signed() | {"webhook-timestamp": timestamp}, BODY, SECRET)


@pytest.mark.parametrize("wrong", ["garbage", "v2,{}", "{},", "v1a,{}", "V1,{}"])
def test_a_signature_of_no_known_version_is_refused_as_such(wrong: str) -> None:
    headers = signed()
    right = headers["webhook-signature"].removeprefix("v1,")
    with pytest.raises(VerificationError, match="no signature of version v1"):
        verify(headers | {"webhook-signature": wrong.format(right)}, BODY, SECRET)


@pytest.mark.parametrize("wrong", ["v1", "v1,", "v1,AAAA", "v1,x{}", "v1,{}x", "v1,\u00e9", "v1,{},", "v1,,{}"])
def test_a_wrong_signature_is_refused(wrong: str) -> None:
    headers = signed()
    right = headers["webhook-signature"].removeprefix("v1,")
    with pytest.raises(VerificationError, match="no signature is right"):
        verify(headers | {"webhook-signature": wrong.format(right)}, BODY, SECRET)


def test_headers_of_any_framework_are_read() -> None:
    headers = signed()
    verify(CIMultiDict({name.title(): value for name, value in headers.items()}), BODY, SECRET)
    verify([(name.upper(), value) for name, value in headers.items()], BODY, SECRET)
    verify([(name.encode(), value.encode()) for name, value in headers.items()], BODY, SECRET)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_stands_twice_is_refused(name: str) -> None:
    """Else the one that is checked need not be the one that the receiver reads."""
    headers = signed()
    for pairs in ([*headers.items(), (name.upper(), "x")], [(name.upper(), "x"), *headers.items()]):
        with pytest.raises(VerificationError, match=f"{name} stands twice"):
            verify(pairs, BODY, SECRET)


@pytest.mark.parametrize(
    ("given", "text"),
    [("", "no secret"), ([], "no secret"), ("  ", "no secret"), ("whsec_", "0 bytes"), ("whsec_AAAA", "3 bytes"),
     ("whsec_?", "no base64"), (f"{SECRET} x", "no base64"), ("whsec_" + "A" * 31, "no base64")],
)  # fmt: skip
def test_a_secret_that_is_none_is_a_mistake_of_the_receivers(given: str | list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        verify(signed(), BODY, given)
    assert SECRET not in str(raised.value)


def test_a_parsed_body_is_refused_as_such() -> None:
    with pytest.raises(TypeError, match="raw bytes"):
        verify(signed(), BODY.decode(), SECRET)  # type: ignore[arg-type]


def test_bytes_of_other_kinds_are_bytes() -> None:
    for body in (bytearray(BODY), memoryview(BODY)):
        verify(signed(), body, SECRET)


def test_every_signature_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr("carillon.verification.hmac.compare_digest", compare)
    headers = signed()
    verify(headers | {"webhook-signature": f"{headers['webhook-signature']} v1,AAAA"}, BODY, [SECRET, OTHER])
    assert len(compared) == 4


async def test_a_request_of_aiohttp_can_be_verified(aiohttp_client: Callable[..., object]) -> None:
    async def hook(request: web.Request) -> web.Response:
        try:
            received = verify(request.headers, await request.read(), SECRET)
        except VerificationError as error:
            return web.Response(status=401, text=str(error))
        return web.Response(text=received.id)

    app = web.Application()
    app.router.add_post("/hook", hook)
    receiver = await aiohttp_client(app)  # type: ignore[misc]
    headers = signed()
    assert await (await receiver.post("/hook", data=BODY, headers=headers)).text() == headers["webhook-id"]
    assert (await receiver.post("/hook", data=b"forged", headers=headers)).status == 401
