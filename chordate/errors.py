"""Errors that the user can fix: one line each, with the file, the setting and the remedy.

The commands print a `ChordateError` without a traceback and exit with status 2. Any other exception is a bug and is
shown with its traceback.
"""

import difflib
import re
from collections.abc import Callable, Iterable

from chordate.text import printable

# Names of components' settings in OpenMMLab, Detectron2, timm and Ultralytics, and the corresponding names in Chordate.
_SETTINGS_HERE = {
    **dict.fromkeys(("out_indices", "out_features"), ("out",)),
    **dict.fromkeys(("name", "model_name"), ("model",)),
    **dict.fromkeys(("ann_file", "json_file"), ("annotations",)),
    **dict.fromkeys(("img_prefix", "data_prefix", "img_dir", "image_root"), ("images",)),
    "ann_dir": ("labels",),
    "img_suffix": ("image_suffix",),
    "seg_map_suffix": ("label_suffix",),
    "ignore_index": ("ignored_ids",),
    "reduce_zero_label": ("background",),
    **dict.fromkeys(("roi_head", "roi_heads"), ("box", "mask", "keypoint")),
    "bbox_head": ("head", "box"),
    "decode_head": ("head",),
    "rpn_head": ("rpn",),
    "mask_head": ("mask",),
    "keypoint_head": ("keypoint",),
    "auxiliary_head": ("auxiliary",),
    "data_preprocessor": ("preprocess",),
    **dict.fromkeys(("learning_rate", "base_lr", "lr0"), ("lr",)),
    "num_classes": ("classes",),
    **dict.fromkeys(("conf", "conf_thres", "box_score_thresh"), ("score_threshold",)),
}
_CLASS_COUNT = "the number of classes comes from the dataset; train_data.dataset.classes selects a subset"
# Libraries whose networks are not looked up by name: the adapter of each, and the prefix of its argument `model`.
_ADAPTERS = {
    "smp": ("SmpBackbone", ""),
    "detectron2": ("Detectron2Backbone", ""),
    **{package: ("MMBackbone", f"{package}.") for package in ("mmdet", "mmseg", "mmpretrain")},
}
NOT_REGULAR = "is a pipe, a device or a socket; only regular files are read"


class ChordateError(Exception):
    """An error that the user can fix. The message is one line that includes the remedy.

    Args:
        message: the message, one line; or a function that returns it, if it is slow to make and not always shown.
        located: whether the message already starts with the file (if known) and the key path of the setting.
    """

    def __init__(self, message: str | Callable[[], str], *, located: bool = False):
        super().__init__(message)
        self.message, self.located = message, located

    def __str__(self) -> str:
        message = self.message() if callable(self.message) else self.message
        return printable(" ".join(message.splitlines()), None)


class ConfigError(ChordateError):
    """A type, file, setting or argument does not exist or is invalid, or parts do not fit together."""


class DataError(ChordateError):
    """An image or annotation is missing or broken, or does not fit the model."""


class BrokenFile(DataError):
    """A file of a sample is missing or truncated, or cannot be decoded; `skip_broken=True` skips the sample."""


class MissingFile(DataError):
    """A file or folder that the constructor of a dataset reads does not exist."""


class UnknownClass(DataError):
    """Classes that the config or the model sets do not fit the dataset."""


class NothingToEvaluate(DataError):
    """The evaluated images have no ground truth from which a metric can be computed."""


class CheckpointError(ChordateError):
    """A checkpoint cannot be read, written or converted, or does not fit the model or the data."""


class DownloadError(CheckpointError):
    """A checkpoint cannot be downloaded."""


class TrainingError(ChordateError):
    """Training or evaluation cannot continue, for example because a loss or a prediction is non-finite."""


class MachineError(ChordateError):
    """The machine failed: a disk is full, a loader process was killed, or the connection to another rank is lost."""


def near_names(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Up to `count` names in `known` similar to `name`, ignoring case; names that start with `name` come first.

    The test for a common start ignores "-" and "_" and treats `resnet50` as `r50`, so `fasterrcnn_resnet50_fpn` is a
    prefix of `faster-rcnn_r50_fpn_torchvision`. `cutoff` is difflib's minimum similarity, 0 … 1; names that start
    with `name` need none if `name`, shortened in this way, has at least 4 characters.
    """
    by_lower: dict[str, str] = {}
    for candidate in known:
        by_lower.setdefault(candidate.lower(), candidate)
    start = _short(name.lower())
    longer = [lower for lower in by_lower if _short(lower).startswith(start)]
    first = difflib.get_close_matches(name.lower(), longer, n=count, cutoff=cutoff if len(start) < 4 else 0.0)
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=2 * count, cutoff=cutoff)
    return [by_lower[lower] for lower in dict.fromkeys(first + close)][:count]


def unknown(kind: str, name: str, known: Iterable[str], *, listed: bool = True, remedy: str = "") -> str:
    """The message about a misspelled name: `unknown backbone "Resnet50"; did you mean "ResNet"? Known: …`.

    If `listed`, the message ends with the known names, unless there are more than 40 and a similar one is suggested.
    `remedy` is added if no known name is similar.
    """
    if kind == "backbone" and (library := _library_hint(name)):
        return f"unknown backbone {repr_name(name)}; {library}"
    known, is_setting = sorted(known), kind.startswith("setting of")
    ours = [other for other in _SETTINGS_HERE.get(name, ()) if is_setting and other in known]
    if is_setting and name == "num_classes" and not ours:
        return f"unknown {kind} {repr_name(name)}; {_CLASS_COUNT}"
    close = ours or near_names(name, known)
    guess = f"; did you mean {' or '.join(repr_name(c) for c in close)}?" if close else remedy and f"; {remedy}"
    if not listed or (close and len(known) > 40):  # a suggestion helps more than a truncated list
        return f"unknown {kind} {repr_name(name)}{guess}"
    names = ", ".join(known[:40]) + (" …" if len(known) > 40 else "")
    return f"unknown {kind} {repr_name(name)}{guess}{'' if close else '.'} Known: {names or 'none'}"


def _short(name: str) -> str:
    """Remove the separators from a lower-case name, and shorten `resnet50` to `r50`."""
    return re.sub(r"[-_]", "", re.sub(r"resnet(?=\d)", "r", name))


def _library_hint(name: str) -> str | None:
    """Message that tells how to use `name`, a network of timm or torchvision, as a backbone; None if neither has it.

    `name` may start with the library, as in `timm/resnet50`; other libraries than these two are found only by this
    prefix, since importing them takes seconds.
    """
    library, _, model = name.replace("://", "/").rpartition("/")
    if library in _ADAPTERS:
        plug, prefix = _ADAPTERS[library]
        return f'for backbones of {library}, use dict(type="{plug}", model="{prefix}{model}")'
    plugs = {"timm": "TimmBackbone", "torchvision": "TorchvisionBackbone"}
    libraries = [other for other in plugs if library in ("", other) and _has_model(other, model)]
    if not libraries:
        return None
    return f'{model} is in {" and ".join(libraries)}: use dict(type="{plugs[libraries[0]]}", model="{model}")'


def _has_model(library: str, model: str) -> bool:
    """Whether a library has a network; False if it is not installed."""
    try:
        if library == "timm":
            import timm

            return bool(timm.is_model(model.partition(".")[0]))
        import torchvision

        return model in torchvision.models.list_models(module=torchvision.models)
    except ImportError:
        return False


def repr_name(name: str) -> str:
    """The name in double quotes, as it is written in a config; shortened if it is longer than any real name."""
    return f'"{printable(name, 100)}"'
