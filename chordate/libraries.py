"""Optional libraries, imported only when they are needed."""

import importlib.util
from importlib import import_module
from types import ModuleType
from typing import Any

from chordate.errors import ConfigError, unknown
from chordate.text import one_line

# Whether Triton, the language of the GPU kernels, is installed; PyTorch on Linux includes it.
HAS_TRITON = importlib.util.find_spec("triton") is not None


def import_library(module: str, wanted_by: str, remedy: str) -> ModuleType:
    """Import a module of an optional library.

    Args:
        module: the module's name, which starts with the name of the library.
        wanted_by: the component that needs the library, for error messages.
        remedy: how to install the library, for error messages.

    Raises:
        ConfigError: the module cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        message = f"{wanted_by} needs {library}, which cannot be imported ({one_line(error)}); {remedy}"
        raise ConfigError(message) from error


def smp_encoders(model: str, wanted_by: str) -> Any:
    """Import segmentation_models.pytorch's encoders, and check that they include `model`.

    Raises:
        ConfigError: the library cannot be imported, or does not have the encoder.
    """
    remedy = "pip install segmentation-models-pytorch"
    encoders = import_library("segmentation_models_pytorch.encoders", wanted_by, remedy)
    if model.startswith("tu-"):
        timm_for(model.removeprefix("tu-"), wanted_by)
    elif model not in encoders.get_encoder_names():
        raise ConfigError(unknown("smp encoder", model, encoders.get_encoder_names()))
    return encoders


def timm_for(model: str, wanted_by: str) -> Any:
    """Import timm and check that it has the model and, if `model` has a tag (`resnet18.a1_in1k`), the weights.

    Raises:
        ConfigError: timm cannot be imported, or does not have the model or the weights.
    """
    timm: Any = import_library("timm", wanted_by, "pip install timm")
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
        ConfigError: the library cannot be imported, or lacks the architecture or the encoder.
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
