"""Chordate: any backbone, any neck, any head; assembled from a config, trained, evaluated and used.

Importing it is light: each public name is fetched from its module when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from chordate.api import features, list_backbones, list_models, predict
    from chordate.config import load_config
    from chordate.contracts import Backbone, FeatureSpec, Neck
    from chordate.data.dataset import Dataset
    from chordate.errors import ChordateError
    from chordate.model_contracts import Metric, Model
    from chordate.models.build import build_backbone, build_model
    from chordate.registry import (
        BACKBONES,
        CALLBACKS,
        DATASETS,
        FORMATS,
        HEADS,
        METRICS,
        MODELS,
        NECKS,
        OPTIMIZERS,
        TRANSFORMS,
    )
    from chordate.structures import (
        Batch,
        Classification,
        ClassTargets,
        DatasetMeta,
        Detections,
        InstanceTargets,
        Prediction,
        Proposals,
        Skeleton,
        Targets,
    )
    from chordate.training.callbacks import Callback
    from chordate.training.run import train
    from chordate.visualization import draw, draw_targets
    from chordate.weights.loading import LoadReport, load_checkpoint

_HOME = {
    "chordate.api": (
        "features",
        "list_backbones",
        "list_models",
        "predict",
    ),
    "chordate.config": ("load_config",),
    "chordate.contracts": ("Backbone", "FeatureSpec", "Neck"),
    "chordate.model_contracts": ("Metric", "Model"),
    "chordate.data.dataset": ("Dataset",),
    "chordate.errors": ("ChordateError",),
    "chordate.models.build": (
        "build_backbone",
        "build_model",
    ),
    "chordate.registry": (
        "BACKBONES",
        "CALLBACKS",
        "DATASETS",
        "FORMATS",
        "HEADS",
        "METRICS",
        "MODELS",
        "NECKS",
        "OPTIMIZERS",
        "TRANSFORMS",
    ),
    "chordate.structures": (
        "Batch",
        "Classification",
        "ClassTargets",
        "DatasetMeta",
        "Detections",
        "InstanceTargets",
        "Prediction",
        "Proposals",
        "Skeleton",
        "Targets",
    ),
    "chordate.training.callbacks": ("Callback",),
    "chordate.training.run": ("train",),
    "chordate.visualization": (
        "draw",
        "draw_targets",
    ),
    "chordate.weights.loading": (
        "LoadReport",
        "load_checkpoint",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BACKBONES",
    "CALLBACKS",
    "DATASETS",
    "FORMATS",
    "HEADS",
    "METRICS",
    "MODELS",
    "NECKS",
    "OPTIMIZERS",
    "TRANSFORMS",
    "Backbone",
    "Batch",
    "Callback",
    "ChordateError",
    "ClassTargets",
    "Classification",
    "Dataset",
    "DatasetMeta",
    "Detections",
    "FeatureSpec",
    "InstanceTargets",
    "LoadReport",
    "Metric",
    "Model",
    "Neck",
    "Prediction",
    "Proposals",
    "Skeleton",
    "Targets",
    "build_backbone",
    "build_model",
    "draw",
    "draw_targets",
    "features",
    "list_backbones",
    "list_models",
    "load_checkpoint",
    "load_config",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'chordate' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
