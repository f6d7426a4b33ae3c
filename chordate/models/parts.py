"""Shared by the model classes: the type of a submodule in a config, and errors."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from chordate.errors import ConfigError, DataError
from chordate.head_contracts import PredictsPadded

Part = str | Mapping[str, Any] | nn.Module  # a variant's name, a dict with `type` and arguments, or an nn.Module


def wrong_targets(model: nn.Module, targets: object, wanted: type) -> DataError:
    """The error for a batch whose targets are missing, or are for another task than the model's."""
    if targets is None:
        return DataError("a batch without targets cannot be trained on; call model.predict to predict")
    kinds = f"{type(model).__name__} trains on {wanted.__name__}, but the dataset has {type(targets).__name__}"
    return DataError(f"{kinds}; choose another train_data.dataset or another model.type")


def not_exported(model: nn.Module, setting: str) -> ConfigError:
    """The error for exporting a model with a setting (such as `tta`) that a graph of fixed shapes cannot represent."""
    remedy = f"set it to None, on the command line with --cfg-options model.{setting}=None"
    return ConfigError(f"{type(model).__name__} cannot be exported with {setting}; {remedy}")


def padded(head: object) -> PredictsPadded:
    """The head, if its predictions can be exported.

    Raises:
        ConfigError: the head does not implement `PredictsPadded`.
    """
    if not isinstance(head, PredictsPadded):
        raise ConfigError(f"{type(head).__name__} cannot be exported: it has no method predict_padded (PredictsPadded)")
    return head


def parts_of(*heads: object) -> list[nn.Module]:
    """The heads that are nn.Modules."""
    return [head for head in heads if isinstance(head, nn.Module)]
