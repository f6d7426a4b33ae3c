"""Formats of torchvision's state dicts, one class per architecture."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, KeypointRCNN_ResNet50_FPN_Weights

from chordate.model_contracts import Model
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta, Skeleton
from chordate.weights.formats.classifiers import join_network
from chordate.weights.formats.format import Format, Names, State, rename_all
from chordate.weights.formats.torchvision_restore import restore_rcnn, restore_retinanet


@FORMATS.register_module()
class TorchvisionResNet(Format):
    """A ResNet classifier for ImageNet, whose last layer is named `fc`; without squeeze-and-excitation."""

    library = "torchvision"
    stride_in_3x3 = True

    def recognizes(self, state: State) -> bool:
        wanted = {"conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight", "fc.weight"}
        return wanted <= state.keys() and "layer1.0.se.fc1.weight" not in state

    def convert(self, state: State, model: Any) -> State:
        return state  # our ResNet has torchvision's names

    def restore(self, state: State, model: Any) -> State:
        return self.checked(join_network(state, model, {"linear": "fc"}), model)


_DENSENET_NAMES: Names = ((r"features\.(.*denselayer\d+\.(?:norm|conv))\.(?=\d\.)", r"\1"), (r"features\.", ""))


@FORMATS.register_module()
class TorchvisionDenseNet(Format):
    """A DenseNet classifier for ImageNet, whose last layer is named `classifier`."""

    library = "torchvision"

    def recognizes(self, state: State) -> bool:
        return "features.denseblock1.denselayer1.norm1.weight" in state or (
            "features.denseblock1.denselayer1.norm.1.weight" in state  # the name in the published files
        )

    def convert(self, state: State, model: Any) -> State:
        return rename_all(state, _DENSENET_NAMES)

    def restore(self, state: State, model: Any) -> State:
        network = join_network(state, model, {"linear": "classifier"})
        theirs = {name if name.startswith("classifier.") else f"features.{name}": x for name, x in network.items()}
        return self.checked(theirs, model)


# The `features` of torchvision's ConvNeXt are the stem, then alternating stages and downsampling layers.
_CONVNEXT_NAMES: Names = (
    (r"features\.0\.", "stem."),
    (r"features\.([1357])\.(\d+)\.layer_scale$", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.gamma"),
    (r"features\.([1357])\.(\d+)\.block\.0\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.dwconv."),
    (r"features\.([1357])\.(\d+)\.block\.2\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.norm."),
    (r"features\.([1357])\.(\d+)\.block\.3\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.pwconv1."),
    (r"features\.([1357])\.(\d+)\.block\.5\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.pwconv2."),
    (r"features\.([246])\.", lambda m: f"downsample{int(m[1]) // 2 + 1}."),
)
_CONVNEXT_RESTORED: Names = (
    (r"stem\.", "features.0."),
    (r"layer(\d)\.(\d+)\.gamma$", lambda m: f"features.{2 * int(m[1]) - 1}.{m[2]}.layer_scale"),
    *(
        (
            rf"layer(\d)\.(\d+)\.{ours}\.",
            lambda m, theirs=theirs: f"features.{2 * int(m[1]) - 1}.{m[2]}.block.{theirs}.",
        )
        for ours, theirs in (("dwconv", 0), ("norm", 2), ("pwconv1", 3), ("pwconv2", 5))
    ),
    (r"downsample(\d)\.", lambda m: f"features.{2 * int(m[1]) - 2}."),
)


@FORMATS.register_module()
class TorchvisionConvNeXt(Format):
    """A ConvNeXt classifier for ImageNet, whose last layers are named `classifier`."""

    library = "torchvision"

    def recognizes(self, state: State) -> bool:
        return {"features.0.0.weight", "features.1.0.layer_scale"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        ours = rename_all(state, _CONVNEXT_NAMES)
        return {name: tensor.flatten() if name.endswith(".gamma") else tensor for name, tensor in ours.items()}

    def restore(self, state: State, model: Any) -> State:
        network = join_network(state, model, {"linear": "classifier.2", "norm": "classifier.0"})
        theirs = rename_all(network, _CONVNEXT_RESTORED)
        scales = {name: x[:, None, None] for name, x in theirs.items() if name.endswith(".layer_scale")}
        return self.checked(theirs | scales, model)


# Torchvision's COCO detectors have an output for each category id, 0 … 90; the ids named "N/A" are unused.
_COCO_IDS: tuple[str, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
_GAP = "N/A"
_KEYPOINTS: tuple[str, ...] = tuple(KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"])


def _class_rows(outputs: int, model: Any) -> list[int]:
    """The rows of torchvision's predictor that correspond to classes, in our order.

    For a model with COCO's 80 classes, these are the rows of the used ids.
    """
    rows = list(range(1, outputs))
    if outputs == len(_COCO_IDS) and isinstance(model, Model) and len(model.classes) == 80:
        rows = [row for row in rows if _COCO_IDS[row] != _GAP]
    return rows


# Files of torchvision before 0.13 lack one `.0` in the names of the FPN and the RPN.
_RCNN_NAMES: Names = (
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(?=\d)", lambda m: f"neck.lateral.c{int(m[1]) + 2}."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.", lambda m: f"neck.lateral.c{int(m[1]) + 2}.0."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(?=\d)", lambda m: f"neck.output.p{int(m[1]) + 2}."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.", lambda m: f"neck.output.p{int(m[1]) + 2}.0."),
    (r"rpn\.head\.conv\.(\d)\.0\.", r"rpn.convs.\1."),
    (r"rpn\.head\.conv\.", "rpn.convs.0."),
    (r"rpn\.head\.cls_logits\.", "rpn.objectness_logits."),
    (r"rpn\.head\.bbox_pred\.", "rpn.anchor_deltas."),
    (r"roi_heads\.box_head\.fc([67])\.", lambda m: f"box.trunk.fcs.{int(m[1]) - 6}."),
    (r"roi_heads\.box_head\.(\d)\.(?=\d)", r"box.trunk.convs.\1."),
    # In `_v2` models, a single fully connected layer follows the convolutions.
    (r"roi_heads\.box_head\.\d\.", "box.trunk.fcs.0."),
    (r"roi_heads\.box_predictor\.cls_score\.", "box.cls_score."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "box.bbox_pred."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask.convs.{int(m[1]) - 1}.0."),
    (r"roi_heads\.mask_head\.(\d)\.", r"mask.convs.\1."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "mask.upsample."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask.masks."),
    (r"roi_heads\.keypoint_head\.(\d+)\.", lambda m: f"keypoint.convs.{int(m[1]) // 2}.0."),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint.heatmaps."),
)


@FORMATS.register_module()
class TorchvisionRCNN(Format):
    """Faster, Mask or Keypoint R-CNN on a ResNet with FPN. Torchvision's background is class 0; ours is the last."""

    library = "torchvision"
    stride_in_3x3 = True

    def recognizes(self, state: State) -> bool:
        return {"backbone.body.layer1.0.conv1.weight", "roi_heads.box_predictor.cls_score.weight"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        ours = rename_all(state, _RCNN_NAMES)
        rows = _class_rows(len(state["roi_heads.box_predictor.cls_score.weight"]), model)
        for suffix in ("weight", "bias"):
            logits = ours[f"box.cls_score.{suffix}"]
            ours[f"box.cls_score.{suffix}"] = torch.cat((logits[rows], logits[:1]))
            deltas = ours[f"box.bbox_pred.{suffix}"].unflatten(0, (-1, 4))
            ours[f"box.bbox_pred.{suffix}"] = deltas[rows].flatten(0, 1)
            if f"mask.masks.{suffix}" in ours:
                ours[f"mask.masks.{suffix}"] = ours[f"mask.masks.{suffix}"][rows]
        return ours

    def restore(self, state: State, model: Any) -> State:
        return self.checked(restore_rcnn(state), model)

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        outputs = len(state["roi_heads.box_predictor.cls_score.weight"])
        if outputs == len(_COCO_IDS):
            return DatasetMeta(tuple(_COCO_IDS[row] for row in _class_rows(outputs, model)))
        keypoints = state.get("roi_heads.keypoint_predictor.kps_score_lowres.bias")
        if outputs == 2 and keypoints is not None and len(keypoints) == len(_KEYPOINTS):
            return DatasetMeta(("person",), Skeleton(_KEYPOINTS))
        return None


_RETINANET_NAMES: Names = (
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?", lambda m: f"neck.lateral.c{int(m[1]) + 3}.0."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?", lambda m: f"neck.output.p{int(m[1]) + 3}.0."),
    (r"backbone\.fpn\.extra_blocks\.", "neck.extra."),
    (r"head\.classification_head\.conv\.(\d)\.(?=\d)", r"head.class_tower.\1."),
    (r"head\.classification_head\.conv\.(\d)\.", lambda m: f"head.class_tower.{int(m[1]) // 2}.0."),
    (r"head\.classification_head\.cls_logits\.", "head.cls_score."),
    (r"head\.regression_head\.conv\.(\d)\.(?=\d)", r"head.box_tower.\1."),
    (r"head\.regression_head\.conv\.(\d)\.", lambda m: f"head.box_tower.{int(m[1]) // 2}.0."),
    (r"head\.regression_head\.bbox_reg\.", "head.bbox_pred."),
)
_RATIOS = 3  # number of aspect ratios of the anchors


