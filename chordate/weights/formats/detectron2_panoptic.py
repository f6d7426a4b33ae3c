"""Format of Detectron2's Panoptic-DeepLab project."""

from __future__ import annotations

from typing import Any

from torch import nn

from chordate.data.cityscapes import CITYSCAPES_CLASSES, CITYSCAPES_STUFF, CITYSCAPES_THINGS
from chordate.data.coco_classes import COCO_CLASSES, COCO_STUFF
from chordate.model_contracts import Model
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats import detectron2_names as names
from chordate.weights.formats.architecture import Overrides, resnet
from chordate.weights.formats.detectron2_detectors import Detectron2Format
from chordate.weights.formats.detectron2_segmentation import dilated_resnet
from chordate.weights.formats.format import State
from chordate.weights.formats.name_table import NameTable

# Settings of the project's configs that the tensors do not show.
_SHARED: Overrides = {
    "model.backbone.out": ["c2", "c3", "c5"],
    "model.backbone.output_stride": 16,
    "model.backbone.multi_grid": [1, 2, 4],
    "model.semantic.pooling_norm": False,
    "model.center.pooling_norm": False,
    "model.center.center_separable": False,
}
_COCO: Overrides = {
    "fallback_meta.classes": "coco_panoptic",
    "fallback_meta.stuff": "coco_panoptic",
    "model.stuff_area": 4096,
    "model.nms_kernel": 41,
    "model.semantic.losses": [{"type": "CrossEntropy"}],
    "model.center.sigma": 8.0,
}
_STRIDE = 16
# Training crops in pixels (height, width); ASPP's pooling window covers one crop. COCO's images are padded to multiples
# of 640 px, Cityscapes' images are not padded.
_CITYSCAPES_CROP, _COCO_CROP = (512, 1024), (640, 640)
_HEADS = ("semantic", "center")


@FORMATS.register_module()
class Detectron2PanopticDeepLab(Detectron2Format):
    """Panoptic-DeepLab on a ResNet, with plain or depthwise separable convolutions (DSConv).

    Detectron2's decoders concatenate feature maps in the order [finer, coarser], ours in the order [coarser, finer].
    Detectron2 orders the classes of Cityscapes by train id; `CityscapesPanoptic` starts with the things.
    """

    def recognizes(self, state: State) -> bool:
        wanted = ("ins_embed_head.center_predictor", "sem_seg_head.decoder.res3.project_conv", "sem_seg_head.predictor")
        return {f"{name}.weight" for name in wanted} <= state.keys()

    def names(self, state: State, ours: bool) -> NameTable:
        theirs = "sem_seg_head.decoder.res5.project_conv.convs.1.depthwise.weight"
        separable = ("semantic.decoder.aspp.branches.1.0.0.weight" if ours else theirs) in state
        return NameTable(*dilated_resnet(state, ours), *names.panoptic_deeplab(separable))

    def convert(self, state: State, model: Any) -> State:
        ours = _swapped(super().convert(state, model), -1)
        classes = _cityscapes_order(ours, model)
        return _with_rows(ours, [CITYSCAPES_CLASSES.index(name) for name in classes]) if classes else ours

    def restore(self, state: State, model: Any) -> State:
        if "center.center.1.weight" in state and "semantic.decoder.reduce.1.0.weight" in state:
            classes = _cityscapes_order(state, model)
            ordered = _with_rows(state, [classes.index(name) for name in CITYSCAPES_CLASSES]) if classes else state
            state = _swapped(ordered, 1)
        return super().restore(state, model)

    def settings(self, state: State) -> dict[str, Any]:
        is_coco = _is_coco(state)
        window = tuple(side // _STRIDE for side in (_COCO_CROP if is_coco else _CITYSCAPES_CROP))
        pooling = {f"{head}.pooling_size": window for head in _HEADS}
        return {**super().settings(state), "size_divisor": _COCO_CROP[0] if is_coco else 1, **pooling}

    def guesses(self, state: State) -> str:
        return f"{super().guesses(state)}; pooling_size is guessed from the classes, and is INPUT.CROP.SIZE / {_STRIDE}"

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        if _is_coco(state):
            return DatasetMeta(COCO_CLASSES + COCO_STUFF, stuff=COCO_STUFF)
        if len(state["sem_seg_head.predictor.bias"]) != len(CITYSCAPES_CLASSES):
            return None
        classes = _cityscapes_order({"semantic.logits.bias": state["sem_seg_head.predictor.bias"]}, model)
        return DatasetMeta(classes or CITYSCAPES_CLASSES, stuff=CITYSCAPES_STUFF)

    def config(self, state: State) -> tuple[str, Overrides] | None:
        if self.meta(state, nn.Identity()) is None:
            return None  # which classes are stuff is not in the weights
        ours = self.convert(state, None)
        backbone, overrides = resnet(ours)
        overrides |= _SHARED | (_COCO if _is_coco(state) else {})
        separable = "semantic.decoder.aspp.branches.1.0.0.weight" in ours
        for head in _HEADS:
            layers = {"channels": "fuse.0.1.0", "aspp_channels": "aspp.project.0"}
            widths = {name: len(ours[f"{head}.decoder.{layer}.weight"]) for name, layer in layers.items()}
            low = [len(ours[f"{head}.decoder.reduce.{n}.0.weight"]) for n in range(2)]
            settings = {**widths, "low_channels": low, "separable": separable}
            overrides |= {f"model.{head}.{name}": value for name, value in settings.items()}
        overrides["model.center.head_channels"] = ours["center.center.1.weight"].shape[1]
        return f"panoptic-deeplab_{backbone}_cityscapes", overrides


def _is_coco(state: State) -> bool:
    return len(state["sem_seg_head.predictor.bias"]) == len(COCO_CLASSES) + len(COCO_STUFF)


def _cityscapes_order(ours: State, model: Any) -> tuple[str, ...] | None:
    """Cityscapes' classes in the order of our outputs; None if the outputs belong to other classes."""
    classes = model.classes if isinstance(model, Model) else CITYSCAPES_THINGS + CITYSCAPES_STUFF
    is_cityscapes = len(ours["semantic.logits.bias"]) == len(CITYSCAPES_CLASSES)
    return classes if is_cityscapes and {*classes} == {*CITYSCAPES_CLASSES} else None


def _with_rows(state: State, rows: list[int]) -> State:
    """Reorder the output channels of the layer that computes the semantic logits."""
    names = [f"semantic.logits.{kind}" for kind in ("weight", "bias")]
    return {**state, **{name: state[name][rows] for name in names}}


def _swapped(ours: State, direction: int) -> State:
    """Move the channels of the finer feature map after the others (`direction` -1), or before them (1), in the layers
    that read the concatenated maps: the first convolution; if it is depthwise, also its norm and the input channels of
    the 1×1 convolution after it."""
    swapped = dict(ours)
    for head in _HEADS:
        for number in range(2):
            low = len(ours[f"{head}.decoder.reduce.{number}.0.weight"])
            fuse = f"{head}.decoder.fuse.{number}"
            dims = {f"{fuse}.0.0.weight": 1}
            if ours[f"{fuse}.0.0.weight"].shape[1] == 1:
                depthwise = {name: 0 for name, x in ours.items() if name.startswith(f"{fuse}.0.") and x.ndim}
                dims = {**depthwise, f"{fuse}.1.0.weight": 1}
            swapped |= {name: ours[name].roll(direction * low, dim) for name, dim in dims.items()}
    return swapped
