"""Format of the ImageNet weights that initialize Detectron2's models: MSRA's, FAIR's, DeepLab's, and others."""

from __future__ import annotations

from typing import Any

from chordate.contracts import Backbone
from chordate.registry import FORMATS
from chordate.weights.formats import detectron2_names as names
from chordate.weights.formats.architecture import Overrides, norm_of, resnet
from chordate.weights.formats.caffe2_names import from_caffe2, is_caffe2
from chordate.weights.formats.detectron2_detectors import Detectron2Format
from chordate.weights.formats.detectron2_settings import EPS
from chordate.weights.formats.format import Names, State, rename_all
from chordate.weights.formats.name_table import NameTable

_LINEAR: Names = ((r"(?:stem\.fc|fc1000)\.", "linear."),)  # last layer of files converted from torchvision or Caffe2


@FORMATS.register_module()
class Detectron2ResNet(Detectron2Format):
    """A ResNet or ResNeXt for ImageNet, with Detectron2's or Caffe2's names; with or without its last layer.

    The bias of the stem's convolution in MSRA's files has no effect in Detectron2, and is left out.
    """

    def recognizes(self, state: State) -> bool:
        return is_caffe2(state) or {"stem.conv1.weight", "res2.0.conv1.weight"} <= state.keys()

    def names(self, state: State, ours: bool) -> NameTable:
        has_backbone = ours and any(name.startswith("backbone.") for name in state)
        return self._table(state, ours, "backbone." if has_backbone else "", "head.fc." if has_backbone else "fc.")

    def resnet(self, state: State) -> str:
        return ""

    def convert(self, state: State, model: Any) -> State:
        theirs = self._theirs(state)
        is_classifier = not isinstance(model, Backbone) and getattr(model, "head", None) is not None
        prefixes = ("backbone.", "head.fc.") if is_classifier else ("", "fc.")
        return self._table(theirs, False, *prefixes).convert(theirs)

    def settings(self, state: State) -> dict[str, Any]:
        return super().settings(self._theirs(state))

    def config(self, state: State) -> tuple[str, Overrides] | None:
        theirs = self._theirs(state)
        if "linear.weight" not in theirs:
            return None
        ours = self._table(theirs, False, "backbone.", "head.fc.").convert(theirs)
        backbone, overrides = resnet(ours)
        if norm_of(ours, "backbone.bn1.") == "FrozenBN":  # in fact a BatchNorm that was saved without its counter
            overrides["model.backbone.norm"] = {"_delete_": True, "type": "BN"}
        return f"{backbone}_imagenet", overrides

    def _table(self, state: State, ours: bool, trunk: str, linear: str) -> NameTable:
        deep = (f"{trunk}conv1.6.weight" if ours else "stem.conv3.weight") in state
        resnet = names.deep_resnet if deep else names.resnet
        return NameTable(*resnet("", trunk), ("linear.", linear))

    def _theirs(self, state: State) -> State:
        """The state dict with Detectron2's names, without the bias of the stem."""
        theirs = from_caffe2(state, EPS) if is_caffe2(state) else dict(state)
        theirs = rename_all(theirs, _LINEAR)
        theirs.pop("stem.conv1.bias", None)
        return theirs
