"""Builds optimizers: learning rate and weight decay per parameter, learning rate scaled with the batch size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from chordate.arguments import NonNegativeFloat, PositiveFloat, PositiveInt, validate_arguments, validate_settings
from chordate.composition import as_section, located
from chordate.errors import ConfigError, unknown
from chordate.ops.norms import FrozenBatchNorm
from chordate.registry import OPTIMIZERS
from chordate.training.layer_decay import layer_scales

NORMS = (_NormBase, FrozenBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
FUSED = ({"cuda"}, {"cpu"})  # sets of the weights' device types for which torch has fused optimizers
UNSUITABLE = {  # names (lower-case) of optimizers that the trainer cannot step or resume, and the reason
    "optimizer": "is a base class", "lookahead": "wraps another optimizer", "sparseadam": "needs sparse gradients",
    "adahessian": "needs second derivatives", "lbfgs": "needs a closure that computes the loss again",
    **dict.fromkeys(("kron", "kronc", "kronw"), "has a random generator that no checkpoint saves"),
}  # fmt: skip


@dataclass(frozen=True)
class PartSettings:
    """Learning-rate and weight-decay multipliers for one part of the model."""

    lr_mult: NonNegativeFloat = 1.0
    decay_mult: NonNegativeFloat = 1.0


@dataclass(frozen=True)
class OptimizerSettings:
    """The `optimizer` section of a config, except for the arguments of the optimizer's class.

    Attributes:
        type: name of a class in OPTIMIZERS, torch.optim or timm.optim, or a name in `timm.optim.list_optimizers()`.
        lr: learning rate for a batch of `base_batch_size` images, scaled linearly to the actual batch size (Goyal et
            al. 2017, section 2.1); not scaled if `base_batch_size` is None.
        no_decay: parameters without weight decay: "norm" (all parameters of normalization layers), "bias", or patterns
            of full parameter names such as "*.cls_token".
        parts: mapping from a prefix of parameter names to `dict(lr_mult=…, decay_mult=…)`; the longest matching prefix
            applies.
        layer_decay, layer_blocks: the arguments `decay` and `blocks` of `layer_scales`; no layer-wise decay if
            `layer_decay` is None.
    """

    type: str
    lr: NonNegativeFloat
    weight_decay: NonNegativeFloat = 0.0
    base_batch_size: PositiveInt | None = None
    no_decay: Sequence[str] | None = None
    parts: Mapping[str, Any] | None = None
    layer_decay: PositiveFloat | None = None
    layer_blocks: PositiveInt = 1

    def scaled_lr(self, batch_size: int) -> float:
        """The learning rate for batches of `batch_size` images."""
        return self.lr if self.base_batch_size is None else self.lr * batch_size / self.base_batch_size


SETTINGS = [field.name for field in fields(OptimizerSettings)]


def optimizer_settings(config: Mapping[str, Any]) -> OptimizerSettings:
    """The settings of a config's `optimizer` section that are not arguments of the optimizer's class, validated."""
    own = as_section(config, "optimizer")
    for key in set(own) - set(SETTINGS):
        del own[key]
    return validate_settings(OptimizerSettings, own, "optimizer")


def optimizer_arguments(config: Mapping[str, Any]) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """The class of a config's `optimizer` section, and its arguments without those in SETTINGS; needs no model.

    Raises:
        ConfigError: a setting is unknown or invalid.
    """
    try:
        cls = optimizer_class(optimizer_settings(config).type)
        # `optimizer_settings` has validated the values of SETTINGS, so any value is accepted here.
        own, checked = as_section(config, "optimizer"), dict.fromkeys(SETTINGS, Any)
        arguments = validate_arguments(cls, own, config["type"], inferred=["params"], extra_settings=checked)
    except ConfigError as error:
        raise located(error, config) from error
    return cls, {name: value for name, value in arguments.items() if name not in SETTINGS}


def build_optimizer(model: nn.Module, config: Mapping[str, Any], batch_size: int) -> Optimizer:
    """Build the optimizer of a config's `optimizer` section.

    Args:
        model: the model to train; frozen parameters (`requires_grad` false) are left out.
        config: the section: values for OptimizerSettings, and arguments of the optimizer's class.
        batch_size: number of images per iteration, over all ranks and accumulated batches.

    Returns:
        An optimizer whose parameter groups have a `name`, and an `initial_lr` that the schedule multiplies.

    Raises:
        ConfigError: a setting is unknown or invalid, a prefix or pattern matches no parameter, or everything is frozen.
    """
    settings = optimizer_settings(config)
    lr, layers = settings.scaled_lr(batch_size), (settings.layer_decay, settings.layer_blocks)
    rules: dict[str, Any] = {"no_decay": settings.no_decay or (), "parts": settings.parts}
    try:
        rules["scales"] = None if layers[0] is None else layer_scales(model, layers[0], layers[1])
        groups = parameter_groups(model, lr, settings.weight_decay, **rules)
        cls, arguments = optimizer_arguments(config)
        devices = {p.device.type for group in groups for p in group["params"]}
        fusable = devices in FUSED and "fused" in inspect.signature(cls).parameters
        if fusable and not {"fused", "foreach", "dampening"} & set(arguments):
            # Fused optimizers update the weights in one pass, and need no host sync with fp16's loss scaling.
            arguments["fused"] = True
        optimizer = cls(groups, lr=lr, **arguments)
        if cls is torch.optim.SGD and arguments.get("momentum") and not arguments.get("dampening"):
            # Create momentum buffers now, since they stay uninitialized if fp16's loss scaling skips the first step.
            for group in groups:
                optimizer.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for p in group["params"]})
        return optimizer
    except (ConfigError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise located(error, config) from error


def optimizer_class(name: str) -> Callable[..., Optimizer]:
    """Find an optimizer's class by name: in OPTIMIZERS (which includes torch.optim), then in timm.optim, then in timm's
    optimizer registry.

    Raises:
        ConfigError: there is no such class (the message suggests similar names), the trainer does not support it, or
            its library is not installed.
    """
    if name in OPTIMIZERS.names():
        return OPTIMIZERS.get(name)
    import timm.optim  # import lazily: it takes seconds, and few runs need timm

    classes = _optimizers_in(timm.optim)
    if name in classes:
        return classes[name]
    # Leave out timm's names of torch's optimizers ("sgd" has different defaults), but keep names of timm's own classes
    # ("adafactor" is not torch's Adafactor).
    taken = {*UNSUITABLE, *(key.lower() for key, cls in classes.items() if cls is OPTIMIZERS.module_dict.get(key))}
    listed = [str(key) for key in timm.optim.list_optimizers() if key not in taken]
    if name not in listed:
        reason = UNSUITABLE.get(name.lower())
        message = f'optimizer "{name}" is not supported: it {reason}; choose another, such as "SGD" or "AdamW"'
        raise ConfigError(message if reason else unknown("optimizer", name, [*OPTIMIZERS.names(), *classes, *listed]))
    try:
        return timm.optim.get_optimizer_class(name)
    except (ImportError, AssertionError) as error:
        raise ConfigError(f"optimizer {name}: {error}") from error


def _optimizers_in(module: Any) -> dict[str, Callable[..., Optimizer]]:
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {name: cls for name, cls in classes.items() if issubclass(cls, Optimizer) and name.lower() not in UNSUITABLE}


for _name, _cls in _optimizers_in(torch.optim).items():
    if _name not in OPTIMIZERS.module_dict:
        OPTIMIZERS.register_module(name=_name, module=_cls)


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    no_decay: Iterable[str] = (),
    parts: Mapping[str, Mapping[str, float]] | None = None,
    scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters, grouped by learning rate and weight decay (one group if all are equal).

    Args:
        lr, weight_decay: values for parameters to which no rule applies.
        no_decay, parts: rules as in OptimizerSettings.
        scales: mapping from parameter name to learning-rate multiplier; 1 for parameters that are not in it.

    Raises:
        ConfigError: a prefix of `parts` or a pattern of `no_decay` matches no parameter, or no parameter is trainable.
    """
    names = [name for name, _ in model.named_parameters()]
    rules = _part_settings(names, parts or {})
    undecayed = _undecayed(model, names, no_decay)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        prefixes = [prefix for prefix in rules if _is_within(name, prefix)]
        rule = rules[max(prefixes, key=len)] if prefixes else PartSettings()
        rate = lr * rule.lr_mult * (scales or {}).get(name, 1.0)
        decay = 0.0 if name in undecayed else weight_decay * rule.decay_mult
        group = {"lr": rate, "initial_lr": rate, "weight_decay": decay, "name": f"lr {rate:g}, weight decay {decay:g}"}
        groups.setdefault((rate, decay), {"params": [], **group})["params"].append(parameter)
    if not groups:
        raise ConfigError(f"{type(model).__name__} has no trainable parameter: everything is frozen")
    return list(groups.values())


