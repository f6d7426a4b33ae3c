"""Converts Detectron2's YAML configs to Chordate configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chordate.errors import ConfigError
from chordate.migration.config_conversion import Conversion, Keys
from chordate.migration.detectron2_defaults import DEFAULTS
from chordate.migration.detectron2_model import detectron2_model, whole_model_weights
from chordate.migration.detectron2_norms import is_synchronized
from chordate.migration.detectron2_training import detectron2_training
from chordate.migration.detectron2_types import TYPES
from chordate.migration.detectron2_yaml import read_detectron2

SECTIONS = {"DATASETS", "INPUT", "MODEL", "SOLVER"}


def convert_detectron2(path: Path) -> Conversion:
    """Convert a config and its `_BASE_` files.

    Raises:
        ConfigError: the file cannot be read, or Chordate has no such model.
    """
    conversion = Conversion(str(path))
    values = read_detectron2(path)
    if not SECTIONS & values.keys():
        raise ConfigError(f"{path}: not a Detectron2 config: it has none of the sections {', '.join(sorted(SECTIONS))}")
    cfg = Keys(values, conversion, TYPES, defaults=DEFAULTS)
    model = detectron2_model(cfg)
    conversion.config = {
        "model": model,
        **detectron2_training(cfg, task=_task(model), has_norms=_has_norms(model), sync_bn=_synchronizes(cfg)),
    }
    weights = whole_model_weights(cfg.part("MODEL"))
    if weights:
        conversion.config["train"]["load_from"] = weights
    cfg.report_unread(sections={"DATALOADER": "training", "SOLVER": "training", "TEST": "evaluation"})
    return conversion


def _task(model: Mapping[str, Any]) -> str:
    if model["type"] == "SemanticSegmenter":
        return "semantic"
    if "semantic" in model:
        return "panoptic"
    if "keypoint" in model:
        return "keypoint"
    return "instance" if "mask" in model else "detection"


def _has_norms(model: Any) -> bool:
    """Whether any part of the model has norms with trainable parameters (FrozenBN has none)."""
    if not isinstance(model, Mapping):
        return False
    return model.get("norm") not in (None, "FrozenBN") or any(map(_has_norms, model.values()))


def _synchronizes(cfg: Keys) -> bool:
    model = cfg.part("MODEL")
    sections = ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD", "RETINANET", "SEM_SEG_HEAD")
    return any(is_synchronized(model.part(name).get("NORM")) for name in sections)
