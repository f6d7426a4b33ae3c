"""Formats of torchvision's semantic segmentation models: DeepLabV3 and FCN on a ResNet."""

from typing import Any

from torch import nn
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats.format import Format, Names, State, rename_all

# Pascal VOC's classes; the first is the background, which torchvision calls "__background__".
_VOC: tuple[str, ...] = ("background", *DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:])
_FCN: Names = (
    (r"classifier\.([01])\.", r"head.convs.0.\1."),
    (r"classifier\.4\.", "head.logits."),
)
_DEEPLAB: Names = (
    (r"classifier\.0\.convs\.4\.([12])\.", lambda m: f"head.aspp.pooled.{int(m[1]) - 1}."),
    (r"classifier\.0\.convs\.", "head.aspp.branches."),
    (r"classifier\.0\.project\.", "head.aspp.project."),
    (r"classifier\.([12])\.", lambda m: f"head.conv.{int(m[1]) - 1}."),
    (r"classifier\.4\.", "head.logits."),
)
_AUXILIARY: Names = (
    (r"aux_classifier\.([01])\.", r"auxiliary.convs.0.\1."),
    (r"aux_classifier\.4\.", "auxiliary.logits."),
)
_FCN_RESTORED: Names = ((r"head\.convs\.0\.([01])\.", r"classifier.\1."), (r"head\.logits\.", "classifier.4."))
_DEEPLAB_RESTORED: Names = (
    (r"head\.aspp\.pooled\.([01])\.", lambda m: f"classifier.0.convs.4.{int(m[1]) + 1}."),
    (r"head\.aspp\.branches\.", "classifier.0.convs."),
    (r"head\.aspp\.project\.", "classifier.0.project."),
    (r"head\.conv\.([01])\.", lambda m: f"classifier.{int(m[1]) + 1}."),
    (r"head\.logits\.", "classifier.4."),
)
_AUXILIARY_RESTORED: Names = (
    (r"auxiliary\.convs\.0\.([01])\.", r"aux_classifier.\1."),
    (r"auxiliary\.logits\.", "aux_classifier.4."),
)


@FORMATS.register_module()
class TorchvisionSegmentation(Format):
    """DeepLabV3 or FCN on a ResNet; the auxiliary head is left out if the model has none."""

    library = "torchvision"
    stride_in_3x3 = True

    def recognizes(self, state: State) -> bool:
        return {"backbone.layer1.0.conv1.weight", "classifier.4.weight"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        if not getattr(model, "auxiliary", None):
            state = {name: tensor for name, tensor in state.items() if not name.startswith("aux_classifier.")}
        head = _DEEPLAB if any(name.startswith("classifier.0.convs.") for name in state) else _FCN
        return rename_all(state, (*_AUXILIARY, *head))

    def restore(self, state: State, model: Any) -> State:
        head = _DEEPLAB_RESTORED if "head.aspp.project.0.weight" in state else _FCN_RESTORED
        return self.checked(rename_all(state, (*_AUXILIARY_RESTORED, *head)), model)

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        return DatasetMeta(_VOC) if len(state["classifier.4.weight"]) == len(_VOC) else None
