"""The one error that ends a command of the local stack with a message instead of a traceback."""


class StackError(Exception):
    """What went wrong, with which part, and what to do about it."""
