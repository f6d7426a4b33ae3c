"""Format of MMPretrain's (formerly MMClassification's) classifiers: ResNet, ResNet-C, ResNet-D and ResNeXt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from chordate.data.image_folder import imagenet_classes
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats.architecture import Overrides, resnet
from chordate.weights.formats.format import State
from chordate.weights.formats.name_table import NameTable, Pairs
from chordate.weights.formats.openmmlab import MMFormat, shortcuts

_DEEP = "backbone.stem.0.conv.weight"
# The deep stem of "v1c" and "v1d": three ConvModules. MMDetection and MMSegmentation have no ConvModules in it.
_STEM: Pairs = (
    ("backbone.stem.2.bn.", "backbone.bn1."),
    *((f"backbone.stem.{number}.conv.", f"backbone.conv1.{3 * number}.") for number in range(3)),
    *((f"backbone.stem.{number}.bn.", f"backbone.conv1.{3 * number + 1}.") for number in range(2)),
)


@FORMATS.register_module()
class MMPretrainResNet(MMFormat):
    """A ResNet or ResNeXt with the last layer `head.fc`.

    Only the names of the deep stem and of ResNet-D's shortcuts differ from ours. Without a deep stem, weights may
    therefore be from another library, and their settings and class names are known only if the file has `meta`.
    """

    library = "mmpretrain"

    def recognizes(self, state: State) -> bool:
        wanted = {"backbone.layer1.0.conv1.weight", "head.fc.weight"}
        return wanted <= state.keys() and "backbone.conv1.0.weight" not in state

    def names(self, state: State) -> NameTable:
        is_deep = _DEEP in state or "backbone.conv1.0.weight" in state
        stem = _STEM if is_deep else ()
        return NameTable(*stem, *shortcuts(state), ("backbone.", "backbone."), ("head.fc.", "head.fc."))

    def settings(self, state: State) -> dict[str, Any]:
        return super().settings(state) if self._is_theirs(state) else {}

    def outputs(self, state: State) -> int:
        return len(state["head.fc.weight"])

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        classes, named = imagenet_classes(), super().meta(state, model)
        is_imagenet = self._is_theirs(state) and self.outputs(state) == len(classes)
        return named or (DatasetMeta(classes) if is_imagenet else None)

    def _is_theirs(self, state: State) -> bool:
        return _DEEP in state or isinstance(self.contents.get("meta"), Mapping)

    def config(self, state: State) -> tuple[str, Overrides] | None:
        name, overrides = resnet(self.convert(state, None))
        if self.outputs(state) != len(imagenet_classes()):
            overrides["fallback_meta.classes"] = self.outputs(state)
        return f"{name}_imagenet", overrides
