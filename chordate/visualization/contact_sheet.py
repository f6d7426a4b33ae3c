"""Formats a web page of pictures in groups, as one HTML file without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from chordate.text import printable

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; background: #fafafa; color: #222 }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem } p, small { color: #666 }
section div { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem }
figure { margin: 0 } img { display: block; width: 100%; height: auto; border-radius: 3px }
figcaption { margin-top: .25rem; overflow-wrap: anywhere } small { font-weight: normal }
"""


@dataclass
class Thumbnail:
    """A picture on the page.

    Attributes:
        file: path relative to the page.
        width, height: size of the picture in pixels.
        name, note: text of the caption.
    """

    file: str
    width: int
    height: int
    name: str
    note: str


@dataclass
class Group:
    """Pictures under one heading, with a note and a list of further lines."""

    name: str
    note: str
    thumbnails: Sequence[Thumbnail]
    lines: Sequence[str] = ()


def contact_sheet(title: str, note: str, groups: Sequence[Group]) -> str:
    """Format the page as HTML; each thumbnail links to its file in full size."""
    head = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n<p>{escape(note)}</p>\n"
    )
    return head + "".join(map(_section, groups)) + "</body>\n</html>\n"


def _section(group: Group) -> str:
    figures = "".join(map(_figure, group.thumbnails))
    heading = f"<h2>{escape(group.name)} <small>{escape(group.note)}</small></h2>"
    lines = "".join(f"<li>{escape(printable(line, None))}</li>\n" for line in group.lines)
    return f"<section>\n{heading}\n{lines and f'<ul>{lines}</ul>'}\n<div>\n{figures}</div>\n</section>\n"


def _figure(thumbnail: Thumbnail) -> str:
    file, name = quote(thumbnail.file), escape(printable(thumbnail.name, 200))
    size = f'width="{thumbnail.width}" height="{thumbnail.height}"'
    return (
        f'<figure><a href="{file}"><img src="{file}" {size} loading="lazy" alt="{name}"></a>'
        f"<figcaption>{name} <small>{escape(thumbnail.note)}</small></figcaption></figure>\n"
    )
