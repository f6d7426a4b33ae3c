"""Libraries that are imported where they are used, and not before: not everybody needs them, and they are slow."""

import importlib.util
from typing import Any

from chordate.errors import ConfigError, unknown

# The kernels for GPUs are written in Triton, which PyTorch brings along on Linux.
HAS_TRITON = importlib.util.find_spec("triton") is not None


def timm_for(model: str, wanted_by: str) -> Any:
    """The module `timm`, which has this model, and the weights whose tag stands behind its name: `resnet18.a1_in1k`.

    Raises:
        ConfigError: timm does not import, or has no such model or no such weights of it.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"{wanted_by} needs timm, which does not import ({error}); pip install timm") from error
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        raise ConfigError(unknown("timm model", name, timm.list_models()))
    tags = [known.partition(".")[2] for known in timm.list_models(f"{name}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ConfigError(unknown(f"weights of timm's {name}", tag, tags))
    return timm