def _part_settings(names: Sequence[str], parts: Mapping[str, Any]) -> dict[str, PartSettings]:
    for prefix in parts:
        if not any(_is_within(name, prefix) for name in names):
            modules = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
            raise ConfigError("optimizer.parts: " + unknown("part", prefix, modules))
    return {name: validate_settings(PartSettings, rule, f"optimizer.parts.{name}") for name, rule in parts.items()}


def _undecayed(model: nn.Module, names: Sequence[str], no_decay: Iterable[str]) -> set[str]:
    """The names of the parameters that the rules in `no_decay` exempt from weight decay."""
    exempt: set[str] = set()
    for pattern in no_decay:
        if pattern == "norm":
            for prefix, module in model.named_modules():
                if isinstance(module, NORMS) or "Norm" in type(module).__name__:
                    exempt |= {name for name, _ in module.named_parameters(prefix, recurse=False)}
        elif pattern == "bias":
            exempt |= {name for name in names if name.split(".")[-1] == "bias"}
        elif matching := {name for name in names if fnmatchcase(name, pattern)}:
            exempt |= matching
        else:
            remedy = 'use "norm", "bias" or a pattern such as "*.bias"'
            raise ConfigError(f'optimizer.no_decay: "{pattern}" matches no parameter; {remedy}')
    return exempt


def _is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
