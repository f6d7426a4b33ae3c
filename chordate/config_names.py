"""Config names: packaged config files, and names composed from them with any registered backbone.

The name of a detector is `<family>_<backbone>_<neck>_<schedule>_<data>`, the name of a classifier `<backbone>_<data>`.
If the package has a file for one backbone, the name with another backbone means that file with a new
`model.backbone.type`.
"""

from __future__ import annotations

import fnmatch
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from chordate.config_templates import NameParts, Templates, packaged_files, read_templates, splits
from chordate.errors import ConfigError, near_names, repr_name
from chordate.published import PUBLISHED
from chordate.registry import BACKBONES
from chordate.text import printable
from chordate.unknown_names import either, unknown_config

# For each word that may replace a word of a packaged config's name: the replaced word, and the config file whose
# settings override those of the packaged config.
VARIATIONS = {
    "cifar100": ("cifar10", "_base_/datasets/cifar100.py"),
    "cifar10-akamaster": ("cifar10", "_base_/models/cifar10_akamaster.py"),
    "cifar10-distiller": ("cifar10", "_base_/models/cifar10_distiller.py"),
    "3x": ("1x", "_base_/schedules/3x.py"),
    "finetune": ("1x", "_base_/schedules/finetune.py"),
    "384x288": ("256x192", "_base_/datasets/coco_pose_384x288.py"),
    "coco-stuff": ("ade20k", "_base_/datasets/coco_stuff.py"),
    "d16": ("d8", "_base_/models/output_stride_16.py"),
    "d32": ("d8", "_base_/models/output_stride_32.py"),
}
SUFFIXES = (".py", ".json", ".yaml", ".yml", ".toml")


class Composition(NamedTuple):
    """The config for a name that has no file of its own.

    Attributes:
        name: canonical name, the same for all spellings of the backbone.
        files: the packaged configs that it inherits from; later ones override earlier ones.
        backbone: settings that replace `model.backbone` of the files; empty if the backbone is unchanged.
    """

    name: str
    files: list[Path]
    backbone: dict[str, Any]


def package_root() -> Path:
    """The folder of the packaged configs."""
    return Path(str(files("chordate.configs")))


def packaged_configs() -> dict[str, Path]:
    """Every config in the package, by its name (the file's name without `.py`)."""
    return dict(packaged_files(package_root()))


def list_configs(pattern: str = "*") -> list[str]:
    """The names of the packaged configs and of the models in `PUBLISHED` that match a shell pattern, sorted.

    Other composed names, such as a listed name with another backbone, are valid too, but are not listed.
    """
    return sorted(fnmatch.filter({*packaged_configs(), *PUBLISHED}, pattern))


def match_configs(pattern: str) -> list[str]:
    """The listed names that match a shell pattern in one of their spellings (`r101`, `resnet101`). If no listed name
    matches, returns the composed names that match, each in a matching spelling. Ignores case.
    """
    matches = re.compile(fnmatch.translate(pattern.lower())).match
    templates, backbones = read_templates(package_root()), BACKBONES.names()

    def spellings(name: str) -> list[str]:
        parts = templates.parts.get(name) or next(splits(name, backbones), None)
        return [name, *(parts.spellings if parts else [])]

    listed = [name for name in list_configs() if any(matches(other.lower()) for other in spellings(name))]
    if listed:
        return listed
    composed = []
    for head, tail in templates.recipes:
        for backbone in BACKBONES.variants:
            parts = NameParts(head, backbone, tail)
            close = [name for name in parts.spellings if matches(name.lower())]
            if close and ("_cifar" in tail) == backbone.endswith("_cifar") and templates.recipe(parts):
                composed.append(close[0])
    return sorted(composed)


def is_file_name(name: str | Path) -> bool:
    """Whether a name is a file path: it has the suffix of a config file, or contains a folder."""
    return Path(name).suffix in SUFFIXES or len(Path(name).parts) > 1


def find_config(name: str | Path) -> Path | Composition:
    """Find a config by a file path, the name of a packaged config, or a composed name.

    Raises:
        ConfigError: there is no such config; the message names the unknown part of the name, and similar names.
    """
    path, known = Path(name), packaged_configs()
    if str(name) in known:
        return known[str(name)]
    if os.path.isfile(path):  # Path.is_file raises for a name that is too long
        return path
    has_folder = os.path.isdir(path.parent)
    # A path such as configs/faster-rcnn/x.py whose folder does not exist (in another working directory) means the
    # packaged config x.
    stem = path.stem if path.suffix == ".py" and not has_folder else str(name)
    if stem in known:
        return known[stem]
    is_folder = os.path.isdir(name)
    if stem == str(name) and is_file_name(name) and not is_folder:
        slashed = [backbone for backbone in BACKBONES.names() if "/" in backbone and backbone in str(name)]
        if slashed:
            raise ConfigError(
                f'{name}: a config\'s name must not contain "/"; use a name with another backbone, and set '
                f"model.backbone.type={repr_name(slashed[0])}"
            )
        beside = [p.name for p in path.parent.glob("*.py")] if has_folder else []
        close = [str(path.parent / other) for other in near_names(path.name, beside)] or near_names(path.stem, known)
        guess = f"; did you mean {either(close)}?" if close else ""
        convert = "; `chordate convert-config` converts files of Detectron2" if path.suffix in (".yaml", ".yml") else ""
        raise ConfigError(f"{printable(str(path), 200)}: no such config file{convert}{guess}")
    try:
        return _compose(stem)
    except ConfigError:
        if os.path.isfile(f"{name}.py"):
            raise ConfigError(f'unknown config {repr_name(str(name))}; did you mean "{name}.py"?') from None
        if is_folder:
            raise ConfigError(f"{path} is a folder; name a config file or a packaged config") from None
        raise


def _compose(name: str) -> Path | Composition:
    """Find the config for a name without a packaged file, by the first split at a backbone that has a recipe."""
    templates = read_templates(package_root())
    for parts in splits(name, BACKBONES.names()):
        composition = _composition(parts, templates)
        if composition:
            return composition if composition.backbone or len(composition.files) > 1 else composition.files[0]
    same = {word: other for word, (other, _) in VARIATIONS.items()}
    raise ConfigError(unknown_config(name, templates, list_configs(), same))


def _composition(parts: NameParts, templates: Templates) -> Composition | None:
    """The config for a split name; `Templates` chooses the recipe of the backbone. None if there is no recipe."""
    parts = templates.with_image_size(parts) or parts
    recipe = templates.recipe(parts)
    if recipe:
        row = PUBLISHED.get(parts.name)
        own = {"type": parts.backbone, **(row.backbone if row else {})}
        same = templates.parts[recipe] == parts  # only the spelling differs: resnet50 for r50
        return Composition(parts.name, [packaged_configs()[recipe]], {} if same else own)
    words = parts.tail.split("_")
    for word, (other, file) in VARIATIONS.items():
        if word in words:
            tail = "_".join(other if part == word else part for part in words)
            below = _composition(parts._replace(tail=tail), templates)
            if below:
                return Composition(parts.name, [*below.files, package_root() / file], below.backbone)
    return None
