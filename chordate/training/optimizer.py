"""Optimisers: which parameters learn at which rate and decay, and the rate for the batch size at hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from chordate import checks
from chordate.errors import ConfigError, unknown
from chordate.training.layers import layer_scales

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
FUSED = ({"cuda"}, {"cpu"})  # where the weights lie for which torch has fused optimisers
PART_KEYS = ("lr_mult", "decay_mult")
OWN_KEYS = ("type", "lr", "weight_decay", "base_batch_size", "no_decay", "parts", "layer_decay", "layer_blocks")


def build_optimizer(model: nn.Module, config: Mapping[str, Any], batch_size: int) -> Optimizer:
    """The optimiser that a config's `optimizer` section describes.

    Args:
        model: frozen parameters (`requires_grad` false) are left out.
        config: `type` any class of torch.optim, its arguments, and
            `base_batch_size`: the batch size that `lr` is meant for; it is scaled linearly to `batch_size` (Goyal
            et al. 2017, section 2.1). None leaves it alone.
            `no_decay`: parameters without weight decay: "norm" (of normalisation layers), "bias", or a
            pattern of their full names such as "*.cls_token".
            `parts`: `{prefix: dict(lr_mult=…, decay_mult=…)}`; the longest prefix that fits a parameter's name rules.
            `layer_decay`, `layer_blocks`: the backbone's rates fall from layer to layer towards the image, see
            `layer_scales`.
        batch_size: images in one iteration, over all ranks and accumulated batches.

    Returns:
        An optimiser whose groups have a `name` and an `initial_lr`, which schedules start from.

    Raises:
        ConfigError: unknown type or argument, a prefix or pattern that fits no parameter, or nothing to train.
    """
    config = checks.section("optimizer", config)
    cls = _optimizer_class(config.get("type"))
    arguments = {key: value for key, value in config.items() if key not in OWN_KEYS}
    if "lr" not in config:
        raise ConfigError("optimizer has no learning rate; add lr=…")
    checks.number("optimizer.lr", config["lr"], least=0)
    checks.number("optimizer.weight_decay", config.get("weight_decay", 0.0), least=0)
    if config.get("base_batch_size") is not None:
        checks.number("optimizer.base_batch_size, where not None,", config["base_batch_size"], least=1, whole=True)
    lr = scaled_lr(config["lr"], config.get("base_batch_size"), batch_size)
    no_decay = checks.listed("optimizer.no_decay", config.get("no_decay") or [])
    parts = checks.section("optimizer.parts", config.get("parts"))
    scales = _layer_scales(model, config)
    groups = parameter_groups(model, lr, config.get("weight_decay", 0.0), no_decay, parts, scales)
    accepted = [name for name in inspect.signature(cls).parameters if name not in ("params", "lr", "weight_decay")]
    for key in arguments:
        if key not in accepted:
            raise ConfigError(unknown(f"argument of {config['type']}", key, [*accepted, *OWN_KEYS]))
    devices = {p.device.type for group in groups for p in group["params"]}
    if devices in FUSED and "fused" in accepted and not {"fused", "foreach"} & set(arguments):
        arguments["fused"] = True  # one pass over the weights, and with fp16's loss scaling no wait for the device
    try:
        return cls(groups, lr=lr, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer {config['type']}: {error}") from error


def scaled_lr(lr: float, base_batch_size: int | None, batch_size: int) -> float:
    """`lr`, meant for batches of `base_batch_size` images, for batches of `batch_size`."""
    return lr if base_batch_size is None else lr * batch_size / base_batch_size


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    no_decay: Iterable[str] = (),
    parts: Mapping[str, Mapping[str, float]] | None = None,
    scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters, grouped by learning rate and weight decay (one group where all are alike).

    Args:
        scales: factors on the learning rate, by parameter; 1 where there is none.

    Raises:
        ConfigError: a prefix of `parts` or a pattern of `no_decay` fits no parameter, or nothing is trainable.
    """
    parts, no_decay, scales = parts or {}, list(no_decay), scales or {}
    names = [name for name, _ in model.named_parameters()]
    _check_rules(names, no_decay, parts)
    norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, NORMS) or "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }

    def decays(name: str) -> bool:
        is_norm, is_bias = "norm" in no_decay and name in norms, "bias" in no_decay and name.split(".")[-1] == "bias"
        return not (is_norm or is_bias or any(fnmatchcase(name, pattern) for pattern in no_decay))

    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        fitting = [prefix for prefix in parts if _within(name, prefix)]
        rule = parts[max(fitting, key=len)] if fitting else {}
        rate = lr * rule.get("lr_mult", 1.0) * scales.get(name, 1.0)
        decay = weight_decay * rule.get("decay_mult", 1.0) if decays(name) else 0.0
        label = f"lr {rate:g}, weight decay {decay:g}"
        group = groups.setdefault(
            (rate, decay), {"params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay, "name": label}
        )
        group["params"].append(parameter)
    if not groups:
        raise ConfigError(f"{type(model).__name__} has no trainable parameter: everything is frozen")
    return list(groups.values())


def _layer_scales(model: nn.Module, config: Mapping[str, Any]) -> dict[str, float]:
    decay, blocks = config.get("layer_decay"), config.get("layer_blocks", 1)
    checks.number("optimizer.layer_blocks", blocks, least=1, whole=True)
    if decay is None:
        return {}
    checks.number("optimizer.layer_decay, where not None,", decay, above=0)
    return layer_scales(model, decay, blocks)


def _check_rules(names: list[str], no_decay: Iterable[str], parts: Mapping[str, Mapping[str, float]]) -> None:
    modules = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    for prefix, rule in parts.items():
        if not any(_within(name, prefix) for name in names):
            raise ConfigError("optimizer.parts: " + unknown("part", prefix, modules))
        for key, factor in checks.section(f"optimizer.parts.{prefix}", rule).items():
            if key not in PART_KEYS:
                raise ConfigError(f"optimizer.parts.{prefix}: {unknown('key', key, PART_KEYS)}")
            checks.number(f"optimizer.parts.{prefix}.{key}", factor, least=0)
    for pattern in no_decay:
        if not isinstance(pattern, str):
            raise ConfigError(f"optimizer.no_decay is a list of names and patterns, and {pattern!r} is neither")
        if pattern not in ("norm", "bias") and not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f'optimizer.no_decay: "{pattern}" fits no parameter; use "norm", "bias" or a pattern such as "*.bias"'
            )


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _optimizer_class(name: Any) -> Callable[..., Optimizer]:
    known = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    if not isinstance(name, str) or name not in known:
        raise ConfigError(unknown("optimizer", str(name), known))
    return known[name]
