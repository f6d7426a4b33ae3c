"""What whole models share: how a config names a part, and the error about a batch without targets."""

from collections.abc import Mapping
from typing import Any

from torch import nn

Part = str | Mapping[str, Any] | nn.Module  # a variant's name, a dict with `type` and arguments, or a built module
NO_TARGETS = "a batch without targets cannot be trained on; call model.predict to predict"
