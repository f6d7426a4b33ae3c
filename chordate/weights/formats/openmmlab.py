"""Common to the formats of OpenMMLab's libraries: tensor names, class names, and settings from a checkpoint's config.

A checkpoint of MMDetection, MMSegmentation or MMPretrain has the text of its config in `meta`. It is parsed for a few
literal values, and never executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from torch import nn

from chordate.structures import DatasetMeta
from chordate.text import printable
from chordate.weights.formats.format import Format, State
from chordate.weights.formats.name_table import NameTable

Pairs = tuple[tuple[str, str], ...]
EPS = 1e-5  # epsilon of the BatchNorms
RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CAFFE_MEAN, CAFFE_STD = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)  # of the "caffe" configs, in BGR order
MAX_TEXT, MAX_CLASSES = 1_000_000, 100_000  # limits, since the file may be untrusted


def backbone(state: State) -> Pairs:
    """Names of a ResNet; `state` has the library's names or ours.

    The library's names equal ours, except for GroupNorms and the deep stem of "v1c" and "v1d". The library's deep stem
    is one nn.Sequential of nine layers; ours is an nn.Sequential that ends before the last norm.
    """
    stem: Pairs = (
        ("backbone.stem.7.", "backbone.bn1."),
        *((f"backbone.stem.{number}.", f"backbone.conv1.{number}.") for number in (0, 1, 3, 4, 6)),
    )
    is_deep = "backbone.stem.0.weight" in state or "backbone.conv1.0.weight" in state
    group_norms: Pairs = (("backbone.gn1.", "backbone.bn1."), ("backbone.layer#.#.gn#.", "backbone.layer#.#.bn#."))
    return (*(stem if is_deep else ()), *(group_norms if _has_group_norm(state) else ()), ("backbone.", "backbone."))


def _has_group_norm(state: State) -> bool:
    """Whether the backbone's norms are GroupNorms, which the libraries name `gn`, and we `bn`."""
    first = "backbone.layer1.0.bn1."
    return "backbone.layer1.0.gn1.weight" in state or (
        f"{first}weight" in state and f"{first}running_mean" not in state
    )


def conv_module(theirs: str, ours: str) -> Pairs:
    """Names of MMCV's ConvModule: a convolution, and a norm that is named after its type."""
    norms = ((f"{theirs}bn.", f"{ours}1."), (f"{theirs}gn.", f"{ours}1."))
    return ((f"{theirs}conv.", f"{ours}0."), *norms)


def restore_norms(theirs: State) -> State:
    """Rename GroupNorms from `bn` to `gn`: `NameTable.restore` uses the first pair of `conv_module`, which has `bn`."""
    grouped = {
        name.rpartition(".bn.")[0]
        for name in theirs
        if name.endswith(".bn.weight") and name.replace("bn.weight", "bn.running_mean") not in theirs
    }
    return {
        name.replace(".bn.", ".gn.") if name.rpartition(".bn.")[0] in grouped else name: x for name, x in theirs.items()
    }


def fpn(levels: int, outputs: int) -> Pairs:
    """Names of MMDetection's FPN, which computes `outputs` outputs from `levels` inputs; the last input is c5."""
    first = 6 - levels
    pairs: list[tuple[str, str]] = []
    for number in range(levels):
        pairs += conv_module(f"neck.lateral_convs.{number}.", f"neck.lateral.c{first + number}.")
        pairs += conv_module(f"neck.fpn_convs.{number}.", f"neck.output.p{first + number}.")
    pairs += [(f"neck.fpn_convs.{number}.conv.", f"neck.extra.p{first + number}.") for number in range(levels, outputs)]
    return tuple(pairs)


def count(state: State, name: str) -> int:
    """The number of consecutive layers in `state`, from number 0; for example, of `neck.fpn_convs.{}.conv.weight`."""
    number = 0
    while name.format(number) in state:
        number += 1
    return number


