"""Format of MMSegmentation: DeepLab v3 and v3+, FCN, PSPNet and Semantic FPN on a ResNet."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from chordate.registry import FORMATS
from chordate.weights.formats.architecture import Overrides, count, resnet
from chordate.weights.formats.format import State
from chordate.weights.formats.name_table import NameTable, Pairs
from chordate.weights.formats.openmmlab import MMFormat, backbone, conv_module, fpn
from chordate.weights.formats.openmmlab_config import OUTPUT_STRIDES, at, numbers


def separable(theirs: str, ours: str) -> Pairs:
    """Pairs of name prefixes of a depthwise separable convolution."""
    depthwise = conv_module(f"{theirs}depthwise_conv.", f"{ours}0.")
    return (*depthwise, *conv_module(f"{theirs}pointwise_conv.", f"{ours}1."))


def fcn(theirs: str, ours: str) -> Pairs:
    """Pairs of name prefixes of an FCN head, which is also the auxiliary head of the other networks."""
    return (
        *conv_module(f"{theirs}convs.#.", f"{ours}convs.#."),
        *conv_module(f"{theirs}conv_cat.", f"{ours}concatenated."),
        (f"{theirs}conv_seg.", f"{ours}logits."),
    )


_AUXILIARY = fcn("auxiliary_head.", "auxiliary.")
_LOGITS: Pairs = (("decode_head.conv_seg.", "head.logits."),)
_PSP: Pairs = (
    *conv_module("decode_head.psp_modules.#.1.", "head.branches.#."),
    *conv_module("decode_head.bottleneck.", "head.conv.0."),
)
_ASPP: Pairs = (
    *separable("decode_head.aspp_modules.#.", "head.aspp.branches.#."),
    *conv_module("decode_head.aspp_modules.#.", "head.aspp.branches.#."),
    *conv_module("decode_head.image_pool.1.", "head.aspp.pooled."),
    *conv_module("decode_head.bottleneck.", "head.aspp.project."),
    *conv_module("decode_head.c1_bottleneck.", "head.low."),
    *separable("decode_head.sep_bottleneck.#.", "head.decoder.#."),
)
# The library's layer numbers are even, since an Upsample layer follows each convolution, except at the finest level.
_SCALES: Pairs = (
    *conv_module("decode_head.scale_heads.0.0.", "head.branches.p2.0.0."),
    *(
        pair
        for level in range(1, 4)
        for number in range(level)
        for pair in conv_module(
            f"decode_head.scale_heads.{level}.{2 * number}.", f"head.branches.p{level + 2}.{number}.0."
        )
    ),
)
# A layer of a decode head -> the family of our configs with this head. The first match is used, since DeepLab v3+ also
# has `image_pool`.
_FAMILIES = {
    "c1_bottleneck.conv": "deeplabv3plus",
    "image_pool.1.conv": "deeplabv3",
    "psp_modules.0.1.conv": "pspnet",
    "scale_heads.0.0.conv": "semantic-fpn",
}
_DATA = {19: "80k_cityscapes", 150: "80k_ade20k", 21: "40k_voc-aug"}  # number of classes -> suffix of config names
_VOC_CLASSES = 21
_PROJECT = "head.aspp.project.0.weight"


@FORMATS.register_module()
class MMSegmentation(MMFormat):
    """An encoder-decoder with one decode head. In the concatenation of its ASPP, the pooled features are first; in
    Chordate's, they are last."""

    library = "mmsegmentation"

    def recognizes(self, state: State) -> bool:
        return {"backbone.layer1.0.conv1.weight", "decode_head.conv_seg.weight"} <= state.keys()

    def names(self, state: State) -> NameTable:
        levels = 4 if any(name.startswith("neck.") for name in state) else 0
        return NameTable(*fpn(levels, levels), *_AUXILIARY, *_decode_head(state), *backbone(state))

    def convert(self, state: State, model: Any) -> State:
        if getattr(model, "auxiliary", None) is None:
            state = {name: tensor for name, tensor in state.items() if not name.startswith("auxiliary_head.")}
        ours = super().convert(state, model)
        return ours | {_PROJECT: _roll(ours[_PROJECT], -1)} if _PROJECT in ours else ours

    def restore(self, state: State, model: Any) -> State:
        project = {_PROJECT: _roll(state[_PROJECT], 1)} if _PROJECT in state else {}
        return super().restore(state | project, model)

    def outputs(self, state: State) -> int:
        return len(state["decode_head.conv_seg.weight"])

    def settings(self, state: State) -> dict[str, Any]:
        settings = super().settings(state)
        stride = OUTPUT_STRIDES.get(tuple(map(int, numbers(at(self.cfg, "model.backbone.strides")))))
        grid = numbers(at(self.cfg, "model.backbone.multi_grid"))
        if stride:
            settings["backbone.output_stride"] = stride
        if grid:
            settings["backbone.multi_grid"] = tuple(map(int, grid))
        return settings

    def config(self, state: State) -> tuple[str, Overrides] | None:
        family = next((name for part, name in _FAMILIES.items() if f"decode_head.{part}.weight" in state), "fcn")
        classes, ours = self.outputs(state), self.convert(state, None)
        backbone, overrides = resnet(ours)
        data = _DATA.get(classes, "80k_cityscapes")
        if family == "semantic-fpn" and classes == 150:
            data = "160k_ade20k"
        if family == "fcn":
            data = "torchvision"  # the packaged FCN is torchvision's, for Pascal VOC
            overrides["model.head.convs"] = count(ours, "head.convs.{}.0.weight")
            overrides["model.head.concatenate"] = "head.concatenated.0.weight" in ours
        if classes not in _DATA or (family == "fcn" and classes != _VOC_CLASSES):
            overrides["fallback_meta.classes"] = classes
        return f"{family}_{backbone}_{'fpn' if family == 'semantic-fpn' else 'd8'}_{data}", overrides


def _decode_head(state: State) -> Pairs:
    """Pairs of name prefixes (theirs, ours) of the decode head; `state` has the library's names or ours."""
    for part, pairs in (
        (("decode_head.psp_modules.", "head.branches.0."), _PSP),
        (("decode_head.image_pool.", "head.aspp."), _ASPP),
        (("decode_head.scale_heads.", "head.branches.p2."), _SCALES),
    ):
        if any(name.startswith(part) for name in state):
            return (*pairs, *_LOGITS)
    return fcn("decode_head.", "head.")


def _roll(weight: Tensor, direction: int) -> Tensor:
    """Move the C input channels of the pooled features in a weight `[C, I, K, K]` from first to last (`direction` -1),
    or back (1)."""
    return weight.roll(direction * weight.shape[0], dims=1)
