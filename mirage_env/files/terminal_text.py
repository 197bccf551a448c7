"""Text of files and servers on a terminal: control characters and escape sequences are shown, not obeyed."""

from __future__ import annotations


def printable(text: str, keep: str = "\n\t") -> str:
    """The text with every character that a terminal might obey (control, bidirectional, surrogate) as its escape.

    Args:
        text: anything.
        keep: control characters that stay.
    """
    if all(c.isprintable() or c in keep for c in text):
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
