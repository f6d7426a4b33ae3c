"""Converts the length of the training and the learning-rate schedule of MMDetection and MMSegmentation configs."""

from __future__ import annotations

from typing import Any

from chordate.migration.config_conversion import Keys


def schedule_part(cfg: Keys, lr: float, times: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert the schedule: returns settings of `train` (length, evaluation and checkpoint intervals), and `schedule`.

    Args:
        cfg: the whole config.
        lr: the learning rate.
        times: number of repetitions of the dataset per epoch.
    """
    loop, hooks = cfg.part("train_cfg"), cfg.part("default_hooks")
    by_epoch = loop.get("type", "EpochBasedTrainLoop") == "EpochBasedTrainLoop" and "max_epochs" in loop
    unit = times if by_epoch else 1
    every = loop.get("val_interval", 1) * unit
    train: dict[str, Any] = {"eval_every": None if by_epoch and every == 1 else every}
    train["epochs" if by_epoch else "iterations"] = loop.get("max_epochs" if by_epoch else "max_iters") * unit
    loop.ignore("val_begin", "max_epochs", "max_iters")
    loop.expect("dynamic_intervals", None, reason="evaluations at a fixed interval", effect="nothing")
    checkpoints = hooks.part("checkpoint")
    interval = checkpoints.get("interval", 1)
    if interval < 1:  # only at the end
        train["save_every"] = train["epochs" if by_epoch else "iterations"]
    elif checkpoints.get("by_epoch", True) == by_epoch:
        every = interval * unit
        train["save_every"] = None if by_epoch and every == 1 else every
    elif by_epoch:
        train["save_every_iterations"] = interval
    else:
        train["save_every"] = train["eval_every"]
    checkpoints.ignore("by_epoch", "interval", "type", "save_best", "max_keep_ckpts")
    cfg.ignore("default_hooks")
    return train, _schedule(cfg, lr, unit, by_epoch, train["epochs" if by_epoch else "iterations"] // unit)


def _schedule(cfg: Keys, lr: float, unit: int, by_epoch: bool, length: int) -> dict[str, Any]:
    """The section `schedule`; `length` is that of the training, in MMEngine's epochs if `by_epoch`, else iterations."""
    schedule: dict[str, Any] = {"type": "constant"}
    warmup: dict[str, Any] = {"warmup_iters": 0}
    starts: list[int] = []
    ready: tuple[bool, int] | None = None  # end of the warm-up: whether it counts epochs, and their number
    for scheduler in cfg.parts("param_scheduler"):
        kind, counts_epochs = scheduler.get("type"), scheduler.get("by_epoch", True)
        begin = scheduler.get("begin", 0)
        scheduler.ignore("verbose", "convert_to_iter_based")
        if kind in ("LinearLR", "ConstantLR"):
            key = "warmup_epochs" if counts_epochs else "warmup_iters"
            factor = scheduler.get("start_factor" if kind == "LinearLR" else "factor", 1 / 3)
            warmup = {key: scheduler.get("end") * (unit if counts_epochs else 1), "warmup_factor": factor}
            warmup["warmup"] = "linear" if kind == "LinearLR" else "constant"
            scheduler.expect("end_factor", 1.0, 1, reason="the warm-up ends at the learning rate", effect="training")
            scheduler.expect("begin", 0, reason="the warm-up begins with the training", effect="training")
            ready = (counts_epochs, scheduler.get("end"))
            continue
        starts.append(begin)
        if kind in ("PolyLR", "CosineAnnealingLR"):
            if begin and ready != (counts_epochs, begin):
                scheduler.lose("begin", "the decay starts after the warm-up", "training")
            for key, whole in (("end", length), ("T_max", length - begin)):
                accepted = (None, whole) if counts_epochs == by_epoch else (None,)
                scheduler.expect(key, *accepted, reason="the decay ends with the training", effect="training")
        if kind == "MultiStepLR":
            if counts_epochs != by_epoch:
                scheduler.lose("by_epoch", "milestones count as the length of the training does", "training")
            steps = [begin + step for step in scheduler.get("milestones")]  # MMEngine counts from `begin`
            end = scheduler.get("end", None)  # later milestones have no effect
            milestones = [step * (unit if counts_epochs else 1) for step in steps if end is None or step < end]
            schedule = {"type": "step", "milestones": milestones, "gamma": scheduler.get("gamma", 0.1)}
        elif kind == "PolyLR":
            least = scheduler.get("eta_min", 0.0)
            schedule = {"type": "poly", "power": scheduler.get("power", 1.0), "min_factor": least / lr}
        elif kind == "CosineAnnealingLR":
            ratio = scheduler.get("eta_min_ratio", None)
            least = scheduler.get("eta_min", 0.0) / lr if ratio is None else ratio
            schedule = {"type": "cosine", "min_factor": least}
        else:
            scheduler.lose("type", "the learning rate stays constant", "training")
            scheduler.ignore(*scheduler.values)
    if len(starts) > 1:
        cfg.lose("param_scheduler", "only the last schedule is used", "training")
    elif schedule["type"] in ("poly", "cosine") and starts[0] == 0 and ready and ready[1]:
        cfg.lose("param_scheduler", "the decay starts after the warm-up, not before", "training")
    cfg.ignore("param_scheduler")
    return schedule | warmup
