"""Common to the formats of OpenMMLab's libraries: tensor names, class names, and settings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeGuard

from torch import nn

from chordate.errors import CheckpointError
from chordate.structures import DatasetMeta
from chordate.text import printable
from chordate.weights.formats.architecture import pools_in_shortcuts
from chordate.weights.formats.detectron2_settings import CAFFE, EPS, RGB, Pixels
from chordate.weights.formats.format import Format, State
from chordate.weights.formats.name_table import NameTable, Pairs
from chordate.weights.formats.openmmlab_config import at, config_of, not_supported, numbers, pixels
from chordate.weights.formats.weight_standardization import NOTE, standardize, standardized_weights

GUESSED = (
    "the file has no config, so colors, mean, std and style are guessed from the first BatchNorm, and all settings "
    "that the tensors do not show are those of the library's usual configs"
)
# Part of our model with a RoIAlign -> the extractor in MMDetection's `roi_head`.
EXTRACTORS = {f"{head}{stage}": f"{theirs}_roi_extractor"
              for head, theirs in (("box", "bbox"), ("mask", "mask")) for stage in ("", ".stage")}  # fmt: skip
MAX_CLASSES = 100_000  # limit, since the file may be untrusted


def backbone(state: State) -> Pairs:
    """Pairs of name prefixes (theirs, ours) of a ResNet; `state` has the library's names or ours.

    The library's names equal ours, except for GroupNorms, the shortcuts of "v1d" (see `shortcuts`), and the deep stem
    of "v1c" and "v1d". The library's deep stem is one nn.Sequential of nine layers; ours ends before the last norm.
    """
    stem: Pairs = (
        ("backbone.stem.7.", "backbone.bn1."),
        *((f"backbone.stem.{number}.", f"backbone.conv1.{number}.") for number in (0, 1, 3, 4, 6)),
    )
    is_deep = "backbone.stem.0.weight" in state or "backbone.conv1.0.weight" in state
    group_norms: Pairs = (("backbone.gn1.", "backbone.bn1."), ("backbone.layer#.#.gn#.", "backbone.layer#.#.bn#."))
    norms = group_norms if _has_group_norm(state) else ()
    return (*(stem if is_deep else ()), *norms, *shortcuts(state), ("backbone.", "backbone."))


def shortcuts(state: State) -> Pairs:
    """Pairs of name prefixes (theirs, ours) of the shortcuts of "v1d" with stride 1.

    The library has no pool there. Our shortcuts start with an nn.Identity or, in dilated stages, a pool, so the numbers
    of their other layers are higher by one.
    """
    if not pools_in_shortcuts(state):
        return ()
    stages = [number for number in range(1, 5) if number == 1 or _is_unpooled(state, number)]
    names = [f"backbone.layer{number}.0.downsample." for number in stages]
    return tuple((f"{name}{layer}.", f"{name}{layer + 1}.") for name in names for layer in (0, 1))


def _is_unpooled(state: State, stage: int) -> bool:
    """Whether the first block of a stage has a projection without a pool, in the library's names."""
    return f"backbone.layer{stage}.0.downsample.0.weight" in state


def _has_group_norm(state: State) -> bool:
    """Whether the backbone's norms are GroupNorms, which the libraries name `gn`, and we `bn`."""
    first = "backbone.layer1.0.bn1."
    return "backbone.layer1.0.gn1.weight" in state or (
        f"{first}weight" in state and f"{first}running_mean" not in state
    )


def conv_module(theirs: str, ours: str) -> Pairs:
    """Pairs of name prefixes of MMCV's ConvModule: a convolution, and a norm that is named after its type."""
    norms = ((f"{theirs}bn.", f"{ours}1."), (f"{theirs}gn.", f"{ours}1."))
    return ((f"{theirs}conv.", f"{ours}0."), *norms)


def restore_norms(theirs: State) -> State:
    """Rename GroupNorms from `bn` to `gn`: `NameTable.restore` uses the first pair that matches, which has `bn`."""
    grouped = {
        name.rpartition(".bn.")[0]
        for name in theirs
        if name.endswith(".bn.weight") and name.replace("bn.weight", "bn.running_mean") not in theirs
    }
    return {
        name.replace(".bn.", ".gn.") if name.rpartition(".bn.")[0] in grouped else name: x for name, x in theirs.items()
    }


def fpn(levels: int, outputs: int) -> Pairs:
    """Pairs of tensor-name prefixes, MMDetection's and ours, of an FPN that computes `outputs` outputs from `levels`
    inputs; the last input is c5."""
    first = 6 - levels
    pairs: list[tuple[str, str]] = []
    for number in range(levels):
        pairs += conv_module(f"neck.lateral_convs.{number}.", f"neck.lateral.c{first + number}.")
        pairs += conv_module(f"neck.fpn_convs.{number}.", f"neck.output.p{first + number}.")
    pairs += [(f"neck.fpn_convs.{number}.conv.", f"neck.extra.p{first + number}.") for number in range(levels, outputs)]
    return tuple(pairs)


