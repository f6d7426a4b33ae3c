"""Shared by the model classes: the type of a submodule in a config, and the error for missing or wrong targets."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from chordate.errors import DataError

Part = str | Mapping[str, Any] | nn.Module  # a variant's name, a dict with `type` and arguments, or an nn.Module


def wrong_targets(model: nn.Module, targets: object, wanted: type) -> DataError:
    """The error for a batch whose targets are missing or are for a different task than the model."""
    if targets is None:
        return DataError("a batch without targets cannot be trained on; call model.predict to predict")
    kinds = f"{type(model).__name__} trains on {wanted.__name__}, but the dataset has {type(targets).__name__}"
    return DataError(f"{kinds}; choose another train_data.dataset or another model.type")
