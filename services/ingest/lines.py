"""Takes a stream apart at its line ends, and remembers no more of it than one line of the greatest length. Pure."""

from collections.abc import Iterator

_BLANK = b" \t\r"


class Lines:
    """Chunks in, lines out, without their ends; blank ones are left out, and None stands for one that is too long."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._begun = bytearray()
        self._is_too_long = False

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """The lines that end in this chunk."""
        *ended, begun = chunk.split(b"\n")
        for part in ended:
            self._append(part)
            yield from self.end()
        self._append(begun)

    def end(self) -> Iterator[bytes | None]:
        """The line that has begun, if there is one."""
        line, is_too_long = bytes(self._begun), self._is_too_long
        self._begun.clear()
        self._is_too_long = False
        if is_too_long:
            yield None
        elif line.strip(_BLANK):
            yield line

    def _append(self, part: bytes) -> None:
        if len(self._begun) + len(part) > self._line_bytes_max:
            self._is_too_long = True
            self._begun.clear()
        else:
            self._begun += part
