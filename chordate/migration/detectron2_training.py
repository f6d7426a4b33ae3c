"""Converts the data, the schedule and the solver of Detectron2 configs."""

from __future__ import annotations

from typing import Any

from chordate.allowed_values import format_value
from chordate.errors import ConfigError
from chordate.migration.config_conversion import Keys
from chordate.migration.detectron2_datasets import convert_dataset

PROCESSES = 8  # Detectron2's baselines were trained on 8 GPUs; SOLVER.IMS_PER_BATCH is the total batch size


def detectron2_training(cfg: Keys, *, task: str, has_norms: bool, sync_bn: bool) -> dict[str, Any]:
    """Convert the sections `INPUT`, `DATASETS`, `DATALOADER`, `SOLVER` and `TEST` to all sections except `model`.

    Args:
        cfg: the whole config.
        task: "detection", "instance", "keypoint", "panoptic" or "semantic".
        has_norms: whether the model has norms with parameters.
        sync_bn: whether the model has synchronized BatchNorms.
    """
    loader, test = cfg.part("DATALOADER"), cfg.part("TEST")
    per_batch = cfg.part("SOLVER").get("IMS_PER_BATCH")
    batch_size = max(1, per_batch // PROCESSES)
    processes = per_batch // batch_size
    cfg.conversion.notes.append(
        f"A step has {per_batch} images: {processes} processes with {batch_size} each. With fewer processes, set "
        f"train.accumulate or a longer schedule; the learning rate is scaled to the images per step."
    )
    train_set, val_set, meta = convert_dataset(cfg, task)
    loader.ignore("NUM_WORKERS", "FILTER_EMPTY_ANNOTATIONS")
    train_data: dict[str, Any] = {
        "dataset": train_set,
        "pipeline": _train_pipeline(cfg.part("INPUT"), task),
        "batch_size": batch_size,
        "group_by_aspect": loader.get("ASPECT_RATIO_GROUPING"),
    }
    if loader.get("SAMPLER_TRAIN") == "RepeatFactorTrainingSampler":
        train_data["class_balanced"] = loader.get("REPEAT_THRESHOLD")
        loader.expect("REPEAT_SQRT", True, reason="repeat factors are square roots", effect="training")
    else:
        loader.expect("SAMPLER_TRAIN", "TrainingSampler", reason="every image once per epoch", effect="training")
        loader.ignore("REPEAT_THRESHOLD", "REPEAT_SQRT")
    sizes = cfg.part("INPUT")
    short = sizes.get("MIN_SIZE_TEST")
    resize = {"type": "ResizeShortestEdge", "size": short, "max_size": sizes.get("MAX_SIZE_TEST")}
    val_data = {"dataset": val_set, "pipeline": [resize] if short else [], "batch_size": 1}
    test.part("AUG").expect("ENABLED", False, reason="set model.tta to augment in testing")
    test.part("AUG").ignore("MIN_SIZES", "MAX_SIZE", "FLIP")
    reason = "BatchNorm keeps its running statistics"
    test.part("PRECISE_BN").expect("ENABLED", False, reason=reason, effect="training")
    test.part("PRECISE_BN").ignore("NUM_ITER")
    test.expect("KEYPOINT_OKS_SIGMAS", [], reason="COCO's sigmas", effect="evaluation")
    test.ignore("EXPECTED_RESULTS", "EVAL_PERIOD", "DETECTIONS_PER_IMAGE")
    metric = {"panoptic": "PanopticMetric", "semantic": "SemanticMetric"}.get(task, "CocoMetric")
    return {
        "fallback_meta": meta,
        "train_data": train_data,
        "val_data": val_data,
        "metric": {"type": metric},
        **_solver(cfg.part("SOLVER"), test.get("EVAL_PERIOD"), has_norms),
        "train": _train(cfg, sync_bn),
    }


def _train_pipeline(sizes: Keys, task: str) -> list[dict[str, Any]]:
    short = sizes.get("MIN_SIZE_TRAIN")
    short = [short] if isinstance(short, int) else list(short)
    if sizes.get("MIN_SIZE_TRAIN_SAMPLING") == "range":
        if len(short) != 2:
            raise ConfigError(f"INPUT.MIN_SIZE_TRAIN must be the ends of a range, got {format_value(short)}")
        short = list(range(short[0], short[1] + 1))
    longest = sizes.get("MAX_SIZE_TRAIN")
    pipeline: list[dict[str, Any]] = [
        {"type": "ResizeShortestEdge", "size": short if len(short) > 1 else short[0], "max_size": longest}
    ]
    crop = sizes.part("CROP")
    if crop.get("ENABLED"):
        if crop.get("TYPE") == "absolute":
            fraction = crop.get("SINGLE_CATEGORY_MAX_AREA") if task == "semantic" else 1.0
            pipeline.append({"type": "ClassLimitedCrop", "size": list(crop.get("SIZE")), "max_fraction": fraction})
            if task != "semantic":
                crop.lose("ENABLED", "crops may have no object", "training")
        else:
            crop.lose("TYPE", "images are not cropped", "training")
    crop.ignore("ENABLED", "TYPE", "SIZE", "SINGLE_CATEGORY_MAX_AREA")
    flips = {"horizontal": "RandomHorizontalFlip", "vertical": "RandomVerticalFlip"}
    flip = flips.get(sizes.get("RANDOM_FLIP"))
    sizes.expect("RANDOM_FLIP", *flips, "none", reason="images are not flipped", effect="training")
    if flip:
        pipeline.append({"type": flip, "p": 0.5})
    sizes.ignore("MASK_FORMAT")
    return pipeline


def _solver(solver: Keys, eval_period: int, has_norms: bool) -> dict[str, Any]:
    optimizer: dict[str, Any] = {
        "type": "SGD",
        "lr": solver.get("BASE_LR"),
        "momentum": solver.get("MOMENTUM"),
        "nesterov": solver.get("NESTEROV"),
        "weight_decay": solver.get("WEIGHT_DECAY"),
        "base_batch_size": solver.get("IMS_PER_BATCH"),
    }
    no_decay = []
    if solver.get("WEIGHT_DECAY_NORM") != solver.get("WEIGHT_DECAY") and has_norms:
        no_decay.append("norm")
        solver.expect("WEIGHT_DECAY_NORM", 0.0, reason="norms have no weight decay", effect="training")
    if solver.get("WEIGHT_DECAY_BIAS") not in (None, solver.get("WEIGHT_DECAY")):
        no_decay.append("bias")
        solver.expect("WEIGHT_DECAY_BIAS", None, 0.0, 0, reason="biases have no weight decay", effect="training")
    if no_decay:
        optimizer["no_decay"] = no_decay
    solver.expect("BIAS_LR_FACTOR", 1.0, reason="biases have the same learning rate", effect="training")
    solver.ignore("REFERENCE_WORLD_SIZE", "WEIGHT_DECAY_NORM")
    warmup = {
        "warmup_iters": solver.get("WARMUP_ITERS"),
        "warmup_factor": solver.get("WARMUP_FACTOR"),
        "warmup": solver.get("WARMUP_METHOD"),
    }
    solver.expect("RESCALE_INTERVAL", False, reason="the warm-up multiplies the schedule", effect="training")
    name = solver.get("LR_SCHEDULER_NAME")
    if name in ("WarmupCosineLR", "WarmupPolyLR") and warmup["warmup_iters"]:
        solver.lose("LR_SCHEDULER_NAME", "the decay starts after the warm-up, not before", "training")
    if name == "WarmupCosineLR":
        schedule: dict[str, Any] = {"type": "cosine", "min_factor": solver.get("BASE_LR_END") / optimizer["lr"]}
    elif name == "WarmupPolyLR":
        schedule = {"type": "poly", "power": solver.get("POLY_LR_POWER")}
        reason = "the rate decays to the end"
        solver.expect("POLY_LR_CONSTANT_ENDING", 0.0, reason=reason, effect="training")
    else:
        solver.expect("LR_SCHEDULER_NAME", "WarmupMultiStepLR", reason="steps instead", effect="training")
        milestones = [step for step in solver.get("STEPS") if step < solver.get("MAX_ITER")]
        schedule = {"type": "step", "milestones": milestones, "gamma": solver.get("GAMMA")}
    solver.ignore("STEPS", "GAMMA", "BASE_LR_END", "POLY_LR_POWER", "POLY_LR_CONSTANT_ENDING", "NUM_DECAYS")
    return {"optimizer": optimizer, "schedule": schedule | warmup}


def _train(cfg: Keys, sync_bn: bool) -> dict[str, Any]:
    solver = cfg.part("SOLVER")
    train: dict[str, Any] = {
        "iterations": solver.get("MAX_ITER"),
        "eval_every": cfg.part("TEST").get("EVAL_PERIOD"),
        "save_every": solver.get("CHECKPOINT_PERIOD"),
        "seed": max(0, cfg.get("SEED")),
        "sync_bn": sync_bn,
    }
    if solver.part("AMP").get("ENABLED"):
        train["amp"] = "fp16"
    clip = solver.part("CLIP_GRADIENTS")
    if clip.get("ENABLED"):
        if clip.get("CLIP_TYPE") == "full_model" and clip.get("NORM_TYPE") == 2.0:
            train["clip_norm"] = clip.get("CLIP_VALUE")
        else:
            clip.lose("CLIP_TYPE", "gradients are not clipped; train.clip_norm limits their global norm", "training")
    clip.ignore("CLIP_TYPE", "CLIP_VALUE", "NORM_TYPE")
    cfg.ignore("OUTPUT_DIR", "VERSION", "CUDNN_BENCHMARK", "FLOAT32_PRECISION", "VIS_PERIOD", "GLOBAL")
    return train
