"""What a call of the API may raise: one type for each thing that its caller can do about it.

An answer that says no is an `APIError` with all that the problem document (RFC 9457) said; no answer is `NotReachable`.
"""

from collections.abc import Sequence

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """One thing wrong with a request. `pointer` is a JSON pointer (RFC 6901) into its body: `/retry/schedule_s/2`."""

    pointer: str = ""
    code: str = ""
    detail: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The problem document of an answer, or of one item of a batch."""

    status: int = 0
    code: str = ""
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    request_id: str = ""


class CarillonError(Exception):
    """Anything that this package raises for a reason outside the program."""


class VerificationError(CarillonError):
    """A received call does not prove that Carillon made it: answer 401. The text says what is wrong."""


class NotReachable(CarillonError):
    """No answer came. `is_maybe_taken`: the request was on its way, so what it asked for may have happened."""

    def __init__(self, message: str, *, is_maybe_taken: bool) -> None:
        super().__init__(message)
        self.is_maybe_taken = is_maybe_taken


class UnexpectedAnswer(CarillonError):
    """What answered is not Carillon, or not one that this version understands: is the URL right?"""


class APIError(CarillonError):
    """Carillon said no. `code` is for programs and never changes, `detail` for people."""

    is_maybe_taken = False

    def __init__(self, problem: Problem, *, retry_after_s: float | None = None) -> None:
        super().__init__(_text(problem))
        self.status: int = problem.status
        self.code: str = problem.code
        self.detail: str = problem.detail
        self.errors: Sequence[FieldError] = problem.errors
        self.request_id: str = problem.request_id
        self.retry_after_s = retry_after_s


class Invalid(APIError):
    """The request is at fault (400, 405, 413, 415, 422); `errors` names the fields. Correct it."""


class Unauthorized(APIError):
    """The key is none, or no longer one (401)."""


class Forbidden(APIError):
    """The key has not the scope that this needs (403)."""


class NotFound(APIError):
    """There is nothing of this name in the project of the key (404)."""


class Conflict(APIError):
    """It has gone too far for that: a task that is final cannot be cancelled (409)."""


class RateLimited(APIError):
    """Too many requests with this key (429); come back in `retry_after_s`."""


class Unavailable(APIError):
    """Carillon cannot do it now (5xx). What was asked for may have happened all the same."""

    is_maybe_taken = True


_FAMILIES: dict[int, type[APIError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}


def api_error(problem: Problem, retry_after_s: float | None) -> APIError:
    """The error of `problem`'s family."""
    family = _FAMILIES.get(problem.status, Invalid if problem.status < 500 else Unavailable)
    return family(problem, retry_after_s=retry_after_s)


def _text(problem: Problem) -> str:
    fields = "; ".join(f"{error.pointer or '/'}: {error.detail}" for error in problem.errors)
    return f"{problem.status} {problem.code}: {problem.detail}" + (f" ({fields})" if fields else "")
