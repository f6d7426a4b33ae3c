"""Format of segmentation_models.pytorch (smp): networks with a ResNet encoder, for models with the head SmpDecoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chordate.registry import FORMATS
from chordate.weights.formats.format import Format, State
from chordate.weights.formats.name_table import NameTable

_NAMES = NameTable(("encoder.", "backbone."), ("decoder.", "head.decoder."), ("segmentation_head.", "head.logits."))
_DIVISOR = 32  # smp refuses images whose sides are not multiples of this number


@FORMATS.register_module()
class SmpSegmentation(Format):
    """U-Net, FPN, PSPNet, DeepLab v3 and v3+ and other networks of smp; the encoder has torchvision's names.

    A folder of `save_pretrained` has the arguments of the network in `config.json`.
    """

    library = "smp"

    def recognizes(self, state: State) -> bool:
        return {"encoder.layer1.0.conv1.weight", "segmentation_head.0.weight"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        return _NAMES.convert(state)

    def restore(self, state: State, model: Any) -> State:
        theirs = _NAMES.restore(state)
        if len(theirs) < len(state) or not self.recognizes(theirs):
            return super().restore(state, model)  # raises the error
        return theirs

    def settings(self, state: State) -> dict[str, Any]:
        return {"size_divisor": _DIVISOR}

    def config(self, state: State) -> tuple[str, dict[str, Any]] | None:
        arguments = self.contents.get("config")
        if not isinstance(arguments, Mapping):
            return None
        options = {str(key): value for key, value in arguments.items() if not str(key).startswith("_")}
        architecture, encoder = str(arguments.get("_model_class")).lower(), str(options.pop("encoder_name", ""))
        for name in ("encoder_weights", "classes", "in_channels", "aux_params"):
            options.pop(name, None)
        backbone: dict[str, Any] = {"_delete_": True, "type": encoder, "out": "all"}
        if options.get("encoder_output_stride") in (8, 16) or architecture in ("deeplabv3", "deeplabv3plus"):
            stride = options.get("encoder_output_stride", 8 if architecture == "deeplabv3" else 16)
            dilations = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2)}.get(stride)
            backbone |= {"output_stride": stride, "dilations": dilations} if dilations else {}
        head = {"_delete_": True, "type": "SmpDecoder", "architecture": architecture, "encoder": encoder}
        return "semantic-fpn_r50c_fpn_80k_cityscapes", {
            "model.backbone": backbone,
            "model.neck": None,
            "model.head": {**head, "options": options},
            "fallback_meta.classes": len(state["segmentation_head.0.weight"]),
        }
