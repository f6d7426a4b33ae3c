"""Packaged configs as templates: splits names at the backbone, and finds the config whose settings a backbone uses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from chordate.published import PUBLISHED
from chordate.text import by_number

# Short forms of backbone names: MMDetection's, and other common ones.
ALIASES = {
    **{f"r{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{f"r{depth}-caffe": f"resnet{depth}_caffe" for depth in (50, 101, 152)},
    **{f"r{depth}c": f"resnet{depth}c" for depth in (50, 101, 152)},
    **{f"r{depth + 2}": f"resnet{depth}s" for depth in (50, 101)},  # Detectron2's R-52: a stem of 3 convolutions
    **{f"x{depth}-{groups}": f"resnext{depth}_{groups}" for depth, groups in ((50, "32x4d"), (101, "32x4d"))},
    **{f"x101-{groups}": f"resnext101_{groups}" for groups in ("32x8d", "64x4d")},
    **{f"se-r{depth}": f"seresnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{f"se-x{depth}-32x4d": f"seresnext{depth}_32x4d" for depth in (50, 101)},
    **{f"seresnet{depth}_32x4d": f"seresnext{depth}_32x4d" for depth in (50, 101)},
    **{f"w{depth}-2": f"wide_resnet{depth}_2" for depth in (50, 101)},
    **{f"d{depth}": f"densenet{depth}" for depth in (121, 161, 169, 201)},
    **{f"rs{depth}": f"resnetrs{depth}" for depth in (50, 101, 152, 200, 270, 350, 420)},
    **{f"convnext-{size[0]}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
}


class NameParts(NamedTuple):
    """A config's name split at its backbone: prefix (`mask-rcnn_`), backbone (`resnet50`), suffix (`_fpn_1x_coco`)."""

    head: str
    backbone: str
    tail: str

    @property
    def stem(self) -> str:
        """The backbone as written in config names: `resnet20` for `resnet20_cifar`."""
        return self.backbone.removesuffix("_cifar")

    @property
    def spellings(self) -> list[str]:
        """All spellings of the name: with each short form of the backbone, and last with the registered name."""
        short = [alias for alias, backbone in ALIASES.items() if backbone == self.backbone]
        return [f"{self.head}{word}{self.tail}" for word in (*short, self.stem)]

    @property
    def name(self) -> str:
        """The canonical name: the published spelling, or else the spelling with the registered name of the backbone."""
        names = self.spellings
        return next((name for name in names if name in PUBLISHED), names[-1])


class Templates(NamedTuple):
    """The packaged configs, by the parts of their names.

    Attributes:
        parts: the parts of each packaged name.
        recipes: for each (prefix, suffix), a dict from `NameParts.stem` to the packaged config with the settings
            for this backbone.
    """

    parts: dict[str, NameParts]
    recipes: dict[tuple[str, str], dict[str, str]]

    def recipe(self, parts: NameParts) -> str | None:
        """The packaged config whose settings a backbone uses: the config of the backbone, or else of the smallest
        backbone of its family, or else of the smallest ResNet. None if there is no such config with this prefix and
        suffix.
        """
        recipes = self.recipes.get((parts.head, parts.tail), {})
        families = {family(stem): recipes[stem] for stem in sorted(recipes, key=by_number, reverse=True)}
        return recipes.get(parts.stem) or families.get(family(parts.stem)) or families.get("resnet")

    def with_image_size(self, parts: NameParts) -> NameParts | None:
        """Add the smallest published image size, for a family whose recipes depend on the image size: turns
        `resnetrs50_imagenet` into `resnetrs50_i160_imagenet`. None for other families.
        """
        if family(parts.stem) in map(family, self.recipes.get((parts.head, parts.tail), {})):
            return None
        sized = re.compile(rf"{re.escape(parts.head)}(\w+?)(_i\d+{re.escape(parts.tail)})")
        tails: dict[str, str] = {}
        for name in sorted(PUBLISHED, key=by_number):
            match = sized.fullmatch(name)
            if match and family(match[1]) == family(parts.stem):
                tails.setdefault(match[1], match[2])
        tail = tails.get(parts.stem) or next(iter(tails.values()), None)
        return parts._replace(tail=tail) if tail else None


@cache
def packaged_files(root: Path) -> dict[str, Path]:
    """Dict from name to config file, for all config files under a folder except those in `_base_`."""
    paths = (path for path in sorted(root.rglob("*.py")) if path.name != "__init__.py")
    return {path.stem: path for path in paths if "_base_" not in path.relative_to(root).parts}


@cache
def read_templates(root: Path) -> Templates:
    """The Templates of the config files under a folder: splits each file's name at the name of its backbone, and adds
    the recipes in `PUBLISHED`."""
    templates = Templates({}, {})
    for name, path in packaged_files(root).items():
        backbone = own_backbone(path)
        parts = next(splits(name, {backbone}), None) if backbone else None
        if parts:
            templates.parts[name] = parts
            templates.recipes.setdefault((parts.head, parts.tail), {})[parts.stem] = name
    for name, row in PUBLISHED.items():
        if row.recipe in templates.parts:
            head, _, tail = templates.parts[row.recipe]
            if name.startswith(head) and name.endswith(tail):
                templates.recipes[head, tail].setdefault(name[len(head) : -len(tail)], row.recipe)
    return templates


def own_backbone(path: Path) -> str | None:
    """The backbone in a packaged config or in its `_base_` files. The files are read as text, and not executed."""
    text = path.read_text(encoding="utf-8")
    named = re.search(r'\bbackbone=dict\(\s*type="(\w+)"', text)
    if named:
        return named[1]
    bases = (path.parent / base for base in re.findall(r'"([^"\s]+\.py)"', text))
    return next((found for base in bases if base.is_file() and (found := own_backbone(base))), None)


def family(backbone: str) -> str:
    """The family of a backbone, which is the letters at the start of its name: `resnetrs` for `resnetrs50`."""
    return re.match(r"[a-zA-Z]*", backbone)[0]  # type: ignore[index]


def splits(name: str, backbones: Collection[str]) -> Iterator[NameParts]:
    """All splits of a name at one of the backbones: earlier positions first, then longer backbone names."""
    words = name.split("_")
    longest = 1 + max((backbone.count("_") for backbone in backbones), default=0)  # in words
    for first in range(len(words)):
        for end in range(min(len(words), first + longest), first, -1):
            tail = "".join(f"_{word}" for word in words[end:])
            backbone = _backbone("_".join(words[first:end]), tail, backbones)
            if backbone:
                yield NameParts("".join(f"{word}_" for word in words[:first]), backbone, tail)


def _backbone(word: str, tail: str, backbones: Collection[str]) -> str | None:
    """The registered backbone for a part of a name, or None; for CIFAR data, the CIFAR variant if there is one."""
    for spelling in (word, ALIASES.get(word, word), word.replace("-", "_")):
        candidates = [spelling, f"{spelling}_cifar"]
        for candidate in reversed(candidates) if "_cifar" in tail else candidates[:1]:
            if candidate in backbones:
                return candidate
    return None
