"""Converts the loaders, the optimizer and the schedule of MMDetection and MMSegmentation configs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chordate.migration.concatenation import single_datasets
from chordate.migration.config_conversion import Keys
from chordate.migration.mm_convnext import layer_decay
from chordate.migration.mm_datasets import class_count, data_root, dataset_part, meta_part, smallest_box, unwrapped
from chordate.migration.mm_hooks import hooks_part
from chordate.migration.mm_pipelines import has_masks, pipeline_part
from chordate.migration.mm_schedule import schedule_part
from chordate.text import pluralize

# Settings that are ignored without a report: they affect neither predictions nor training, or are read separately
# (`auto_scale_lr`, `randomness`).
RUNTIME = (
    "default_scope", "env_cfg", "vis_backends", "visualizer", "log_processor", "log_level", "resume", "custom_imports",
    "val_cfg", "test_cfg", "tta_model", "tta_pipeline", "work_dir", "launcher", "test_dataloader", "test_evaluator",
    "auto_scale_lr", "randomness",
)  # fmt: skip


def mm_training(cfg: Keys, path: Path, *, semantic: bool, sync_bn: bool) -> dict[str, Any]:
    """Convert all sections except `model`.

    Args:
        cfg: the whole config.
        path: the file, whose name may contain the number of GPUs and the batch size per GPU (`4xb2`).
        semantic: whether the config is MMSegmentation's.
        sync_bn: whether the model has synchronized BatchNorms.
    """
    loader, val_loader = cfg.part("train_dataloader"), cfg.part("val_dataloader")
    datasets, times, balanced = unwrapped(loader.part("dataset"))
    inner = datasets[0]
    steps = inner.parts("pipeline")
    classes, things = _num_classes(cfg, semantic)
    root = data_root(loader.part("dataset"), *([val_loader.part("dataset")] if val_loader.values else []))
    if root:
        cfg.conversion.notes.append(f"The data root is {root} (--data-root).")
    train_set = dataset_part(loader.part("dataset"), root, "train", semantic=semantic, classes=classes)
    if things is None:
        _compare_classes(cfg.part("model"), class_count(loader.part("dataset"), semantic))
    for dataset in single_datasets(train_set):
        if has_masks(steps) and dataset["type"] == "CocoDataset":
            dataset["masks"] = True
    batch_size = loader.get("batch_size", 1)
    pipeline = _smallest_boxes(datasets) + pipeline_part(steps)
    train_data: dict[str, Any] = {"dataset": train_set, "pipeline": pipeline, "batch_size": batch_size}
    batches = loader.part("batch_sampler")
    batches.ignore("drop_last")
    batches.expect("type", "AspectRatioBatchSampler", None, reason="batches are sampled at random", effect="training")
    train_data["group_by_aspect"] = "batch_sampler" in loader or semantic
    if balanced is not None:
        train_data["class_balanced"] = balanced
    val_data = _val_data(val_loader, root, semantic, classes) if val_loader.values else None
    _sampler(loader.part("sampler"))
    for one in (loader, val_loader):
        one.ignore("num_workers", "persistent_workers", "sampler", "drop_last", "pin_memory", "collate_fn")
    metric = "PanopticMetric" if things is not None else "SemanticMetric" if semantic else "CocoMetric"
    base = _base_batch_size(cfg, path, batch_size, semantic)
    cfg.conversion.notes.append(
        f"A step has {base} images: {base // batch_size or 1} processes with {batch_size} each. With fewer processes, "
        f"set train.accumulate; the learning rate is scaled to the images per step."
    )
    optimizer = _optimizer(cfg, base)
    train, schedule = schedule_part(cfg, optimizer["lr"], times)
    train["sync_bn"] = sync_bn
    train |= hooks_part(cfg)
    _evaluators(cfg, metric)
    wrapper = cfg.part("optim_wrapper")
    wrapper.expect("type", "OptimWrapper", "AmpOptimWrapper", reason="plain steps of the optimizer", effect="training")
    if wrapper.get("type", "OptimWrapper") == "AmpOptimWrapper":
        train["amp"] = "bf16" if wrapper.get("dtype", None) == "bfloat16" else "fp16"
    clip = wrapper.part("clip_grad")
    if "max_norm" in clip:
        train["clip_norm"] = clip.get("max_norm")
        clip.expect("norm_type", 2, reason="the 2-norm is limited", effect="training")
    train["accumulate"] = wrapper.get("accumulative_counts", 1)
    wrapper.ignore("loss_scale")
    weights = cfg.get("load_from", None) or _whole_model_weights(cfg.part("model"))
    if weights:
        train["load_from"] = weights
    train["seed"] = cfg.part("randomness").get("seed", None) or 0
    cfg.ignore(*RUNTIME)
    return {
        "fallback_meta": meta_part(single_datasets(train_set)[0], inner.get("type"), classes, things),
        "train_data": train_data,
        "val_data": val_data,
        "metric": {"type": metric},
        "optimizer": optimizer,
        "schedule": schedule,
        "train": train,
    }


def _whole_model_weights(model: Keys) -> str | None:
    """The checkpoint in the whole model's `init_cfg`."""
    inits = model.parts("init_cfg")
    weights: str | None = inits[0].get("checkpoint", None) if inits else None
    model.ignore("init_cfg")
    return weights