class MMFormat(Format):
    """Base class of the formats of OpenMMLab's libraries."""

    wrapper = "state_dict"

    def names(self, state: State) -> NameTable:
        """The names of the network; `state` has the library's names or ours."""
        raise NotImplementedError

    def convert(self, state: State, model: Any) -> State:
        # mmcv's EMAHook added the weights that were not averaged as `ema_backbone_conv1_weight`.
        tensors = {name: x for name, x in state.items() if not name.startswith(("ema_", "data_preprocessor."))}
        return self.names(state).convert(tensors)

    def restore(self, state: State, model: Any) -> State:
        theirs = restore_norms(self.names(state).restore(state))
        if len(theirs) < len(state) or not self.recognizes(theirs):
            return super().restore(state, model)  # raises the error
        return theirs

    def settings(self, state: State) -> dict[str, Any]:
        text = self._config_text()
        mean, std, bgr = pixels(text) or _pixels_by_statistics(state)
        settings = {"preprocess.bgr": bgr, "preprocess.mean": mean, "preprocess.std": std}
        if "backbone.layer1.0.conv3.weight" in state:  # BasicBlock is the same in both styles
            default = "caffe" if bgr and not _has_group_norm(state) else "pytorch"
            settings["backbone.style"] = next(literals(text, "style", {"caffe", "pytorch"}), default)
        if any(name.startswith("backbone.") and name.endswith("running_mean") for name in state):
            settings["backbone.norm.eps"] = EPS
        return settings

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        return DatasetMeta(class_names(self.contents)) if self.has_names(state) else None

    def has_names(self, state: State) -> bool:
        names = class_names(self.contents)
        return bool(names) and len(names) == self.outputs(state)

    def outputs(self, state: State) -> int:
        """The number of classes, without background, of the network with the library's names."""
        raise NotImplementedError

    def _config_text(self) -> str:
        meta = self.contents.get("meta")
        texts = (meta.get("cfg"), meta.get("config")) if isinstance(meta, Mapping) else ()
        return next((text for text in texts if isinstance(text, str) and len(text) <= MAX_TEXT), "")


def class_names(contents: Mapping[Any, Any]) -> tuple[str, ...]:
    """The class names in a checkpoint of MMEngine (`meta.dataset_meta.classes`) or MMCV (`meta.CLASSES`), or ()."""
    meta = contents.get("meta")
    if not isinstance(meta, Mapping):
        return ()
    data = meta.get("dataset_meta")
    places = [data, meta] if isinstance(data, Mapping) else [meta]
    for names in (place.get(key) for place in places for key in ("classes", "CLASSES")):
        if _are_strings(names):
            unique = tuple(dict.fromkeys(printable(name, 200) for name in names))
            return unique if len(unique) == len(names) else ()
    return ()


def _are_strings(value: Any) -> TypeGuard[list[str]]:
    is_list = isinstance(value, list | tuple) and 0 < len(value) <= MAX_CLASSES
    return is_list and all(isinstance(item, str) for item in value)


def pixels(text: str) -> tuple[tuple[float, ...], tuple[float, ...], bool] | None:
    """Mean, std, and whether images are BGR, in the first dict of a config's text that has a literal mean and std."""
    for arguments in _dicts(text):
        mean, std = arguments.get("mean"), arguments.get("std")
        if _are_numbers(mean) and _are_numbers(std) and len(mean) == len(std):
            rgb = next((arguments[key] for key in ("bgr_to_rgb", "to_rgb") if key in arguments), False)
            return tuple(map(float, mean)), tuple(map(float, std)), rgb is not True
    return None


def literals(text: str, key: str, allowed: set[str]) -> Iterator[str]:
    """Yield the values of a key in the dicts of a config's text, if they are among the allowed ones."""
    for arguments in _dicts(text):
        value = arguments.get(key)
        if isinstance(value, str) and value in allowed:
            yield value


def _dicts(text: str) -> Iterator[dict[str, Any]]:
    """Yield the literal entries of all dicts in Python source, `dict(a=1)` and `{"a": 1}`, outer ones first."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = [(getattr(key, "value", None), value) for key, value in zip(node.keys, node.values)]
        else:
            continue
        entries = {}
        for key, value in pairs:
            try:
                entries[str(key)] = ast.literal_eval(value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
        if entries:
            yield entries


def _are_numbers(value: Any) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list | tuple)
        and 0 < len(value) <= 16
        and all(type(number) in (int, float) for number in value)
    )


def _pixels_by_statistics(state: State) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Mean, std and whether images are BGR, from the statistics of the first norm.

    The statistics of Caffe's ResNets are zero, since Caffe folded them into scale and shift; the "caffe" configs keep
    them constant in training. ResNets with GroupNorm are from Caffe2 too, with BGR images, but with the stride in the
    3×3 convolution.
    """
    statistics = state.get("backbone.bn1.running_mean")
    if _has_group_norm(state) or (statistics is not None and not statistics.any()):
        return CAFFE_MEAN, CAFFE_STD, True
    return RGB_MEAN, RGB_STD, False
