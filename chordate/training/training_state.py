"""Saves the state of a training run in checkpoints, and restores it.

Checkpoints contain only tensors, numbers, strings, lists and dicts, so that they load with `weights_only=True`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from chordate.data.seeding import rng_state, set_rng_state
from chordate.distributed import all_gather_object, broadcast_object, is_main_process
from chordate.errors import CheckpointError, ConfigError, TrainingError, unknown
from chordate.model_contracts import Model
from chordate.structures import DatasetMeta
from chordate.text import format_metric, one_line
from chordate.training.logging import logger
from chordate.weights.checkpoint_folder import POINTER, best_name, read_checkpoint
from chordate.weights.checkpoint_schema import FORM
from chordate.weights.load_report import abbreviate
from chordate.weights.state_dict_match import match, not_finite
from chordate.weights.training_schema import check_optimizer_state

if TYPE_CHECKING:
    from chordate.training.trainer import Trainer

COMPARED_SETTINGS = ("seed", "ema")  # settings of TrainSettings that a resumed run should not change


def save(trainer: Trainer) -> None:
    """Save the training state as the last checkpoint, unless it is already saved. All ranks must call it; if saving
    fails, all ranks raise."""
    if trainer.saved == trainer.iteration:
        return
    whole_epoch = trainer.settings.by_epoch and trainer.iteration % trainer.steps_per_epoch == 0
    name = f"epoch_{trainer.epoch}.pt" if whole_epoch else f"iteration_{trainer.iteration}.pt"
    _write(trainer, list(dict.fromkeys([*trainer.folder.files, name])), lambda state: trainer.folder.save(name, state))
    trainer.saved = trainer.iteration


def save_best(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Save `best_<metric>.pt` if the metric `train.save_best` is the best so far. All ranks must call it."""
    key = trainer.settings.save_best
    if key is None:
        return
    if key not in metrics:
        raise ConfigError(f"train.save_best: {unknown('metric', key, metrics)}; correct it and continue with --resume")
    score, sign = float(metrics[key]), -1 if key in trainer.lower_is_better else 1
    if math.isnan(score):
        logger.warning(f"train.save_best: {key} is NaN in this evaluation, so no best checkpoint is saved")
    same = trainer.best is not None and trainer.best["metric"] == key
    if sign * score > (sign * trainer.best["score"] if same and trainer.best else float("-inf")):
        trainer.best = {"metric": key, "score": score, "iteration": trainer.iteration}
        _write(trainer, trainer.folder.files, lambda state: trainer.folder.write(best_name(key), state))
        logger.info(f"best {key} so far: {format_metric(score)}")


def _write(trainer: Trainer, files: Sequence[str], write: Callable[[dict[str, Any]], Any]) -> None:
    """Collect the state of all ranks, and write it on rank 0; if writing fails, all ranks raise."""
    trainer.average_buffers()
    state = collect(trainer, files)
    failure = None
    try:
        if is_main_process():
            write(state)
    except CheckpointError as error:
        failure = str(error)
    if failure := broadcast_object(failure):
        raise CheckpointError(failure)


def collect(trainer: Trainer, files: Sequence[str]) -> dict[str, Any]:
    """Collect the state that a resumed run needs, after a complete step. All ranks must call it.

    `files` are the names of this run's checkpoints, including the one to be written. Raises TrainingError if a loss or
    a weight is non-finite, since such a state must never be saved."""
    trainer.losses.read()
    weights = {"model": trainer.module.state_dict()}
    if trainer.ema is not None:
        weights["ema"] = trainer.ema.module.state_dict()
    for part, tensors in weights.items():
        if bad := not_finite(tensors):
            name = bad[0] if part == "model" else f"the EMA of {bad[0]}"
            raise TrainingError(
                f"{name} has a NaN or Inf after iteration {trainer.iteration}, although the losses were finite; the "
                f"checkpoint is not saved; lower optimizer.lr or set train.clip_norm"
            )
    return {
        "chordate": FORM,
        **weights,
        "meta": trainer.module.meta.to_dict(),
        "config": trainer.config_text,
        "train": {
            "iteration": trainer.iteration,
            "steps_per_epoch": trainer.steps_per_epoch,
            "evaluated": trainer.evaluated,
            "evaluation_is_due": trainer.evaluation_is_due(),
            "losses": trainer.losses.state_dict(),
            "optimizer": optimizer_state(trainer.optimizer, trainer.module),
            "scaler": trainer.scaler.state_dict(),
            "best": trainer.best,
            "files": list(files),
            "history": list(trainer.history),
            "rng": all_gather_object(rng_state()),
            **{name: getattr(trainer.settings, name) for name in COMPARED_SETTINGS},
        },
    }


def resume_or_start(trainer: Trainer) -> None:
    """Restore the checkpoint to resume, or start a new run and move the files of an earlier run.

    Raises CheckpointError if the checkpoint is truncated or belongs to another model, dataset or optimizer, or if
    ranks on machines without a shared filesystem would resume different checkpoints."""
    folder, work_dir = trainer.folder, trainer.work_dir
    if is_main_process():
        folder.remove_temporary()
    path = folder.newest() if trainer.resume is True else trainer.resume or None
    names = {Path(name).name if name else "none" for name in all_gather_object(path)}
    if len(names) > 1:
        raise CheckpointError(
            f"{work_dir}: the processes would resume from different checkpoints ({', '.join(sorted(names))}); copy the "
            f"newest checkpoint and {POINTER} to every machine"
        )
    if path is not None:
        checkpoint = read_checkpoint(path)
        restore(trainer, checkpoint, str(path))
        trainer.resumed = folder.contains(path)
        trainer.saved = trainer.iteration if folder.is_last(path) else 0
        if trainer.resumed:
            best = folder.adopt(checkpoint["train"]["files"], checkpoint["train"]["best"])
            trainer.best = broadcast_object(best)  # without a shared filesystem, only rank 0 has the best checkpoint
        else:  # the log and the best checkpoint of the resumed run stay in its folder
            logger.warning(f"{path} is not in {work_dir}, so a new log and a new best score start there")
            trainer.history = []
        logger.info(f"resumed from {path}: epoch {trainer.epoch}, iteration {trainer.iteration}")
    elif trainer.resume:
        logger.warning(f"no checkpoint in {work_dir} to resume from: training starts from the beginning")
    if not trainer.resumed and is_main_process() and (earlier := folder.begin()):
        logger.warning(f"{work_dir}: checkpoints of an earlier run are moved to {earlier.name}/")


