"""What is said of an error that is about TLS, and that nothing is said of others."""

import ssl

import pytest

from libs.common.tls import tls_trouble


def refused(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        (9, "certificate is not yet valid", "set the clocks right"),
        (10, "certificate has expired", "renew it on the server"),
        (18, "self-signed certificate", "name the CA that signed it"),
        (62, "Hostname mismatch, certificate is not valid for 'db'.", "name the server in the URL"),
    ],
)
def test_a_refused_certificate_is_told_with_its_own_remedy(code: int, message: str, remedy: str) -> None:
    said = tls_trouble(refused(code, message))
    assert said is not None
    assert message.rstrip(".") in said
    assert remedy in said


def test_the_cause_is_found_behind_what_a_library_made_of_it() -> None:
    wrapped = ConnectionError("cannot connect")
    wrapped.__cause__ = refused(10, "certificate has expired")
    assert "expired" in str(tls_trouble(wrapped))


def test_causes_that_go_in_a_circle_are_gone_through_once() -> None:
    one, other = ConnectionError("one"), ConnectionError("other")
    one.__cause__, other.__cause__ = other, one
    assert tls_trouble(one) is None


def test_a_file_that_cannot_be_read_and_a_port_without_tls_are_told() -> None:
    assert "cannot be read (No such file" in str(tls_trouble(FileNotFoundError(2, "No such file or directory")))
    assert "no TLS" in str(tls_trouble(ssl.SSLError(1, "wrong version number")))


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "refused"), TimeoutError(), RuntimeError("away")])
def test_of_other_errors_nothing_is_said(error: Exception) -> None:
    assert tls_trouble(error) is None
