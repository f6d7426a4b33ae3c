"""Text for people: what comes from files, such as class names, made safe to print and to name files by; and counts."""

import re

KEPT = "\u200c\u200d\u00a0\u3000"  # joiners within words of some scripts, and spaces


def printable(text: str, most: int | None = 60) -> str:
    """The text on one line: what does not print (control characters, line breaks, changes of direction) as �, and cut
    to `most` characters."""
    cut = text if most is None or len(text) <= most else f"{text[: most - 1]}…"
    return "".join(c if c.isprintable() or c in KEPT else "�" for c in cut)


def file_stem(text: str) -> str:
    """The text as a part of a file's name, on any system."""
    return re.sub(r'[/\\:*?"<>|]', "_", printable(text, 100).replace("�", "_"))


def pluralize(number: int, one: str) -> str:
    """A count in English: "1 class", "2 classes", "1,000 images"."""
    many = one + ("es" if one.endswith("s") else "s")
    return f"{number:,} {one if number == 1 else many}"
