"""Converts the hooks of MMDetection and MMSegmentation configs."""

from __future__ import annotations

from typing import Any

from chordate.migration.config_conversion import Keys

# Hooks that change neither predictions nor training, or whose work Chordate's trainer does.
HARMLESS = {
    "IterTimerHook", "LoggerHook", "ParamSchedulerHook", "CheckpointHook", "DistSamplerSeedHook", "RuntimeInfoHook",
    "DetVisualizationHook", "SegVisualizationHook", "NumClassCheckHook", "CheckInvalidLossHook", "MemoryProfilerHook",
    "EmptyCacheHook", "SyncBuffersHook", "ProfilerHook", "NPUProfilerHook",
}  # fmt: skip


def hooks_part(cfg: Keys) -> dict[str, Any]:
    """Convert EMAHook to the setting `ema` of the section `train`; reports other hooks that change the training.

    Args:
        cfg: the whole config.
    """
    train: dict[str, Any] = {}
    default = cfg.part("default_hooks")
    named = [default.part(name) for name, value in default.values.items() if value is not None]
    for hook in [*named, *cfg.parts("custom_hooks")]:
        kind = hook.get("type", "")
        if kind == "EMAHook":
            train["ema"] = 1 - hook.get("momentum", 0.0002)
            hook.lose("type", "train.ema, whose decay grows from the first step on; buffers are averaged", "training")
        elif kind and kind not in HARMLESS:
            hook.lose("type", "this hook is left out; callbacks=[…] adds one of yours", "training")
        hook.ignore(*hook.values)
    return train
