"""Converts configs of MMDetection and MMSegmentation to Chordate configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chordate.errors import ConfigError
from chordate.migration.config_conversion import Conversion, Effect, Keys
from chordate.migration.config_defaults import fill_numbers
from chordate.migration.mm_backbone import synchronizes
from chordate.migration.mm_detector import detector
from chordate.migration.mm_files import execute_mm, read_mm, short_types
from chordate.migration.mm_segmenter import segmenter
from chordate.migration.mm_training import mm_training
from chordate.migration.mm_types import TYPES

# The sections that are converted, and what differs without their unread settings.
SECTIONS: Mapping[str, Effect] = {
    "model": "predictions",
    "train_dataloader": "training",
    "val_dataloader": "evaluation",
    "optim_wrapper": "training",
    "train_cfg": "training",
    "param_scheduler": "training",
    "default_hooks": "training",
}


def convert_mm(path: Path, *, execute: bool = False) -> Conversion:
    """Convert a config and its `_base_` files.

    Args:
        path: the file.
        execute: whether to run the file's code, instead of reading it as data.

    Raises:
        ConfigError: the file cannot be read, or Chordate has no such model.
    """
    values = short_types(execute_mm(path) if execute else read_mm(path))
    if not isinstance(values.get("model"), dict) or "train_dataloader" not in values:
        raise ConfigError(
            f"{path}: not a config of MMDetection 3 or MMSegmentation 1: it has no model or no train_dataloader"
        )
    conversion = Conversion(str(path))
    cfg = Keys(values, conversion, TYPES)
    semantic = cfg.part("model").get("type") == "EncoderDecoder"
    model = segmenter(cfg) if semantic else detector(cfg)
    sections = mm_training(cfg, path, semantic=semantic, sync_bn=synchronizes(values["model"]))
    conversion.config = {"model": fill_numbers(model, {}), **sections}
    for name, value in values.items():
        if not isinstance(value, dict) or name not in SECTIONS:
            cfg.ignore(name)  # a helper variable of the file, not a section
    cfg.report_unread(sections=SECTIONS)
    return conversion
