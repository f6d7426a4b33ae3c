"""Formats of torchvision's detectors on a ResNet with FPN: Faster, Mask and Keypoint R-CNN, and RetinaNet."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, KeypointRCNN_ResNet50_FPN_Weights

from chordate.model_contracts import Model
from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta, Skeleton
from chordate.weights.formats.backbone_variants import variant_of
from chordate.weights.formats.classifiers import style_settings
from chordate.weights.formats.format import Format, State
from chordate.weights.formats.torchvision_names import rcnn, retinanet

# Torchvision's COCO detectors have 91 outputs, indexed by category id; 0 is the background, "N/A" marks unused ids.
_COCO_IDS: tuple[str, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
_GAP = "N/A"
_KEYPOINTS: tuple[str, ...] = tuple(KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"])


def _class_rows(outputs: int, model: Any) -> list[int]:
    """The rows of the classes in torchvision's predictor: all `outputs` rows except row 0, the background. If COCO's 91
    outputs are converted for a model with 80 classes, the rows of unused ids are also left out.
    """
    rows = list(range(1, outputs))
    if outputs == len(_COCO_IDS) and isinstance(model, Model) and len(model.classes) == 80:
        rows = [row for row in rows if _COCO_IDS[row] != _GAP]
    return rows


_BODY = "backbone.body."
# Norms that only the `_v2` models have: in an R-CNN's FPN, and in the towers of RetinaNet.
_NORMS_OF_V2 = ("backbone.fpn.inner_blocks.0.1.weight", "head.classification_head.conv.0.1.weight")


class TorchvisionDetector(Format):
    """Base class of formats of torchvision's detectors."""

    library = "torchvision"

    def settings(self, state: State) -> dict[str, Any]:
        """Settings of the images, the ResNet and the anchors.

        The COCO_V1 weights have no `num_batches_tracked`, since their norms are FrozenBatchNorm2d; these have eps 0
        (torchvision's `overwrite_eps`).
        """
        anchors = "rpn.anchors" if "rpn.head.cls_logits.weight" in state else "head.anchors"
        return {
            "preprocess.bgr": False,
            "preprocess.mean": IMAGENET_MEAN,
            "preprocess.std": IMAGENET_STD,
            "size_divisor": 32,
            **style_settings(state, _BODY),
            "backbone.norm.eps": 0.0 if self.is_frozen(state) else 1e-5,
            f"{anchors}.rounded": True,
            f"{anchors}.stride_from_grid": True,
        }

    def is_frozen(self, state: State) -> bool:
        return f"{_BODY}bn1.num_batches_tracked" not in state

    def packaged(self, family: str, state: State, classes: int | None) -> tuple[str, dict[str, Any]] | None:
        """The packaged config of a detector with the ResNet in `state`, see `Format.config`.

        Returns None if the ResNet is unknown.

        Args:
            family: beginning of the config's name, for example "mask-rcnn".
            state: tensors, keyed by torchvision's names.
            classes: number of classes; None for COCO's classes.
        """
        body = {name.removeprefix(_BODY): x for name, x in state.items() if name.startswith(_BODY)}
        backbone = variant_of(body, "ResNet")
        if backbone is None:
            return None
        norm = {"_delete_": True, "type": "FrozenBN" if self.is_frozen(state) else "BN"}
        overrides: dict[str, Any] = {"model.backbone.norm": norm}
        if classes is not None:
            overrides["fallback_meta.classes"] = classes
        is_v2 = any(name in state for name in _NORMS_OF_V2)
        return f"{family}_{backbone}_fpn{'-v2' if is_v2 else ''}_torchvision", overrides


