"""Chordate: any backbone, any neck, any head; assembled from a config, trained, evaluated and used.

Importing it is light: each public name is fetched from its module when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from chordate.api import build_backbone, build_model, features, list_backbones, list_models, predict
    from chordate.config import load_config
    from chordate.contracts import Backbone, FeatureSpec, Neck
    from chordate.errors import ChordateError
    from chordate.registry import BACKBONES, DATASETS, HEADS, METRICS, MODELS, NECKS, TRANSFORMS
    from chordate.structures import Batch, Detections, InstanceTargets, Proposals
    from chordate.weights.loading import LoadReport, load_checkpoint

_HOME = {
    "chordate.api": ("build_backbone", "build_model", "features", "list_backbones", "list_models", "predict"),
    "chordate.weights.loading": ("LoadReport", "load_checkpoint"),
    "chordate.config": ("load_config",),
    "chordate.contracts": ("Backbone", "FeatureSpec", "Neck"),
    "chordate.errors": ("ChordateError",),
    "chordate.registry": ("BACKBONES", "DATASETS", "HEADS", "METRICS", "MODELS", "NECKS", "TRANSFORMS"),
    "chordate.structures": ("Batch", "Detections", "InstanceTargets", "Proposals"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BACKBONES",
    "DATASETS",
    "HEADS",
    "METRICS",
    "MODELS",
    "NECKS",
    "TRANSFORMS",
    "Backbone",
    "Batch",
    "ChordateError",
    "Detections",
    "FeatureSpec",
    "InstanceTargets",
    "LoadReport",
    "Neck",
    "Proposals",
    "build_backbone",
    "build_model",
    "features",
    "list_backbones",
    "list_models",
    "load_checkpoint",
    "load_config",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'chordate' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