def restore(trainer: Trainer, checkpoint: Mapping[str, Any], path: str) -> None:
    """Restore the trainer's state from a checkpoint that `collect` made. Changes no files.

    If the number of iterations per epoch has changed (other data, batch size or number of ranks), a warning is logged,
    and training continues from the same iteration, or, if its length is set in epochs, from the start of the
    interrupted epoch.

    Raises:
        CheckpointError: the checkpoint is of another model, dataset or optimizer, or its state does not fit.
    """
    saved = checkpoint["train"]
    check_model(trainer.module, checkpoint, path)
    for name in COMPARED_SETTINGS:
        now = getattr(trainer.settings, name)
        if (before := saved.get(name, now)) != now:
            logger.warning(f"{path}: saved with train.{name}={before}, resumed with train.{name}={now}")
    try:
        if changed := load_optimizer_state(trainer.optimizer, trainer.module, saved["optimizer"], path):
            logger.warning(f"{path}: {len(changed)} parameters are newly trained or newly frozen, e.g. {changed[0]}")
        trainer.module.load_state_dict(checkpoint["model"])
        if trainer.ema is not None:
            trainer.ema.module.load_state_dict(checkpoint.get("ema", checkpoint["model"]))
        if saved["scaler"] and trainer.scaler.is_enabled():
            trainer.scaler.load_state_dict(saved["scaler"])
        trainer.iteration = _iteration(saved, trainer)
        trainer.left_unevaluated = trainer.iteration if saved["evaluation_is_due"] else None
        trainer.evaluated = saved["evaluated"] if trainer.iteration == saved["iteration"] else trainer.iteration
        trainer.losses.load_state_dict(saved["losses"])
        trainer.history = list(saved["history"])
        if len(saved["rng"]) == trainer.world_size:
            set_rng_state(saved["rng"][trainer.rank])
        else:
            counts = f"saved by {len(saved['rng'])} processes, resumed by {trainer.world_size}"
            logger.warning(f"{counts}: the random numbers differ from those of an uninterrupted run")
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {one_line(error, 160)}"
        raise CheckpointError(f"{path}: its training state does not fit this run ({reason})") from error


def _iteration(saved: Mapping[str, Any], trainer: Trainer) -> int:
    """The iteration to resume from, in iterations of this run; logs a warning if the length of an epoch has changed."""
    before, now = saved["steps_per_epoch"], trainer.steps_per_epoch
    if before == now:
        return saved["iteration"]
    iteration = saved["iteration"] // before * now if trainer.settings.by_epoch else saved["iteration"]
    logger.warning(
        f"iterations per epoch changed from {before} to {now} (different data, batch size or number of processes); "
        f"resuming at iteration {iteration}, where the batches differ from those of an uninterrupted run"
    )
    return iteration


def check_model(model: Model, checkpoint: Mapping[str, Any], path: str) -> None:
    """Raise CheckpointError unless the checkpoint has the metadata, tensor names and shapes of `model`."""
    difference = DatasetMeta.from_dict(checkpoint["meta"], path).difference(model.meta)
    if difference is not None:
        raise CheckpointError(f"{path} was trained on {difference}; resume with the same data")
    matched = match(model, checkpoint["model"])
    if not matched.is_complete or matched.skipped:
        problems = matched.problems() or f"not in the model: {abbreviate(matched.skipped)}"
        raise CheckpointError(f"{path} belongs to another model: {problems}; resume with its own config")


def trained_names(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """The names of the optimizer's parameters, in the order of its parameter groups."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """The optimizer's state keyed by parameter name, and the values that it added to its parameter groups."""
    trained, configured = trained_names(optimizer, model), {*optimizer.defaults, "params", "name", "initial_lr"}
    own = optimizer.state_dict()["state"]
    state = {name: own.get(index, {}) for index, name in enumerate(trained)}  # {}: the parameter never had a gradient
    groups = [{key: value for key, value in group.items() if key not in configured} for group in optimizer.param_groups]
    return {"type": type(optimizer).__name__, "trained": trained, "state": state, "groups": groups}


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any], path: str) -> list[str]:
    """Restore the state that `optimizer_state` returned.

    Returns:
        The names of the parameters that were frozen or unfrozen since the state was saved.

    Raises:
        CheckpointError: the state is from another type of optimizer, or does not fit the model.
    """
    if saved["type"] != type(optimizer).__name__:
        before, now = saved["type"], type(optimizer).__name__
        raise CheckpointError(f'{path} was trained with {before}, but optimizer.type is {now}; set it to "{before}"')
    check_optimizer_state(saved, optimizer, model, path)
    trained, state = trained_names(optimizer, model), optimizer.state_dict()
    # Newly trained parameters keep the state of a new optimizer.
    state["state"] |= {i: dict(saved["state"][name]) for i, name in enumerate(trained) if saved["state"].get(name)}
    optimizer.load_state_dict(state)
    for group, added in zip(optimizer.param_groups, saved["groups"]):
        group.update(added)
    return sorted(set(saved["trained"]) ^ set(trained))
