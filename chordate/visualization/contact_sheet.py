"""Formats a web page of pictures and tables in groups, as HTML without scripts; the pictures are separate files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote

from chordate.text import printable

STYLE = """
body { font: 15px/1.45 system-ui, "Noto Sans", "DejaVu Sans", sans-serif; margin: 1.5rem auto; padding: 0 1.5rem;
  max-width: 100rem; background: #fff; color: #222 }
h1 { font-size: 1.5rem; margin: 0 } h3 { font-size: .95rem; margin: 1.4rem 0 .4rem }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #ddd }
p, small { color: #666 } small { font-weight: normal } ul { margin: .4rem 0; padding-left: 1.2rem }
li, figcaption, td:first-child { overflow-wrap: anywhere }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem }
figure { margin: 0 } figcaption { margin-top: .25rem } img { display: block; width: 100%; height: auto }
.good, .bad { padding: .5rem .8rem; border-left: 4px solid #2e8b57; background: #eef7f1; color: #1d5c39 }
.bad { border-color: #c0392b; background: #fbeeec; color: #8c2318 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid #eee }
th { font-weight: 600; color: #555; border-color: #bbb } th:first-child, td:first-child { text-align: left }
td.bar { width: 12rem; vertical-align: middle } td.bar i { display: block; height: .7rem; background: #1f4e9c }
.tables { display: flex; flex-wrap: wrap; gap: 0 3.5rem; align-items: flex-start }
summary { cursor: pointer; font-size: .95rem; font-weight: 600; margin: 1.4rem 0 .4rem }
"""
OPEN_ROWS = 25  # longer tables are collapsed


@dataclass
class Thumbnail:
    """A picture on the page.

    Attributes:
        file: path relative to the page.
        width, height: size of the picture in pixels.
        name, note: text of the caption.
        wide: whether the picture takes a whole row.
    """

    file: str
    width: int
    height: int
    name: str
    note: str
    wide: bool = False


@dataclass
class Table:
    """A table with a title; the first column is text, the others are numbers.

    Attributes:
        title: its heading.
        header: the names of the columns.
        rows: the cells, as text.
        bars: for each row, the length of a bar after the last column, 0 … 1; empty without bars.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[float] = ()


@dataclass
class Group:
    """A section of the page, in order: heading with note, lists of problems and of other lines, pictures, tables."""

    name: str
    note: str
    thumbnails: Sequence[Thumbnail] = ()
    lines: Sequence[str] = ()
    problems: Sequence[str] = ()
    tables: Sequence[Table] = ()


def contact_sheet(title: str, note: str, groups: Sequence[Group], good: bool | None = None) -> str:
    """Format the page as HTML; each thumbnail links to its file in full size.

    Args:
        title: heading of the page.
        note: text below the heading.
        groups: the groups of pictures and tables, in order.
        good: True colors the note green, False red; None leaves it uncolored.
    """
    verdict = "" if good is None else ' class="good"' if good else ' class="bad"'
    head = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{_text(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n<p{verdict}>{_text(note)}</p>\n"
    )
    return head + "".join(map(_section, groups)) + "</body>\n</html>\n"


def remove_earlier_sheet(folder: Path) -> None:
    """Delete `index.html` and its pictures from a folder, if an earlier contact sheet was written there."""
    page = folder / "index.html"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    if f"<style>{STYLE}</style>" not in text:  # no page, or the user's own
        return
    for file in re.findall(r'<img src="([^"/]+)"', text):
        (folder / unquote(file)).unlink(missing_ok=True)
    page.unlink()


def _text(text: str, most: int | None = None) -> str:
    return escape(printable(text, most))


def _section(group: Group) -> str:
    heading = f"<h2>{_text(group.name)} <small>{_text(group.note)}</small></h2>\n"
    problems = f'<div class="bad">{_list(group.problems)}</div>\n' if group.problems else ""
    figures = f'<div class="pictures">\n{"".join(map(_figure, group.thumbnails))}</div>\n' if group.thumbnails else ""
    tables = f'<div class="tables">\n{"".join(map(_table, group.tables))}</div>\n' if group.tables else ""
    return f"<section>\n{heading}{problems}{_list(group.lines)}{figures}{tables}</section>\n"


def _list(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(line)}</li>\n" for line in lines)
    return items and f"<ul>{items}</ul>\n"


def _figure(thumbnail: Thumbnail) -> str:
    file, name = quote(thumbnail.file), _text(thumbnail.name, 200)
    size = f'width="{thumbnail.width}" height="{thumbnail.height}"'
    wide = f' style="grid-column: 1 / -1; max-width: {thumbnail.width}px"' if thumbnail.wide else ""
    return (
        f'<figure{wide}><a href="{file}"><img src="{file}" {size} loading="lazy" alt="{name}"></a>'
        f"<figcaption>{name} <small>{_text(thumbnail.note)}</small></figcaption></figure>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in table.header) + ("<th></th>" if table.bars else "")
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(f"<td>{_text(cell, 80)}</td>" for cell in row)
        if table.bars:
            cells += f'<td class="bar"><i style="width: {100 * table.bars[number]:.1f}%"></i></td>'
        rows.append(f"<tr>{cells}</tr>\n")
    body = f"<table>\n<tr>{head}</tr>\n{''.join(rows)}</table>\n"
    if len(rows) <= OPEN_ROWS:
        return f"<div><h3>{_text(table.title)}</h3>\n{body}</div>\n"
    return f"<details><summary>{_text(table.title)} ({len(rows):,})</summary>\n{body}</details>\n"
