"""What a checkpoint holds of a training run, and how a run goes on from it.

Tensors, numbers, strings, lists and dicts only, so that it loads with `weights_only=True` and no safe globals. The
config's text is for people to read and is never executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from chordate.contracts import Model
from chordate.distributed import all_gather_object
from chordate.errors import CheckpointError, TrainingError
from chordate.structures import DatasetMeta
from chordate.training.checkpoint_folder import VERSION
from chordate.training.logging import logger
from chordate.training.rng import rng_state, set_rng_state

if TYPE_CHECKING:
    from chordate.training.trainer import Trainer


def training_state(trainer: Trainer, files: Sequence[str]) -> dict[str, Any]:
    """Everything that the rest of a training depends on. All ranks call it; the first one's result is written.

    Args:
        trainer: after a whole step.
        files: names of this run's checkpoints, including the one to be written.

    Raises:
        TrainingError: a loss or a weight is not finite, and such a state is never saved.
    """
    trainer.losses.read()
    bad = first_not_finite(trainer.module)
    if bad is not None:
        raise TrainingError(
            f"{bad} holds a NaN or Inf after iteration {trainer.iteration}, though the losses were finite: nothing is "
            f"saved; lower optimizer.lr or set train.clip_norm"
        )
    checkpoint = {
        "chordate": VERSION,
        "model": to_cpu(trainer.module.state_dict()),
        "meta": trainer.module.meta.to_dict(),
        "config": trainer.config.pretty_text,
        "train": {
            "iteration": trainer.iteration,
            "steps_per_epoch": trainer.steps_per_epoch,
            "evaluated": trainer.evaluated,
            "losses": trainer.losses.state_dict(),
            "optimizer": optimizer_state(trainer.optimizer, trainer.module),
            "scaler": trainer.scaler.state_dict(),
            "best": trainer.best,
            "files": list(files),
            "history": list(trainer.history),
            "rng": all_gather_object(rng_state()),
        },
    }
    if trainer.ema is not None:
        checkpoint["ema"] = to_cpu(trainer.ema.module.state_dict())
    return checkpoint


def restore(trainer: Trainer, checkpoint: Mapping[str, Any], path: str) -> None:
    """Put a trainer into the state that `training_state` saved. The files in the work dir are not touched.

    If the data, the batch size or the number of ranks has changed, training goes on (when measured in epochs, from
    the start of the interrupted epoch) with a warning.

    Raises:
        CheckpointError: another model, other dataset metadata, another optimizer, or an incomplete state.
    """
    saved = checkpoint["train"]
    check_model(trainer.module, checkpoint, path)
    try:
        changed = load_optimizer_state(trainer.optimizer, trainer.module, saved["optimizer"], path)
        if changed:
            logger.warning(f"{path}: {len(changed)} parameters are newly trained or newly frozen, such as {changed[0]}")
        trainer.module.load_state_dict(checkpoint["model"])
        if trainer.ema is not None:
            trainer.ema.module.load_state_dict(checkpoint.get("ema", checkpoint["model"]))
        if saved["scaler"] and trainer.scaler.is_enabled():
            trainer.scaler.load_state_dict(saved["scaler"])
        trainer.iteration = _iteration(saved, trainer)
        trainer.evaluated = saved["evaluated"] if trainer.iteration == saved["iteration"] else trainer.iteration
        trainer.losses.load_state_dict(saved["losses"])
        trainer.history = list(saved["history"])
        if len(saved["rng"]) == trainer.world_size:
            set_rng_state(saved["rng"][trainer.rank])
        else:
            logger.warning(
                f"saved by {len(saved['rng'])} processes, resumed by {trainer.world_size}: not the same random numbers"
            )
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise CheckpointError(f"{path}: its training state does not fit this run ({reason})") from error


def _iteration(saved: Mapping[str, Any], trainer: Trainer) -> int:
    """The iteration to go on from."""
    before, now = saved["steps_per_epoch"], trainer.steps_per_epoch
    if before == now:
        return saved["iteration"]
    iteration = saved["iteration"] // before * now if trainer.settings.by_epoch else saved["iteration"]
    logger.warning(
        f"an epoch had {before} iterations and has {now} now (other data, batch size or number of processes): training "
        f"goes on from iteration {iteration}, with other images than it would have had"
    )
    return iteration


def check_model(model: Model, checkpoint: Mapping[str, Any], path: str) -> None:
    """Check that a checkpoint is of this very model.

    Raises:
        CheckpointError: other dataset metadata, other weights, or weights of other shapes.
    """
    difference = DatasetMeta.from_dict(checkpoint["meta"], path).difference(model.meta)
    if difference is not None:
        raise CheckpointError(f"{path}: trained on {difference}; resume with the same data")
    here, there = model.state_dict(), checkpoint["model"]
    wrong = [
        f"{name} is {list(there[name].shape) if name in there else 'absent'} there and "
        f"{list(here[name].shape) if name in here else 'absent'} here"
        for name in [*here, *(name for name in there if name not in here)]
        if name not in here or name not in there or here[name].shape != there[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointError(f"{path}: a checkpoint of another model: {wrong[0]}{more}; resume with its own config")


def first_not_finite(model: nn.Module) -> str | None:
    """The name of the first parameter that holds a NaN or Inf, or None. Waits for the device."""
    named = [(name, p) for name, p in model.named_parameters() if p.numel()]
    finite = torch.stack([torch.isfinite(p).all() for _, p in named]).tolist()
    return next((name for (name, _), is_finite in zip(named, finite) if not is_finite), None)


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """The optimizer's state of each parameter, by the parameter's name. Learning rates and decays are not saved: they
    come from the config."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        "type": type(optimizer).__name__,
        "trained": [names[parameter] for group in optimizer.param_groups for parameter in group["params"]],
        "state": {name: to_cpu(optimizer.state[p]) for p, name in names.items() if p in optimizer.state},
    }


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any], path: str) -> list[str]:
    """Restore what `optimizer_state` saved.

    Returns:
        Names of parameters that were trained and are not now, or the other way round.

    Raises:
        CheckpointError: saved by another type of optimizer.
    """
    if saved["type"] != type(optimizer).__name__:
        raise CheckpointError(
            f"{path}: trained with {saved['type']}, but optimizer.type is {type(optimizer).__name__}; resume with that"
        )
    names = {parameter: name for name, parameter in model.named_parameters()}
    trained = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = optimizer.state_dict()
    state["state"] = {i: dict(saved["state"][name]) for i, name in enumerate(trained) if name in saved["state"]}
    optimizer.load_state_dict(state)
    return sorted(set(saved["trained"]) ^ set(trained))


def to_cpu(value: Any) -> Any:
    """The same nested structure with every tensor detached and on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_cpu(item) for item in value]
    return value
