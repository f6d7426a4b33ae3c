"""Infers the config of another library's checkpoint from its tensors, and from the config in OpenMMLab's files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from chordate.config import load_config
from chordate.errors import ConfigError
from chordate.migration.config_conversion import Conversion, Keys
from chordate.migration.config_defaults import fill_numbers, without_defaults
from chordate.migration.mm_detector import detector
from chordate.migration.mm_files import short_types
from chordate.migration.mm_segmenter import segmenter
from chordate.migration.mm_types import TYPES
from chordate.migration.nearest_config import differences
from chordate.text import one_line
from chordate.weights.checkpoint_conversion import recognize
from chordate.weights.find_weights import Weights
from chordate.weights.formats.openmmlab_config import config_of, pixels, size_divisor

_CONVERTERS = {"mmdetection": detector, "mmsegmentation": segmenter}
_ERRORS = (ConfigError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)


class CheckpointConfig(NamedTuple):
    """The config of a checkpoint.

    Attributes:
        name: name of the packaged config that it derives from.
        overrides: the settings that differ from the packaged config; keys are dotted, values may be dicts.
        notes: lines about guessed settings, and settings that are not carried over.
    """

    name: str
    overrides: dict[str, Any]
    notes: list[str]


def checkpoint_config(weights: Weights) -> CheckpointConfig:
    """The config of a checkpoint of another library.

    The architecture is inferred from the tensors. OpenMMLab's files have the text of a config, whose section `model` is
    converted as by `chordate convert-config`; settings inferred from the tensors override it.

    Raises:
        CheckpointError: no format recognizes the weights and knows their config.
    """
    name, overrides, format, state = recognize(weights)
    notes = []
    if guesses := format.guesses(state):
        notes += textwrap.wrap(f"{format.library}: {guesses}.", 116)
    values = config_of(weights.contents)
    converter = _CONVERTERS.get(format.library)
    if converter is not None and isinstance(values.get("model"), dict):
        conversion = Conversion(weights.source)
        try:
            keys = _keys(values, conversion)
            model = converter(keys)
            keys.report_unread()
            difference = _difference(model, name)
        except _ERRORS as error:
            reason = f"{type(error).__name__}: {one_line(error, 160)}"
            notes.append(
                f"Settings that the tensors do not determine are guessed, since the file's config cannot be converted: "
                f"{reason}"
            )
        else:
            overrides = {"model": difference, **overrides}
            if conversion.not_carried:
                notes += ["Not carried over:", "", *(f"    {row}" for row in conversion.table().splitlines())]
    return CheckpointConfig(name, overrides, notes)


def _keys(values: Mapping[str, Any], conversion: Conversion) -> Keys:
    """The section `model` of a config, in the form of MMDetection 3 and MMSegmentation 1.

    In older versions, the pipelines have the mean, the std and the padding, and `train_cfg` and `test_cfg` may be
    beside `model`.
    """
    model = short_types(values["model"])
    if "data_preprocessor" not in model:
        preprocessor = values.get("data_preprocessor")
        colors = pixels(dict(values))
        if not isinstance(preprocessor, dict) and colors:
            mean, std, bgr = colors
            preprocessor = {"mean": list(mean), "std": list(std), "bgr_to_rgb": not bgr}
            preprocessor["pad_size_divisor"] = size_divisor(dict(values), 1)
        model["data_preprocessor"] = preprocessor
    for key in ("train_cfg", "test_cfg"):
        if isinstance(values.get(key), dict) and "type" not in values[key]:
            model.setdefault(key, values[key])
    return Keys({"model": model}, conversion, TYPES)


def _difference(model: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of a section `model` that differ from those of the config `name`."""
    base = without_defaults(load_config(name).to_dict()["model"], "model")
    target = fill_numbers(without_defaults(model, "model"), base)
    if target["type"] != base["type"]:
        raise ConfigError(f"its model is a {target['type']}, but the tensors are those of a {base['type']}")
    return differences(target, base, ("model",))
