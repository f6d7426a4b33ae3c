"""Checkpoints of Simple Baselines with a ResNet backbone, from the authors (`pose_resnet`) and from MMPose."""

from typing import Any

from torch import nn

from chordate.data.coco_classes import COCO_SKELETON
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats.format import Format, Names, State, rename_all

_NAMES: Names = (
    (r"(?:module\.)?(?:(?:keypoint_)?head\.)?deconv_layers\.", "head.deconvs."),
    (r"(?:module\.)?(?:(?:keypoint_)?head\.)?final_layer\.", "head.heatmaps."),
    (r"(?:module\.)?(?:backbone\.)?(conv1|bn1|layer[1-4])\.", r"backbone.\1."),
)


@FORMATS.register_module()
class SimpleBaselines(Format):
    """Checkpoints of Simple Baselines: deconvolutions on a ResNet.

    The weights need `model.head.aligned=False` and `model.flip_shift=True`: the authors' code and MMPose's MSRAHeatmap
    place the center of a heatmap cell 0.5 image pixels from its top-left corner, instead of half a stride, and shift
    the heatmaps of flipped images by one cell. The authors' weights also need `model.preprocess.bgr=True`: their code
    reads images with OpenCV and normalizes the channels B, G, R by ImageNet's statistics of R, G, B. MMPose converts
    images to RGB.

    The authors' networks with "caffe" in their names need a backbone such as `resnet50_caffe`.
    """

    library = "Simple Baselines"

    def recognizes(self, state: State) -> bool:
        ours = rename_all(state, _NAMES).keys()
        needed = {"backbone.layer1.0.conv1.weight", "head.deconvs.0.weight", "head.heatmaps.weight"}
        return needed <= ours and not needed <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        return rename_all(state, _NAMES)

    def settings(self, state: State) -> dict[str, Any]:
        is_mmpose = any(name.startswith("backbone.") for name in state)
        return {"head.aligned": False, "flip_shift": True, "preprocess.bgr": not is_mmpose}

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        keypoints = len(rename_all(state, _NAMES)["head.heatmaps.weight"])
        return DatasetMeta(("person",), COCO_SKELETON) if keypoints == len(COCO_SKELETON.names) else None
