"""Folds weight standardization (Qiao et al. 2019) into the weights of MMCV's ConvWS layers.

These layers standardize each filter in every forward pass. A plain convolution with the standardized filters predicts
the same; training goes on without the standardization.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from chordate.weights.formats.format import State
from chordate.weights.formats.openmmlab_config import at, numbers

CONV_WS = "ConvWS"
NOTE = "weight standardization (ConvWS) is folded into the weights, training goes on without it"
_PARTS = ("backbone", "neck", "roi_head.bbox_head", "roi_head.mask_head")
_EPS = 1e-5  # MMCV's default


def standardized_weights(state: State, config: dict[str, Any]) -> dict[str, float]:
    """The names of the weights of ConvWS layers, and the eps of each layer.

    In a backbone, `conv_cfg` applies to all convolutions; in a neck and a head, to MMCV's ConvModules.

    Args:
        state: tensors, keyed by the library's names.
        config: the config in the checkpoint, see `config_of`.
    """
    found: dict[str, float] = {}
    for part in _PARTS:
        settings = at(config, f"model.{part}")
        settings = settings[0] if isinstance(settings, list) and settings else settings  # the stages of a cascade
        if at(settings, "conv_cfg.type") != CONV_WS:
            continue
        (eps,) = numbers([at(settings, "conv_cfg.eps")]) or (_EPS,)
        suffix = ".weight" if part == "backbone" else ".conv.weight"
        names = [name for name in state if name.startswith(f"{part}.") and name.endswith(suffix)]
        found |= {name: eps for name in names if state[name].ndim == 4}
    return found


def standardize(weight: Tensor, eps: float) -> Tensor:
    """Standardize each filter of a convolution's weight `[C_out, C_in, h, w]`: subtract the mean, and divide by the
    unbiased standard deviation plus `eps`."""
    filters = weight.flatten(1)
    mean, std = (values.view(-1, 1, 1, 1) for values in (filters.mean(dim=1), filters.std(dim=1)))
    return (weight - mean) / (std + eps)
