"""Warns if a model's settings (stride, colors, …) differ from those its weights were trained with."""

import warnings
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from chordate.contracts import Backbone
from chordate.libraries import timm_for
from chordate.models.preprocess import Normalize
from chordate.weights.formats.format import Format
from chordate.weights.state_dict_match import find_backbones


def warn_about_stride(model: nn.Module, format: Format | None) -> None:
    """Warn if the model's bottlenecks have the stride in the 1×1 convolution, but the weights need it in the 3×3."""
    for _, backbone in find_backbones(model):
        if format is not None and format.stride_in_3x3 and _has_stride_in_1x1(backbone):
            warnings.warn(
                f"{backbone.name}: {format.library} trained these weights with the stride in the 3×3 convolution; "
                f'they are loaded, but features are wrong unless style="pytorch"',
                stacklevel=3,
            )


def _has_stride_in_1x1(backbone: Backbone) -> bool:
    """Whether a ResNet's bottlenecks have the stride in the first 1×1, as in the paper (He et al. 2016, "caffe")."""
    return any(
        isinstance(part, nn.Conv2d) and name == "layer2.0.conv1" and (part.kernel_size, part.stride) == ((1, 1), (2, 2))
        for name, part in backbone.named_modules()
    )


def warn_about_settings(model: nn.Module, source: str, settings: Mapping[str, Any]) -> None:
    """Warn if the model's settings differ from `settings` (see `Format.settings`); the message has the overrides."""
    differing = settings_overrides(model, settings)
    if differing:
        warnings.warn(
            f"{source} was trained with other settings; it is loaded, but predictions are wrong unless "
            f"--cfg-options {' '.join(differing)}",
            stacklevel=3,
        )


def settings_overrides(model: nn.Module, settings: Mapping[str, Any]) -> list[str]:
    """The overrides of a config, `model.preprocess.bgr=True`, of the settings in which a model differs from `settings`.

    Settings that the model does not have are skipped. If the model is a backbone, only `backbone.…` is compared.
    """
    differing = []
    for name, value in settings.items():
        try:
            ours = attrgetter(name.removeprefix("backbone.") if isinstance(model, Backbone) else name)(model)
        except AttributeError:  # the model has no such part
            continue
        if not _equal(ours, value):
            text = f"[{','.join(f'{number:g}' for number in value)}]" if isinstance(value, tuple | list) else value
            differing.append(f"model.{name}={text}")
    return differing


def _equal(ours: Any, value: Any) -> bool:
    """Whether a setting has the value; tensors such as the mean color may differ by rounding, half a gray level."""
    if isinstance(ours, Tensor):
        ours, wanted = ours.flatten().cpu(), torch.tensor(value)
        return ours.shape == wanted.shape and torch.allclose(ours, wanted.to(ours), rtol=0, atol=0.5)
    return list(ours) == list(value) if isinstance(ours, tuple | list) else bool(ours == value)


def warn_about_normalization(model: nn.Module, source: str) -> None:
    """Warn if the image mean or std of timm's weights differs from the model's Normalize layer."""
    if not source.startswith("timm://"):
        return
    name = source.removeprefix("timm://")
    for normalize in (part for part in model.modules() if isinstance(part, Normalize)):
        cfg = timm_for(name, source).get_pretrained_cfg(name)
        for what, values, ours in (("mean", cfg.mean, normalize.mean), ("std", cfg.std, normalize.std)):
            wanted, ours = [round(255 * value, 3) for value in values], ours.flatten().cpu()
            if len(ours) == len(wanted) and not torch.allclose(ours, torch.tensor(wanted).to(ours), atol=0.5):
                actual = ", ".join(f"{value:g}" for value in ours.tolist())
                warnings.warn(
                    f"{source} was trained with {what}={wanted}; the model has [{actual}]: set model.preprocess.{what}",
                    stacklevel=3,
                )
