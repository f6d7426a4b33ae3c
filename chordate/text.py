"""Formats text for people: printable names, counts, metrics."""

import logging
import re
from collections.abc import Sequence

KEPT = "\u200c\u200d\u00a0\u3000"  # kept by `printable`: joiners within words, no-break and ideographic spaces


def printable(text: str, max_length: int | None = 60) -> str:
    """The text on one line, truncated to `max_length` characters; unprintable characters (control characters, line
    breaks, changes of text direction) become �."""
    cut = text if max_length is None or len(text) <= max_length else f"{text[: max_length - 1]}…"
    return "".join(c if c.isprintable() or c in KEPT else "�" for c in cut)


def one_line(text: object, max_length: int | None = None) -> str:
    """A text or an error's message on one line, with single spaces for whitespace, truncated to `max_length`
    characters."""
    return " ".join(str(text).split())[:max_length]


def file_stem(text: str) -> str:
    """Make a file name without suffix from at most 100 characters of a text. Characters that are unprintable, or that
    some operating system does not allow in file names, become "_"."""
    return re.sub(r'[/\\:*?"<>|]', "_", printable(text, 100).replace("�", "_"))


def pluralize(number: int, noun: str) -> str:
    """A count in English: "1 class", "2 classes", "3 boxes", "1,000 images"."""
    plural = noun + ("es" if noun.endswith(("s", "x")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def first_names(names: Sequence[str]) -> str:
    """The first five names: "a, b, c, d, e …"."""
    return ", ".join(names[:5]) + (" …" if names[5:] else "")


def format_metric(value: float) -> str:
    """Format a metric with four decimals; "–" for -1, COCO's value if there is no ground truth."""
    return "–" if value == -1 else f"{value:.4f}"


def by_number(name: str) -> list[str | int]:
    """Sort key that compares numbers in names by value: resnet18 before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


class PrintableFormatter(logging.Formatter):
    """Formats log records. Control characters, for example in class names, become �, except line breaks."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line, None) for line in super().formatMessage(record).split("\n"))
