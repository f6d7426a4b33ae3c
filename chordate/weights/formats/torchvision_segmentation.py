"""Formats of torchvision's semantic segmentation models: DeepLabV3 and FCN on a ResNet."""

from typing import Any

from torch import nn
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats.backbone_variants import variant_of
from chordate.weights.formats.classifiers import style_settings
from chordate.weights.formats.format import Format, State
from chordate.weights.formats.name_table import NameTable

# Pascal VOC's classes; the first is the background, which torchvision calls "__background__".
_VOC: tuple[str, ...] = ("background", *DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:])
_SHARED = (
    ("backbone.", "backbone."),
    ("aux_classifier.0.", "auxiliary.convs.0.0."),
    ("aux_classifier.1.", "auxiliary.convs.0.1."),
    ("aux_classifier.4.", "auxiliary.logits."),
    ("classifier.4.", "head.logits."),
)
_FCN = NameTable(
    *_SHARED,
    ("classifier.0.", "head.convs.0.0."),
    ("classifier.1.", "head.convs.0.1."),
)
_DEEPLAB = NameTable(
    *_SHARED,
    ("classifier.0.convs.4.1.", "head.aspp.pooled.0."),
    ("classifier.0.convs.4.2.", "head.aspp.pooled.1."),
    ("classifier.0.convs.", "head.aspp.branches."),
    ("classifier.0.project.", "head.aspp.project."),
    ("classifier.1.", "head.conv.0."),
    ("classifier.2.", "head.conv.1."),
)


@FORMATS.register_module()
class TorchvisionSegmentation(Format):
    """DeepLabV3 or FCN on a ResNet; the auxiliary head is left out if the model has none."""

    library = "torchvision"

    def recognizes(self, state: State) -> bool:
        return {"backbone.layer1.0.conv1.weight", "classifier.4.weight"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        if not getattr(model, "auxiliary", None):
            state = {name: tensor for name, tensor in state.items() if not name.startswith("aux_classifier.")}
        table = _DEEPLAB if any(name.startswith("classifier.0.convs.") for name in state) else _FCN
        return table.convert(state)

    def restore(self, state: State, model: Any) -> State:
        table = _DEEPLAB if "head.aspp.project.0.weight" in state else _FCN
        return self.checked(table.restore(state), model)

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        return DatasetMeta(_VOC) if len(state["classifier.4.weight"]) == len(_VOC) else None

    def settings(self, state: State) -> dict[str, Any]:
        return {
            "preprocess.bgr": False,
            "preprocess.mean": IMAGENET_MEAN,
            "preprocess.std": IMAGENET_STD,
            **style_settings(state, "backbone."),
        }

    def config(self, state: State) -> tuple[str, dict[str, Any]] | None:
        body = {name.removeprefix("backbone."): x for name, x in state.items() if name.startswith("backbone.")}
        backbone = variant_of(body, "ResNet")
        if backbone is None:
            return None
        family = "deeplabv3" if "classifier.0.project.0.weight" in state else "fcn"
        overrides: dict[str, Any] = {"model.backbone.pretrained": None}
        if "aux_classifier.4.weight" not in state:
            overrides["model.auxiliary"] = None
        if len(state["classifier.4.weight"]) != len(_VOC):
            overrides["fallback_meta.classes"] = len(state["classifier.4.weight"])
        return f"{family}_{backbone}_d8_torchvision", overrides
