"""Names of configs: files in the package, and names composed from them with any registered backbone.

A detector's name is `<family>_<backbone>_<neck>_<schedule>_<data>`, a classifier's `<backbone>_<data>`. If the package
has a file for one backbone, the name with another backbone means that file with `model.backbone.type` replaced.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from chordate.errors import ConfigError, near_names, repr_name, unknown
from chordate.published import PUBLISHED
from chordate.registry import BACKBONES
from chordate.text import by_number

# Short forms of backbones in names: MMDetection's, and other common ones.
ALIASES = {
    **{f"r{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{f"r{depth}-caffe": f"resnet{depth}_caffe" for depth in (50, 101, 152)},
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
# Datasets that use the recipes of another dataset, and the config file that overrides these recipes' settings.
SAME_RECIPES = {"cifar100": ("cifar10", "_base_/datasets/cifar100.py")}


class NameParts(NamedTuple):
    """A config's name split at its backbone: `mask-rcnn_`, `resnet50`, `_fpn_1x_coco`."""

    head: str
    backbone: str
    tail: str


class Composition(NamedTuple):
    """The config for a name that has no file of its own.

    Attributes:
        name: the composed name.
        files: the packaged configs that it inherits from; later ones override earlier ones.
        backbone: settings that replace the backbone of the files; empty if the backbone is unchanged.
    """

    name: str
    files: list[Path]
    backbone: dict[str, Any]


def package_root() -> Path:
    """The folder of the packaged configs."""
    return Path(str(files("chordate.configs")))


def packaged_configs() -> dict[str, Path]:
    """Every config in the package, by its name (the file's name without `.py`)."""
    root = package_root()
    paths = (path for path in sorted(root.rglob("*.py")) if path.name != "__init__.py")
    return {path.stem: path for path in paths if "_base_" not in path.relative_to(root).parts}


def list_configs(pattern: str = "*") -> list[str]:
    """The names of the packaged and the published configs that match a shell pattern, sorted.

    Unlisted names work too: any of these with another backbone in it.
    """
    return sorted(fnmatch.filter({*packaged_configs(), *PUBLISHED}, pattern))


def find_config(name: str | Path) -> Path | Composition:
    """Find a config by a file's path, a packaged config's name, or a composed name.

    Raises:
        ConfigError: there is no such config. The message has the unknown part of the name, and similar names.
    """
    path, known = Path(name), packaged_configs()
    if str(name) in known:
        return known[str(name)]
    if os.path.isfile(path):  # Path.is_file raises for a name that is too long
        return path
    has_folder = os.path.isdir(path.parent)
    # configs/faster-rcnn/x.py, given from another folder, is x.
    stem = path.stem if path.suffix == ".py" and not has_folder else str(name)
    if stem in known:
        return known[stem]
    is_folder = os.path.isdir(name)
    if stem == str(name) and (path.suffix or len(path.parts) > 1) and not is_folder:
        beside = [p.name for p in path.parent.glob("*.py")] if has_folder else []
        close = near_names(path.name, beside) or near_names(path.stem, known)
        raise ConfigError(f"{path}: no such config file" + (f"; did you mean {_either(close)}?" if close else ""))
    try:
        return _compose(stem)
    except ConfigError:
        if is_folder:
            raise ConfigError(f"{path}: a folder; name a config file or a packaged config") from None
        raise


def _compose(name: str) -> Path | Composition:
    """The config for a name without a packaged file.

    A classifier uses the recipe in PUBLISHED. Without an entry there, it uses the config of its backbone's family (the
    letters at the start of the name), else ResNet's.
    """
    for other, (data, file) in SAME_RECIPES.items():
        if name.endswith(f"_{other}"):
            try:
                found = find_config(name.removesuffix(other) + data)
            except ConfigError:
                break  # report the name as the user wrote it
            below = found if isinstance(found, Composition) else Composition(name, [found], {})
            return Composition(name, [*below.files, package_root() / file], below.backbone)
    templates = _templates()
    for head, backbone, tail in _splits(name):
        if (head, tail) in templates:
            same = templates[head, tail].get(backbone)  # resnet50 for r50
            full = f"{head}{backbone.removesuffix('_cifar')}{tail}"  # without aliases, as in PUBLISHED
            path = packaged_configs()[same or _recipe(full, backbone, templates[head, tail])]
            return path if same else Composition(name, [path], {"type": backbone, **_own_settings(full)})
    raise ConfigError(_unknown_part(name, templates))


def _own_settings(name: str) -> dict[str, Any]:
    return dict(PUBLISHED[name].backbone) if name in PUBLISHED else {}


