"""Optional libraries, imported only when they are needed."""

import importlib.util
from typing import Any

from chordate.errors import ConfigError, unknown

# Whether Triton is installed, in which the GPU kernels are written; it comes with PyTorch on Linux.
HAS_TRITON = importlib.util.find_spec("triton") is not None


def timm_for(model: str, wanted_by: str) -> Any:
    """Import timm and check that it has the model and, if `model` has a tag (`resnet18.a1_in1k`), the weights.

    Raises:
        ConfigError: timm cannot be imported, or does not have the model or the weights.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"{wanted_by} needs timm, which cannot be imported ({error}); pip install timm") from error
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        raise ConfigError(unknown("timm model", name, timm.list_models()))
    tags = [known.partition(".")[2] for known in timm.list_models(f"{name}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ConfigError(unknown(f"weights of timm's {name}", tag, tags))
    return timm


def import_smp(wanted_by: str, architecture: str, encoder: str) -> Any:
    """Import segmentation_models.pytorch, and check that it has an architecture ("unet") and an encoder ("resnet34").

    Raises:
        ConfigError: it cannot be imported, or does not have one of them.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ConfigError(
            f"{wanted_by} needs segmentation_models_pytorch, which cannot be imported ({error}); "
            f"pip install segmentation-models-pytorch"
        ) from error
    architectures = list(smp.MODEL_ARCHITECTURES_MAPPING)
    if architecture not in architectures:
        raise ConfigError(unknown(f"architecture of {wanted_by}", architecture, architectures))
    encoders = smp.encoders.get_encoder_names()
    if encoder not in encoders and not encoder.startswith("tu-"):
        raise ConfigError(unknown(f"encoder of {wanted_by}", encoder, encoders))
    return smp