class MMFormat(Format):
    """Base class of the formats of OpenMMLab's libraries."""

    wrapper = "state_dict"

    def names(self, state: State) -> NameTable:
        """The NameTable of the network's tensors; `state` has the library's names or ours."""
        raise NotImplementedError

    def convert(self, state: State, model: Any) -> State:
        # MMCV's EMAHook also saves the weights without averaging, as `ema_backbone_conv1_weight`.
        tensors = {name: x for name, x in state.items() if not name.startswith(("ema_", "data_preprocessor."))}
        for name, eps in standardized_weights(tensors, self.cfg).items():
            tensors[name] = standardize(tensors[name], eps)
        return self.names(state).convert(tensors)

    def notes(self, state: State) -> dict[str, str]:
        weights = {name: state[name] for name in standardized_weights(state, self.cfg)}
        return dict.fromkeys(self.names(state).convert(weights), NOTE)

    def restore(self, state: State, model: Any) -> State:
        if any(name.endswith("downsample.0.0") for name, _ in model.named_modules()):
            raise CheckpointError(f"{self.library}'s ResNet-D has no pool in the shortcuts of dilated stages")
        theirs = restore_norms(self.names(state).restore(state))
        if len(theirs) < len(state) or not self.recognizes(theirs):
            return super().restore(state, model)  # raises the error
        return theirs

    @cached_property
    def cfg(self) -> dict[str, Any]:
        """The config in the checkpoint, see `config_of`."""
        return config_of(self.contents)

    def settings(self, state: State) -> dict[str, Any]:
        mean, std, bgr = pixels(self.cfg) or _pixels_by_statistics(state)
        settings = {"preprocess.bgr": bgr, "preprocess.mean": mean, "preprocess.std": std}
        if "backbone.layer1.0.conv3.weight" in state:  # BasicBlock is the same in both styles
            guess = "caffe" if bgr and not _has_group_norm(state) else "pytorch"
            style = at(self.cfg, "model.backbone.style", "pytorch") if at(self.cfg, "model.backbone") else guess
            settings["backbone.style"] = "caffe" if style == "caffe" else "pytorch"
        if any(name.startswith("backbone.") and name.endswith("running_mean") for name in state):
            (settings["backbone.norm.eps"],) = numbers([at(self.cfg, "model.backbone.norm_cfg.eps")]) or (EPS,)
        return settings

    def checkpoint(self, state: State, model: Any) -> dict[str, Any]:
        return {**super().checkpoint(state, model), "meta": {"dataset_meta": {"classes": list(model.classes)}}}

    def options(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return config_options(settings)

    def guesses(self, state: State) -> str:
        return "" if self.cfg else GUESSED

    def unsupported(self, state: State) -> list[str]:
        dilated = pools_in_shortcuts(state) and any(_is_unpooled(state, stage) for stage in (3, 4))
        return not_supported(self.cfg) + (["backbone.avg_down=True in dilated stages"] if dilated else [])

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        return DatasetMeta(class_names(self.contents)) if self.has_names(state) else None

    def has_names(self, state: State) -> bool:
        names = class_names(self.contents)
        return bool(names) and len(names) == self.outputs(state)

    def outputs(self, state: State) -> int:
        """The number of classes, without background; `state` has the library's names."""
        raise NotImplementedError


def config_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings of our models to keys and values of OpenMMLab's configs."""
    options: dict[str, Any] = {}
    for name, value in settings.items():
        head, _, last = name.rpartition(".")
        if name == "preprocess.bgr":
            options["model.data_preprocessor.bgr_to_rgb"] = not value
        elif head == "preprocess":
            options[f"model.data_preprocessor.{last}"] = value
        elif name == "size_divisor":
            options["model.data_preprocessor.pad_size_divisor"] = value
        elif name == "backbone.style":
            options["model.backbone.style"] = value
        elif name == "neck.extra_relu":
            options["model.neck.relu_before_extra_convs"] = value
        elif head in EXTRACTORS and last in ("aligned", "sampling_ratio"):
            options[f"model.roi_head.{EXTRACTORS[head]}.roi_layer.{last}"] = value
    return options


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


def _pixels_by_statistics(state: State) -> tuple[*Pixels, bool]:
    """Mean, std and whether images are BGR, from the statistics of the first norm.

    The running means of Caffe's ResNets are 0, since they were folded into the biases of the norms; the "caffe" configs
    keep them constant in training. ResNets with GroupNorm come from Caffe2 and use BGR images, too, but have the
    stride in the 3×3 convolution.
    """
    statistics = state.get("backbone.bn1.running_mean")
    if _has_group_norm(state) or (statistics is not None and not statistics.any()):
        return *CAFFE, True
    return *RGB, False
