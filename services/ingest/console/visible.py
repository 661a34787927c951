"""Strangers' text made harmless to look at: what cannot be seen, or would turn other text around, is shown by name.

Markup is not its concern: the templates escape. Pure. Source of the turning ones: Unicode TR 36 and TR 9.
"""

import re
import unicodedata

# C0 and C1 controls but tab and line feed; marks that turn or hide text; odd line ends; half surrogates.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff]|[\U000e0000-\U000e007f]"
)
_PICTURES = 0x2400
"""The control pictures of Unicode stand in the order of the controls."""
_DELETE = "\u2421"


def visible(text: str) -> str:
    """`text` with a picture or a name for each character that would not show itself."""
    return _UNSEEN.sub(_shown, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The same, for what stands in a line."""
    return visible(text.replace("\n", "\u240a").replace("\t", " "))


def unseen(text: str) -> int:
    """How many characters of `text` are controls that no text has."""
    return sum(1 for found in _UNSEEN.finditer(text) if unicodedata.category(found[0]) == "Cc" and found[0] != "\r")


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(_PICTURES + code)
    return _DELETE if code == 0x7F else f"\u27e8U+{code:04X}\u27e9"