@FORMATS.register_module()
class TorchvisionRCNN(TorchvisionDetector):
    """Faster, Mask or Keypoint R-CNN on a ResNet with FPN. Torchvision's background is class 0; ours is the last.

    Torchvision's predictors also have box and mask outputs for the background, which it never reads; their weights are
    written as 0.
    """

    def recognizes(self, state: State) -> bool:
        return {"backbone.body.layer1.0.conv1.weight", "roi_heads.box_predictor.cls_score.weight"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        ours = rcnn(state).convert(state)
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
        theirs = dict(state)
        for name, tensor in state.items():
            if name.startswith("box.cls_score."):
                theirs[name] = torch.cat((tensor[-1:], tensor[:-1]))
            elif name.startswith("box.bbox_pred."):
                theirs[name] = _after_background(tensor, 4)
            elif name.startswith("mask.masks."):
                theirs[name] = _after_background(tensor, 1)
        return self.checked(rcnn(state).restore(theirs), model)

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        outputs = len(state["roi_heads.box_predictor.cls_score.weight"])
        if outputs == len(_COCO_IDS):
            return DatasetMeta(tuple(_COCO_IDS[row] for row in _class_rows(outputs, model)))
        keypoints = state.get("roi_heads.keypoint_predictor.kps_score_lowres.bias")
        if outputs == 2 and keypoints is not None and len(keypoints) == len(_KEYPOINTS):
            return DatasetMeta(("person",), Skeleton(_KEYPOINTS))
        return None

    def settings(self, state: State) -> dict[str, Any]:
        heads = {"box": "box_predictor", "mask": "mask_predictor", "keypoint": "keypoint_predictor"}
        settings = super().settings(state)
        for head, theirs in heads.items():
            if any(name.startswith(f"roi_heads.{theirs}.") for name in state):
                settings |= {f"{head}.aligned": False, f"{head}.sampling_ratio": 2}
        return settings

    def config(self, state: State) -> tuple[str, dict[str, Any]] | None:
        keypoints = "roi_heads.keypoint_predictor.kps_score_lowres.weight" in state
        family = "mask-rcnn" if "roi_heads.mask_predictor.conv5_mask.weight" in state else "faster-rcnn"
        is_unnamed = self.meta(state, nn.Identity()) is None
        if keypoints and is_unnamed:
            return None  # the names of the keypoints are not in the weights
        classes = len(state["roi_heads.box_predictor.cls_score.bias"]) - 1 if is_unnamed else None
        return self.packaged("keypoint-rcnn" if keypoints else family, state, classes)


_RATIOS = 3  # number of aspect ratios of the anchors


@FORMATS.register_module()
class TorchvisionRetinaNet(TorchvisionDetector):
    """RetinaNet. The 91 outputs of the COCO weights are indexed by category id; index 0 and the unused ids have no
    class. A model with 91 classes gets all outputs, a model with COCO's 80 classes only those of its classes.

    Torchvision orders the anchors of a cell by ratio, then by size; ours are ordered by size, then by ratio, as in
    Detectron2.
    """

    def recognizes(self, state: State) -> bool:
        wanted = {"backbone.body.layer1.0.conv1.weight", "head.classification_head.cls_logits.weight"}
        is_fcos = "head.regression_head.bbox_ctrness.weight" in state
        return wanted <= state.keys() and not is_fcos

    def convert(self, state: State, model: Any) -> State:
        ours = retinanet().convert(state)
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
        return self.checked(retinanet().restore(state | ordered), model)

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        if self._outputs(state) != len(_COCO_IDS):
            return None
        return DatasetMeta(tuple(_COCO_IDS[row] for row in self._rows(state, model)))

    def settings(self, state: State) -> dict[str, Any]:
        sizes = [[x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))] for x in (32, 64, 128, 256, 512)]
        return {
            **super().settings(state),
            "head.anchors.sizes": sizes,
            "neck.extra_relu": True,
            "head.clip_before_nms": True,
        }

    def config(self, state: State) -> tuple[str, dict[str, Any]] | None:
        outputs = self._outputs(state)
        return self.packaged("retinanet", state, None if outputs == len(_COCO_IDS) else outputs)

    def _outputs(self, state: State) -> int:
        per_cell = len(state["head.regression_head.bbox_reg.bias"]) // 4
        return len(state["head.classification_head.cls_logits.bias"]) // per_cell

    def _rows(self, state: State, model: Any) -> list[int]:
        outputs = self._outputs(state)
        whole = not isinstance(model, Model) or len(model.classes) == outputs
        return list(range(outputs)) if whole else _class_rows(outputs, model)


def _after_background(rows: Tensor, count: int) -> Tensor:
    return torch.cat((torch.zeros_like(rows[:count]), rows))


def by_size(rows: Tensor, per_cell: int) -> Tensor:
    """Reorder the output channels of a predictor's weight or bias `[per_cell * K, ...]`, K per anchor: anchors ordered
    by ratio, then by size, become anchors ordered by size, then by ratio."""
    return _transposed(rows, per_cell, _RATIOS)


def by_ratio(rows: Tensor, per_cell: int) -> Tensor:
    """The inverse of `by_size`."""
    return _transposed(rows, per_cell, per_cell // _RATIOS)


def _transposed(rows: Tensor, per_cell: int, outer: int) -> Tensor:
    return rows.unflatten(0, (outer, per_cell // outer, -1)).transpose(0, 1).flatten(0, 2)
