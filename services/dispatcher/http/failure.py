"""The one exception inside this package: why no answer came."""

from services.dispatcher.outcome import ErrorClass


class CallFailed(Exception):
    """`is_unanswered`: the connection ended before a byte of the answer came."""

    def __init__(self, error: ErrorClass, detail: str, *, is_unanswered: bool = False) -> None:
        super().__init__(detail)
        self.error = error
        self.is_unanswered = is_unanswered