def _val_data(loader: Keys, root: str | None, semantic: bool, classes: int) -> dict[str, Any]:
    inner = unwrapped(loader.part("dataset")).datasets[0]
    return {
        "dataset": dataset_part(loader.part("dataset"), root, "val", semantic=semantic, classes=classes),
        "pipeline": pipeline_part(inner.parts("pipeline")),
        "batch_size": loader.get("batch_size", 1),
    }


def _smallest_boxes(datasets: list[Keys]) -> list[dict[str, Any]]:
    """The transform that drops boxes below `bbox_min_size`, if the datasets have it."""
    first, *others = map(smallest_box, datasets)
    for dataset, size in zip(datasets[1:], others):
        if size != first:
            dataset.part("filter_cfg").lose("bbox_min_size", "as in the first dataset", "training")
    return [{"type": "SanitizeInstances", "min_size": first}] if first else []


def _sampler(sampler: Keys) -> None:
    """Report a sampler that does not shuffle all images."""
    kinds = ("DefaultSampler", "InfiniteSampler")
    sampler.expect("type", *kinds, reason="every image once per epoch", effect="training")
    if sampler.get("type", kinds[0]) in kinds:
        sampler.expect("shuffle", True, reason="images are shuffled", effect="training")
    sampler.ignore(*sampler.values)


def _evaluators(cfg: Keys, metric: str) -> None:
    """Report metrics that Chordate does not have; `metric` is computed in their place."""
    for evaluator in cfg.parts("val_evaluator"):
        kinds = ("CocoMetric", "CocoPanopticMetric", "IoUMetric")
        evaluator.expect("type", *kinds, reason=f"{metric} instead", effect="evaluation")
        evaluator.ignore(*evaluator.values)


def _compare_classes(model: Keys, count: int | None) -> None:
    """Report the heads whose number of classes differs from the training dataset's, `count`."""
    rois = model.part("roi_head")
    owners = [(model, "bbox_head"), (model, "decode_head"), (model, "auxiliary_head"),
              (rois, "bbox_head"), (rois, "mask_head")]  # fmt: skip
    for head in (head for owner, key in owners for head in owner.parts(key)):
        if count is not None and head.get("num_classes", count) != count:
            classes = pluralize(count, "class")
            head.lose("num_classes", f"the training dataset has {classes}, and so has the model trained on it")


def _num_classes(cfg: Keys, semantic: bool) -> tuple[int, int | None]:
    """The model's number of classes, and number of thing classes (None unless the model is panoptic)."""
    model = cfg.part("model")
    if semantic:
        return model.part("decode_head").get("num_classes"), None
    if "semantic_head" in model:
        head = model.part("semantic_head")
        return head.get("num_things_classes") + head.get("num_stuff_classes"), head.get("num_things_classes")
    head = model.part("bbox_head") if "bbox_head" in model else model.part("roi_head").parts("bbox_head", least=1)[0]
    return head.get("num_classes"), None


def _base_batch_size(cfg: Keys, path: Path, batch_size: int, semantic: bool) -> int:
    """The total batch size for which the learning rate is set."""
    scale: int | None = cfg.part("auto_scale_lr").get("base_batch_size", None)
    named = re.search(r"(\d+)xb(\d+)", path.stem)
    if scale:
        return scale
    if named:
        return int(named[1]) * int(named[2])
    return batch_size * (4 if semantic else 8)  # the frameworks' usual numbers of GPUs


def _optimizer(cfg: Keys, base_batch_size: int) -> dict[str, Any]:
    wrapper = cfg.part("optim_wrapper")
    settings = wrapper.part("optimizer")
    optimizer = {key: settings.get(key) for key in ("type", "lr")}
    for key in settings.values:
        if key in settings.types:
            optimizer[key] = settings.get(key)
        else:
            settings.lose(key, "has no counterpart in Chordate", "training")
    cfg.ignore("optimizer")  # a variable that MMSegmentation's configs use in `optim_wrapper`
    if "betas" in optimizer:
        optimizer["betas"] = list(optimizer["betas"])
    optimizer["base_batch_size"] = base_batch_size
    rules = wrapper.part("paramwise_cfg")
    optimizer |= layer_decay(wrapper, cfg.part("model").part("backbone"))
    if rules.get("norm_decay_mult", 1.0) == 0:
        optimizer["no_decay"] = ["norm"]
    else:
        rules.expect("norm_decay_mult", 1.0, 1, reason="norms decay like other weights", effect="training")
    if rules.get("bias_decay_mult", 1.0) == 0:
        optimizer["no_decay"] = [*optimizer.get("no_decay", []), "bias"]
    rules.ignore("bypass_duplicate", "bias_decay_mult")
    parts, custom = {}, rules.part("custom_keys")
    for name in custom.values:
        if name in ("backbone", "head", "neck"):
            part = custom.part(name)
            parts[name] = {key: part.get(key) for key in ("lr_mult", "decay_mult") if key in part}
        else:
            custom.lose(name, "set optimizer.parts for the names of Chordate's parameters", "training")
    if parts:
        optimizer["parts"] = parts
    return optimizer
