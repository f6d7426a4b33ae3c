"""Weights of Detectron2's Panoptic-DeepLab: the order of channels and classes.

`test_detectron2_weights.py` tests names, shapes and settings, as for the other models of Detectron2.
"""

from __future__ import annotations

import pytest
import torch
from test_detectron2_weights import built, format_of, weights
from torch import Tensor

from chordate.data.cityscapes import CITYSCAPES_CLASSES
from chordate.errors import CheckpointError
from chordate.model_contracts import Model
from chordate.structures import DatasetMeta
from chordate.weights.checkpoint_conversion import recognized_config
from chordate.weights.find_weights import Weights


class TinyModel(Model):
    """A model of some classes, without tensors."""

    def __init__(self, meta: DatasetMeta):
        super().__init__()
        self.meta = meta


def fusion(x: Tensor, state: dict[str, Tensor], first: str, last: str) -> Tensor:
    """Apply the first convolution of a fusion of Panoptic-DeepLab; if it is depthwise, also the pointwise convolution.

    Norms and ReLUs are left out, except for the weight of the norm between the two convolutions.
    """
    weight = state[f"{first}.weight"]
    if weight.shape[1] > 1:
        return torch.conv2d(x, weight)
    norm = first.removesuffix(".0") + ".1" if first.startswith(("semantic", "center")) else f"{first}.norm"
    x = torch.conv2d(x, weight, groups=len(weight)) * state[f"{norm}.weight"][:, None, None]
    return torch.conv2d(x, state[f"{last}.weight"])


@pytest.mark.parametrize("family", ["Panoptic-DeepLab", "Panoptic-DeepLab, DSConv"])
@pytest.mark.parametrize("head", ["semantic", "center"])
def test_the_decoders_of_panoptic_deeplab_read_the_coarser_map_before_the_finer_one(family, head):
    """Detectron2 concatenates 64 channels of res3, then ASPP's 256 channels; our order is the reverse."""
    state, (_, model) = weights(family), built(family)
    theirs = f"{'sem_seg_head' if head == 'semantic' else 'ins_embed_head'}.decoder.res3.fuse_conv."
    state |= {name: torch.randn(x.shape) for name, x in state.items() if name.startswith(theirs) and x.ndim}
    ours = format_of(state).convert(state, model)
    layers = [theirs + name for name in ("depthwise", "pointwise")] if "DSConv" in family else [f"{theirs}0"] * 2
    low, aspp = torch.randn(1, 64, 5, 5), torch.randn(1, 256, 5, 5)
    expected = fusion(torch.cat([low, aspp], 1), state, *layers)
    fuse = f"{head}.decoder.fuse.0."
    result = fusion(torch.cat([aspp, low], 1), ours, f"{fuse}0.0", f"{fuse}1.0")
    torch.testing.assert_close(result, expected, atol=1e-2, rtol=1e-3)


def test_the_outputs_for_cityscapes_have_the_order_of_the_models_classes():
    """Detectron2 orders them by train id, from road to bicycle; CityscapesPanoptic starts with the things."""
    state, (_, model) = weights("Panoptic-DeepLab"), built("Panoptic-DeepLab")
    state["sem_seg_head.predictor.bias"] = torch.arange(19.0)
    format = format_of(state)
    assert model.classes[0] == "person" and format.meta(state, model) == model.meta
    bias = format.convert(state, model)["semantic.logits.bias"]
    assert [CITYSCAPES_CLASSES[int(value)] for value in bias] == list(model.classes)
    streets = TinyModel(DatasetMeta(CITYSCAPES_CLASSES[::-1]))
    assert format.convert(state, streets)["semantic.logits.bias"].tolist() == list(range(18, -1, -1))
    others = TinyModel(DatasetMeta(tuple(map(str, range(19)))))
    assert format.convert(state, others)["semantic.logits.bias"].tolist() == list(range(19))
    assert format.meta(state, others).classes == CITYSCAPES_CLASSES


def test_panoptic_weights_of_unknown_classes_do_not_name_their_config():
    """Which classes are stuff is not in the weights."""
    state = weights("Panoptic-DeepLab")
    for kind in ("weight", "bias"):
        state[f"sem_seg_head.predictor.{kind}"] = state[f"sem_seg_head.predictor.{kind}"][:7]
    with pytest.raises(CheckpointError, match="detectron2.*: its config cannot be determined"):
        recognized_config(Weights(state, None, "file"))