def _recipe(name: str, backbone: str, templates: dict[str, str]) -> str:
    """Choose the base of a composed name from `templates`: by backbone, configs whose names differ only in it."""
    if name in PUBLISHED and PUBLISHED[name].recipe:
        return str(PUBLISHED[name].recipe)
    by_size = sorted(templates, key=by_number, reverse=True)
    families = {_family(other): templates[other] for other in by_size}  # the smallest of each family
    return families.get(_family(backbone)) or families.get("resnet") or next(iter(templates.values()))


def _family(backbone: str) -> str:
    return re.match(r"[a-zA-Z]*", backbone)[0]  # type: ignore[index]


def _templates() -> dict[tuple[str, str], dict[str, str]]:
    """For each head and tail of packaged names, the names that have both, by backbone."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in packaged_configs():
        for head, backbone, tail in _splits(name):
            found.setdefault((head, tail), {})[backbone] = name
            break
    return found


def _splits(name: str) -> Iterator[NameParts]:
    """All splits of a name at a backbone: early positions first, then long backbone names first."""
    words, known = name.split("_"), set(BACKBONES.names())
    longest = 1 + max(backbone.count("_") for backbone in known)  # in words
    for first in range(len(words)):
        for end in range(min(len(words), first + longest), first, -1):
            tail = "".join(f"_{word}" for word in words[end:])
            backbone = _backbone("_".join(words[first:end]), tail, known)
            if backbone:
                yield NameParts("".join(f"{word}_" for word in words[:first]), backbone, tail)


def _backbone(word: str, tail: str, known: set[str]) -> str | None:
    """The registered backbone for a part of a name; for CIFAR data, its CIFAR variant if there is one."""
    for spelling in (ALIASES.get(word, word), word.replace("-", "_")):
        candidates = [spelling, f"{spelling}_cifar"]
        for candidate in reversed(candidates) if "_cifar" in tail else candidates[:1]:
            if candidate in known:
                return candidate
    return None


def _unknown_part(name: str, templates: Iterable[tuple[str, str]]) -> str:
    """One line about a config name that cannot be composed: which part is unknown, with similar names."""
    what = f"unknown config {repr_name(name)}"
    tails: dict[str, set[str]] = {}  # by head
    for head, tail in templates:
        tails.setdefault(head, set()).add(tail)
        tails[head] |= {tail.replace(data, other) for other, (data, _) in SAME_RECIPES.items()}
    middle = _between(name, tails)
    if middle:
        names = {*ALIASES, *(backbone.removesuffix("_cifar") for backbone in BACKBONES.variants)}
        return f"{what}: {unknown('backbone', middle, names, listed=False)}"
    for head, _, tail in _splits(name):
        start = name.removesuffix(tail)
        others = [other for other in tails if tail in tails[other]]
        if head not in tails and others:
            close = [other + name.removeprefix(head) for other in near_names(head, others) or others]
            return f"{what}: unknown family {repr_name(head.strip('_'))}; did you mean {_either(close)}?"
        if head == "" and others:
            return f"{what}: the family is missing; did you mean {_either(other + name for other in others)}?"
        if head in tails:
            known = [start + other for other in sorted(tails[head])]
            listed = [config for config in list_configs() if config.startswith(f"{start}_")]
            close = near_names(name, known) if tail else listed or known
            return f"{what}: {_wrong_word(tail, tails[head])}; did you mean {_either(close[:3] or known[:3])}?"
    close = near_names(name, list_configs())
    return what + (f"; did you mean {_either(close)}?" if close else "; `chordate list models` shows what there is")


def _between(name: str, tails: Mapping[str, Iterable[str]]) -> str | None:
    """The text between a known head and a known tail, where a backbone should be."""
    pairs = [(head, tail) for head in tails for tail in tails[head] if name.startswith(head) and name.endswith(tail)]
    # With an empty head, anything would match as the backbone, so allow it only if no other head has this tail.
    pairs = [(head, tail) for head, tail in pairs if head or not any(tail in tails[other] for other in tails if other)]
    head, tail = max(pairs, key=lambda pair: len("".join(pair)), default=("", ""))
    return name[len(head) : len(name) - len(tail)] if tail else None


def _wrong_word(tail: str, known: Iterable[str]) -> str:
    """A phrase about the first word of a tail that matches no known tail."""
    words, others = tail.split("_")[1:], [other.split("_")[1:] for other in known]
    for index, word in enumerate(words):
        if not any(other[: index + 1] == words[: index + 1] for other in others):
            return f"no config has {repr_name(word)} there"
    return "the name is incomplete"


def _either(names: Iterable[str]) -> str:
    return " or ".join(repr_name(name) for name in names)
