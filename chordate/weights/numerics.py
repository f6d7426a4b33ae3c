"""Warns if a model's settings (stride, colors, …) differ from the settings that its weights were trained with."""

import math
import warnings
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from chordate.contracts import Backbone
from chordate.libraries import timm_for
from chordate.models.preprocess import Normalize
from chordate.ops.norms import FOLDABLE


def warn_about_settings(model: nn.Module, source: str, settings: Mapping[str, Any], guesses: str = "") -> None:
    """Warn if the model's settings differ from `settings` (see `Format.settings`).

    The message lists the command-line options that set the model to `settings`, and quotes `guesses` (see
    `Format.guesses`).
    """
    options = overrides(model, settings)
    if options:
        warnings.warn(
            f"{source} was trained with other settings than the model's; it is loaded, but predictions are wrong; "
            f"set --cfg-options {' '.join(options)}{f' ({guesses})' if guesses else ''}",
            stacklevel=3,
        )


def overrides(model: nn.Module, settings: Mapping[str, Any]) -> list[str]:
    """The entries of `settings` that differ from the model, as command-line options: `model.preprocess.bgr=True`."""
    return [f"{name}={_written(value)}" for name, value in differing_settings(model, settings).items()]


def differing_settings(model: nn.Module, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `settings` that differ from the model, keyed by config key: `{"model.preprocess.bgr": True}`.

    Settings that the model does not have are left out: a bare backbone has only the settings of the backbone, and mean
    and std of three channels do not apply to a model for images with another number of channels.
    """
    is_backbone = isinstance(model, Backbone)
    differing = {}
    for name, value in settings.items():
        if is_backbone and not name.startswith("backbone."):
            continue
        setting = read_setting(model, name.removeprefix("backbone.") if is_backbone else name)
        if isinstance(setting, Tensor):
            setting = setting.flatten().tolist() if setting.numel() == len(value) else None
        if setting is not None and not _equal(setting, value):
            differing[f"model.{name}"] = value
    return differing


def read_setting(model: nn.Module, name: str) -> Any:
    """The value of a setting of a model; None if the model does not have it.

    RoIAlign's settings are read from a head's pooler, settings of ASPP's pooling from a head's ASPP, the epsilon of the
    norms from a norm of the backbone, and `stage` of a cascade from its first stage.
    """
    name = name.replace(".stage.", ".stages.0.")
    part, _, last = name.rpartition(".")
    if last == "eps":
        backbone = model if isinstance(model, Backbone) else getattr(model, part.partition(".")[0], None)
        norms = backbone.modules() if isinstance(backbone, Backbone) else ()
        return next((norm.eps for norm in norms if isinstance(norm, FOLDABLE)), None)
    for path in (name, f"{part}.pooler.{last}", f"{part}.aspp.{last}", f"{part}.decoder.aspp.{last}"):
        try:
            return attrgetter(path)(model)
        except AttributeError:
            continue
    return None


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    return math.isclose(ours, theirs, rel_tol=1e-4) if isinstance(theirs, float) else bool(ours == theirs)


def _written(value: Any) -> str:
    """A value as it is written after `--cfg-options key=`: sequences without spaces, `[1,2]`."""
    return f"[{','.join(map(_written, value))}]" if isinstance(value, list | tuple) else f"{value}"


def warn_about_normalization(model: nn.Module, source: str) -> None:
    """Warn if `source` is `timm://…` and its image mean or std differs from the model's Normalize layer."""
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
