"""Metadata of a dataset (class names, keypoints, …), which models and checkpoints keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Self

from annotated_types import Ge, Le
from pydantic import TypeAdapter, ValidationError

from chordate.errors import DataError
from chordate.text import printable

Byte = Annotated[int, Ge(0), Le(255)]
PixelLabel = Annotated[int, Ge(-(2**31)), Le(2**31 - 1)]  # int32


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of an object and the bones between them.

    Attributes:
        names: names of the `K` keypoints, such as "left_eye".
        bones: pairs of keypoint indices (0-based) that are joined by a line in drawings.
    """

    names: tuple[str, ...]
    bones: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for bone in self.bones:
            if not all(0 <= end < len(self.names) for end in bone):
                raise DataError(f"Skeleton: bone {tuple(bone)} must have keypoint indices 0 ≤ i < {len(self.names)}")

    @property
    def mirrored(self) -> tuple[int, ...]:
        """For each keypoint, the index of the keypoint that replaces it in a flipped image.

        This is the keypoint whose name has "left" and "right" (or "l" and "r" as separate words) swapped, or the
        keypoint itself if there is no such name.
        """
        indices = {name: index for index, name in enumerate(self.names)}
        return tuple(indices.get(_other_side(name), index) for name, index in indices.items())


_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


def _other_side(name: str) -> str:
    def swap(match: re.Match[str]) -> str:
        word = match[0]
        other = _SIDES[word.lower()]
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return re.sub(r"left|right|(?<![a-z])[lr](?![a-z])", swap, name, flags=re.IGNORECASE)


@dataclass(frozen=True)
class DatasetMeta:
    """Metadata of a dataset. It is passed from the dataset to the model, its checkpoints and its predictions.

    Attributes:
        classes: class names, in the order of the labels; empty if the task has no classes.
        skeleton: the objects' keypoints and bones, or None.
        stuff: names of the classes that are stuff (regions without instances); the others are things.
        palette: RGB color (0 … 255) of each class, in the order of the labels; None for generated colors.
        ignore_label: label of ignored pixels for heads with an argument `ignore_label`, or None. The built-in datasets,
            losses and metrics do not use it: their ignored pixels have the label `IGNORED` (-1).
        white_level: the largest value that pixels can have in images with more than 8 bits (1 or 255 for floating-point
            pixels), see `find_white_level`; None if images have 8 bits, or if each image has its own white level.
        extra: further metadata, a dict from name to plain Python value. A head receives each value whose name is an
            argument in the head's signature.
    """

    classes: tuple[str, ...] = ()
    skeleton: Skeleton | None = None
    stuff: tuple[str, ...] = ()
    palette: tuple[tuple[Byte, Byte, Byte], ...] | None = None
    ignore_label: PixelLabel | None = None
    white_level: Annotated[int, Ge(1), Le(65535)] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        palette = self.palette and tuple((int(red), int(green), int(blue)) for red, green, blue in self.palette)
        for name, value in (("classes", tuple(self.classes)), ("stuff", tuple(self.stuff)), ("palette", palette)):
            object.__setattr__(self, name, value)
        known = replace(self, extra={}).facts() if self.extra else {}
        for name, value in self.extra.items():
            if name in known:
                raise DataError(f"DatasetMeta: extra must not have {name}, which is derived from the other fields")
            if not _is_plain(value):
                kind = type(value).__name__
                raise DataError(
                    f"DatasetMeta: extra[{name!r}] must be plain Python values to be saved in checkpoints, got {kind}"
                )

    @property
    def things(self) -> tuple[str, ...]:
        """Names of the classes that are not stuff, in the order of the labels."""
        return tuple(name for name in self.classes if name not in self.stuff)

    def facts(self) -> dict[str, Any]:
        """Constructor arguments for heads, keyed by name: `num_classes`, `num_keypoints` and `ignore_label` (each only
        if it is defined), and the entries of `extra`. A head receives only the arguments in its signature."""
        facts = {
            "num_classes": len(self.classes) or None,
            "num_keypoints": len(self.skeleton.names) if self.skeleton else None,
            "ignore_label": self.ignore_label,
        }
        return {**{name: value for name, value in facts.items() if value is not None}, **self.extra}

    def difference(self, other: DatasetMeta) -> str | None:
        """Describe the first difference from `other` that changes the meaning of predictions; None if there is none."""
        if self.classes != other.classes:
            return f"classes {_abbreviate(self.classes)} instead of {_abbreviate(other.classes)}"
        names = [meta.skeleton.names if meta.skeleton else () for meta in (self, other)]
        if names[0] != names[1]:
            return f"keypoints {_abbreviate(names[0])} instead of {_abbreviate(names[1])}"
        facts = [{"stuff": list(m.stuff), "ignore_label": m.ignore_label, **plain(m.extra)} for m in (self, other)]
        for name in facts[0] | facts[1]:
            if facts[0].get(name) != facts[1].get(name):
                return f"{name}={facts[0].get(name)!r} instead of {facts[1].get(name)!r}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dict of plain Python values, for checkpoints and JSON."""
        skeleton = self.skeleton and {"names": list(self.skeleton.names), "bones": plain(self.skeleton.bones)}
        return {
            "classes": list(self.classes),
            "skeleton": skeleton,
            "stuff": list(self.stuff),
            "palette": plain(self.palette),
            "ignore_label": self.ignore_label,
            "white_level": self.white_level,
            "extra": plain(self.extra),
        }

    @classmethod
    def from_dict(cls, values: Any, source: str = "the checkpoint") -> Self:
        """The inverse of `to_dict`. Validates `values`, since they may come from an untrusted file.

        Raises:
            DataError: the values are invalid; the message names `source` and the field.
        """
        try:
            meta = TypeAdapter(cls).validate_python(values)
            if meta.palette is not None and len(meta.palette) < len(meta.classes):
                raise DataError(f"palette: {len(meta.palette)} colors for {len(meta.classes)} classes")
            return meta
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "all of it"
            raise DataError(f"{source}: broken dataset metadata ({where}: {first['msg']})") from error
        except DataError as error:
            raise DataError(f"{source}: broken dataset metadata ({error})") from error


def numbered_names(count: int) -> tuple[str, ...]:
    """Generated class names: "class 0", "class 1" …"""
    return tuple(f"class {index}" for index in range(count))


def plain(value: Any) -> Any:
    """Convert nested mappings and sequences to dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _is_plain(value: Any) -> bool:
    """Whether a value consists only of numbers, strings, None, and nested lists, tuples and mappings of these types."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def _abbreviate(names: tuple[str, ...]) -> str:
    return f"{len(names)} [{', '.join(map(printable, names[:5]))}{' …' if len(names) > 5 else ''}]"
