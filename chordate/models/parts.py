"""What whole models share: how a config names a part, and the targets of a training batch."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from chordate.errors import DataError
from chordate.structures import Batch

Part = str | Mapping[str, Any] | nn.Module  # a variant's name, a dict with `type` and arguments, or a built module


def training_targets(batch: Batch) -> Any:
    """The targets of a batch.

    Raises:
        DataError: it has none.
    """
    if batch.targets is None:
        raise DataError("a batch without targets cannot be trained on; call model.predict to predict")
    return batch.targets
