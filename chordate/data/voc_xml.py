"""Parses the XML file of one image in Pascal VOC's format, without expanding entities."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from chordate.data.paths import missing_file
from chordate.errors import DataError

MAX_SIDE = 2**31  # larger values cannot be the size of an image
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """One object: its class name, its box as in the file (xmin, ymin, xmax, ymax), and whether it is difficult."""

    name: str
    corners: tuple[float, ...]
    difficult: bool


@dataclass(frozen=True)
class VocImage:
    """The contents of one XML file.

    Attributes:
        filename: the image's name in the file, which may be out of date or have a wrong suffix; "" if there is none.
        size: height and width in pixels; None if the file has no size, or an impossible one.
        objects: the objects, without their `<part>` elements (head, hand, foot).
    """

    filename: str
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_voc_xml(file: Path) -> VocImage:
    """Read an XML file in Pascal VOC's format.

    Raises:
        DataError: the file is missing, is not XML in this format, or defines entities; or an object has no name or no
            box of four numbers.
    """
    if not file.is_file():  # also true for a pipe; reading it would block
        raise DataError(missing_file(file, "XML"))
    try:
        root = fromstring(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except ParseError as error:
        raise DataError(f"{file}: truncated, or not XML: {error}") from error
    except (DefusedXmlException, ValueError, LookupError) as error:
        raise DataError(f"{file}: not supported: {error}; save it as UTF-8 without entity definitions") from error
    if root.tag != "annotation":
        raise DataError(f"{file}: its root is <{root.tag}>, not <annotation>; is it in Pascal VOC's format?")
    objects = list(root.iter("object"))  # also those in an element around them, such as <objects>
    if not objects and root.find("filename") is None and root.find("size") is None:
        raise DataError(
            f"{file}: it has no <filename>, <size> or <object>; annotate the image again, or delete the file"
        )
    return VocImage(
        _text(root, "filename"),
        _size(root.find("size")),
        tuple(_object(element, f"{file}: object {number}") for number, element in enumerate(objects, 1)),
    )


def _text(element: Element, tag: str) -> str:
    child = element.find(tag)
    return "" if child is None else "".join(child.itertext()).strip()


def _size(element: Element | None) -> tuple[int, int] | None:
    try:
        height, width = (int(float(_text(element, tag))) for tag in ("height", "width"))  # type: ignore[arg-type]
    except (AttributeError, ValueError, OverflowError):
        return None
    return (height, width) if 0 < height < MAX_SIDE and 0 < width < MAX_SIDE else None


def _object(element: Element, place: str) -> VocObject:
    name, box = _text(element, "name"), element.find("bndbox")
    if not name:
        raise DataError(f"{place} has no <name>")
    if box is None:
        raise DataError(f"{place} ({name}) has no <bndbox>")
    return VocObject(name, tuple(_number(box, tag, f"{place} ({name})") for tag in CORNERS), _is_difficult(element))


def _number(box: Element, tag: str, place: str) -> float:
    text = _text(box, tag)
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: <{tag}> must be a number, got {text!r:.40}")
    return value


def _is_difficult(element: Element) -> bool:
    """Whether an object is difficult. VOC's `<difficult>` is 0 or 1; other tools also write true, or words for
    "unknown", which count as false."""
    return _text(element, "difficult").lower() in ("1", "true")
