"""Helpers of the checkpoint tests: models of a few tensors, checkpoint files, and the message of a failed load."""

import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import CheckpointError
from chordate.model_contracts import Model
from chordate.structures import DatasetMeta
from chordate.weights.loading import load_checkpoint


class TinyBackbone(Backbone):
    """A stem and one stage of `blocks` convolutions: fast, and enough to test changes of channels and depth."""

    def __init__(self, in_channels: int = 3, blocks: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(blocks)))
        self.out_features = {"c2": FeatureSpec(4, 4)}


class TinyDetector(Model):
    def __init__(self, classes=("cat", "dog"), **options):
        super().__init__()
        self.meta = DatasetMeta(tuple(classes))
        self.backbone = TinyBackbone(**options)
        self.box = nn.Linear(4, len(classes) + 1)


def filled(model: nn.Module, value: float = 0.5) -> nn.Module:
    """Fill the model with one value, so that loaded tensors differ from freshly initialized ones; returns the model."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


def is_filled(model: nn.Module, value: float = 0.5) -> bool:
    return all(bool((t == value).all()) for name, t in model.state_dict().items() if "num_batches" not in name)


def save(path: Path, values) -> Path:
    torch.save(values, path)
    return path


def message(model: nn.Module, source, **options) -> str:
    """The error message of a failed load; asserts that it is one line and that the model is unchanged."""
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(model, source, **options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    return str(caught.value)


def with_hash(path: Path) -> Path:
    """Rename the file so that its name ends in its hash, as torch.hub expects; returns the new path."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"{path.stem}-{digest[:8]}{path.suffix}"))


def own(model: nn.Module, meta: DatasetMeta | None = None, **more) -> dict:
    """A checkpoint in our own format, without training state. Its config would raise SystemExit if it were run."""
    meta = meta or DatasetMeta(("cat", "dog"))
    return {"chordate": 2, "model": model.state_dict(), "meta": meta.to_dict(), "config": "raise SystemExit", **more}