@FORMATS.register_module()
class TorchvisionRetinaNet(Format):
    """RetinaNet. Its classes are COCO's category ids including 0; a model with 91 classes keeps all of them.

    Torchvision orders the anchors of a cell by ratio, then by size; ours are ordered by size, then by ratio, as in
    Detectron2.
    """

    library = "torchvision"
    stride_in_3x3 = True

    def recognizes(self, state: State) -> bool:
        wanted = {"backbone.body.layer1.0.conv1.weight", "head.classification_head.cls_logits.weight"}
        return wanted <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        ours = rename_all(state, _RETINANET_NAMES)
        per_cell = len(ours["head.bbox_pred.bias"]) // 4
        rows = self._rows(state, model)
        for suffix in ("weight", "bias"):
            scores = by_size(ours[f"head.cls_score.{suffix}"], per_cell).unflatten(0, (per_cell, -1))
            ours[f"head.cls_score.{suffix}"] = scores[:, rows].flatten(0, 1)
            ours[f"head.bbox_pred.{suffix}"] = by_size(ours[f"head.bbox_pred.{suffix}"], per_cell)
        return ours

    def restore(self, state: State, model: Any) -> State:
        predictors = ("head.cls_score.", "head.bbox_pred.")
        per_cell = len(state.get("head.bbox_pred.bias", ())) // 4
        ordered = {name: by_ratio(x, per_cell) for name, x in state.items() if name.startswith(predictors)}
        return self.checked(restore_retinanet(state | ordered), model)

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        if self._outputs(state) != len(_COCO_IDS):
            return None
        return DatasetMeta(tuple(_COCO_IDS[row] for row in self._rows(state, model)))

    def _outputs(self, state: State) -> int:
        per_cell = len(state["head.regression_head.bbox_reg.bias"]) // 4
        return len(state["head.classification_head.cls_logits.bias"]) // per_cell

    def _rows(self, state: State, model: Any) -> list[int]:
        outputs = self._outputs(state)
        whole = not isinstance(model, Model) or len(model.classes) == outputs
        return list(range(outputs)) if whole else _class_rows(outputs, model)


def by_size(rows: Tensor, per_cell: int) -> Tensor:
    """Reorder a predictor's outputs `[per_cell * K, ...]`: anchors ordered by ratio, then by size, become anchors
    ordered by size, then by ratio."""
    return _transposed(rows, per_cell, _RATIOS)


def by_ratio(rows: Tensor, per_cell: int) -> Tensor:
    """The inverse of `by_size`."""
    return _transposed(rows, per_cell, per_cell // _RATIOS)


def _transposed(rows: Tensor, per_cell: int, outer: int) -> Tensor:
    return rows.unflatten(0, (outer, per_cell // outer, -1)).transpose(0, 1).flatten(0, 2)
