"""Format of segmentation_models.pytorch (smp): networks with a ResNet encoder, for models with the head SmpDecoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from chordate.errors import repr_name
from chordate.libraries import import_smp
from chordate.registry import BACKBONES, FORMATS
from chordate.text import one_line
from chordate.weights.formats.format import Format, State
from chordate.weights.formats.name_table import NameTable

_NAMES = NameTable(("encoder.", "backbone."), ("decoder.", "head.decoder."), ("segmentation_head.", "head.logits."))
_DIVISOR = 32  # smp refuses images whose sides are not multiples of this number

# Arguments of smp's networks that are not options of SmpDecoder.
_OTHER_ARGUMENTS = frozenset(
    {"self", "kwargs", "encoder_name", "encoder_weights", "classes", "in_channels", "aux_params"}
)


@FORMATS.register_module()
class SmpSegmentation(Format):
    """U-Net, FPN, PSPNet, DeepLab v3 and v3+ and other networks of smp; the encoder has torchvision's names.

    In a folder written by smp's `save_pretrained`, `config.json` has the network's arguments.
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
        architecture, encoder = str(arguments.get("_model_class")).lower(), str(arguments.get("encoder_name"))
        if encoder not in BACKBONES.names():
            raise ValueError(f"the encoder {repr_name(encoder)} has no counterpart in Chordate")
        options = _options(arguments, architecture, encoder, state)
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


def _options(arguments: Mapping[Any, Any], architecture: str, encoder: str, state: State) -> dict[str, Any]:
    """The arguments in `config.json` that SmpDecoder needs.

    To check them, smp's network is built on the meta device, so that an untrusted file cannot make us allocate a large
    network.

    Raises:
        ValueError: smp cannot build the network, or the network's tensors differ from `state`.
    """
    try:
        network = import_smp("the checkpoint", architecture, encoder).MODEL_ARCHITECTURES_MAPPING[architecture]
        known = {*inspect.signature(network.__init__).parameters, "decoder_use_batchnorm"} - _OTHER_ARGUMENTS
        options = {name: value for name, value in arguments.items() if name in known}
        fixed = {"encoder_weights": None, "classes": len(state["segmentation_head.0.weight"])}
        with torch.device("meta"):
            theirs = network(encoder, in_channels=state["encoder.conv1.weight"].shape[1], **fixed, **options)
    except Exception as error:  # smp does not validate its arguments
        raise ValueError(
            f"config.json: smp cannot build the network: {one_line(error, 200) or type(error).__name__}"
        ) from error
    if any(name not in state or state[name].shape != x.shape for name, x in theirs.state_dict().items()):
        raise ValueError("config.json describes another network than the tensors")
    return options
