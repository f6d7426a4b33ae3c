"""What a checkpoint holds of a training run, and how a run takes it up again.

Everything is tensors, numbers, strings, lists and dicts, so that it loads with `weights_only=True` and no safe globals.
mmengine's own form needs `getattr` to load, and its Runner executes the config text inside; here the text is only
for people to read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor, nn
from torch.optim import Optimizer

from chordate.errors import CheckpointError, TrainingError
from chordate.structures import Skeleton
from chordate.training.rng import rng_state, set_rng_state

VERSION = 1


def to_cpu(value: Any) -> Any:
    """The same nested structure with every tensor detached and on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_cpu(item) for item in value]
    return value


def check_model(model: nn.Module, state: Mapping[str, Tensor], classes: Sequence[str], path: str) -> None:
    """Make sure that a checkpoint is of this very model.

    Raises:
        CheckpointError: other classes, other weights, or weights of other shapes.
    """
    mine = list(getattr(model, "classes", ()))
    if list(classes) != mine:
        raise CheckpointError(
            f"{path}: trained on the classes {_few(classes)}, but the data has {_few(mine)}; resume with the same data"
        )
    here = model.state_dict()
    wrong = [
        f"{name} is {list(state[name].shape) if name in state else 'absent'} there and "
        f"{list(here[name].shape) if name in here else 'absent'} here"
        for name in [*here, *(name for name in state if name not in here)]
        if name not in here or name not in state or here[name].shape != state[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointError(f"{path}: a checkpoint of another model: {wrong[0]}{more}; resume with its own config")


def first_not_finite(model: nn.Module) -> str | None:
    """The name of the first parameter that holds a NaN or Inf, or None. Waits for the device."""
    named = [(name, p) for name, p in model.named_parameters() if p.numel()]
    finite = torch.stack([torch.isfinite(p).all() for _, p in named]).tolist()
    return next((name for (name, _), good in zip(named, finite) if not good), None)


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """What the optimiser remembers of each parameter, by the parameter's name. Rates and decays are the config's
    affair and not saved."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        "type": type(optimizer).__name__,
        "trained": [names[parameter] for group in optimizer.param_groups for parameter in group["params"]],
        "state": {name: to_cpu(optimizer.state[p]) for p, name in names.items() if p in optimizer.state},
    }


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any], path: str) -> list[str]:
    """Give the optimiser back what `optimizer_state` saved.

    Returns:
        Names of parameters that were trained and are not now, or the other way round.

    Raises:
        CheckpointError: saved by another kind of optimiser.
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


def history_state(hub: MessageHub) -> dict[str, Any]:
    """The history of every logged number, as tensors."""
    return {
        name: {"values": torch.tensor(buffer.data[0]), "counts": torch.tensor(buffer.data[1])}
        for name, buffer in hub.log_scalars.items()
    }


def load_history(hub: MessageHub, saved: Mapping[str, Any]) -> None:
    """Give the message hub its history back."""
    for name, record in saved.items():
        hub.log_scalars[name] = HistoryBuffer(record["values"].numpy(), record["counts"].numpy())


def _skeleton(model: nn.Module) -> dict[str, Any] | None:
    skeleton = getattr(model, "skeleton", None)
    return skeleton.to_dict() if isinstance(skeleton, Skeleton) else None


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(list(names)[:5]) + (" …" if len(names) > 5 else "")
    return f"{len(names)} [{shown}]"


def training_state(runner: Any, files: Sequence[str]) -> dict[str, Any]:
    """Everything that the rest of a training depends on. All ranks call it; the result counts on the first.

    Args:
        runner: the Runner.
        files: names of this run's checkpoints, with the one that is to be written.

    Raises:
        TrainingError: a loss or a weight is not finite: what has gone wrong is never saved.
    """
    loop = runner.train_loop
    loop.losses.read()
    bad = first_not_finite(runner.module)
    if bad is not None:
        raise TrainingError(
            f"{bad} holds a NaN or Inf after iteration {loop.iter}, though the losses were finite: nothing is saved; "
            f"lower optimizer.lr or set train.clip_norm"
        )
    checkpoint = {
        "chordate": VERSION,
        "model": to_cpu(runner.module.state_dict()),
        "classes": list(getattr(runner.module, "classes", ())),
        "skeleton": _skeleton(runner.module),
        "config": runner.cfg.pretty_text,
        "train": {
            "iteration": loop.iter,
            "steps_per_epoch": loop.steps_per_epoch,
            "evaluated": loop.evaluated,
            "losses": loop.losses.state_dict(),
            "optimizer": optimizer_state(runner.optim_wrapper.optimizer, runner.module),
            "scaler": runner.optim_wrapper.scaler.state_dict(),
            "best": runner.best,
            "files": list(files),
            "history": history_state(runner.message_hub),
            "rng": all_gather_object(rng_state()),
        },
    }
    if runner.ema is not None:
        checkpoint["ema"] = to_cpu(runner.ema.model.state_dict())
    return checkpoint


def restore(runner: Any, checkpoint: Mapping[str, Any], path: str) -> None:
    """Put a runner to where `training_state` found it.

    What lies in the work dir is not touched. Where the data, the batch size or the number of ranks has changed,
    training goes on (when measured in epochs, from the start of the epoch that was under way) and says so.

    Raises:
        CheckpointError: another model, other classes, another optimiser, or an incomplete state.
    """
    saved, loop, log = checkpoint["train"], runner.train_loop, runner.logger
    check_model(runner.module, checkpoint["model"], checkpoint.get("classes", ()), path)
    if checkpoint.get("skeleton") != _skeleton(runner.module):
        raise CheckpointError(f"{path}: trained on other keypoints than the data has; resume with the same data")
    try:
        changed = load_optimizer_state(runner.optim_wrapper.optimizer, runner.module, saved["optimizer"], path)
        if changed:
            log.warning(f"{path}: {len(changed)} parameters are newly trained or newly frozen, such as {changed[0]}")
        runner.module.load_state_dict(checkpoint["model"])
        if runner.ema is not None:
            runner.ema.model.load_state_dict(checkpoint.get("ema", checkpoint["model"]))
        if saved["scaler"] and runner.optim_wrapper.scaler.is_enabled():
            runner.optim_wrapper.scaler.load_state_dict(saved["scaler"])
        loop.iter = _position(saved, loop, log)
        loop.evaluated = saved["evaluated"] if loop.iter == saved["iteration"] else loop.iter
        loop.losses.load_state_dict(saved["losses"])
        load_history(runner.message_hub, saved["history"])
        if len(saved["rng"]) == runner.world_size:
            set_rng_state(saved["rng"][runner.rank])
        else:
            log.warning(f"saved by {len(saved['rng'])} processes, resumed by {runner.world_size}: not the same numbers")
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise CheckpointError(f"{path}: its training state does not fit this run ({reason})") from error


def _position(saved: Mapping[str, Any], loop: Any, log: logging.Logger) -> int:
    """The iteration to go on from."""
    then, now = saved["steps_per_epoch"], loop.steps_per_epoch
    if then == now:
        return saved["iteration"]
    iteration = saved["iteration"] // then * now if loop.settings.by_epoch else saved["iteration"]
    log.warning(
        f"an epoch had {then} iterations and has {now} now (other data, batch size or number of processes): training "
        f"goes on from iteration {iteration}, with other images than it would have had"
    )
    return iteration
