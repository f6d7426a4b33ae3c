"""Helpers of the tests: a dataset and its loader in one call, and a checkpoint without training state."""

from pathlib import Path
from typing import Any

from chordate.data.loader import Loader, build_dataset, build_loader
from chordate.structures import DatasetMeta


def open_loader(
    section: Any,
    *,
    data_root: str | Path,
    training: bool,
    seed: int = 0,
    meta: DatasetMeta | None = None,
    size_divisor: int = 32,
    **ranks: int,
) -> Loader:
    """The loader of a config's `train_data` or `val_data`; `ranks` are `rank` and `world_size`."""
    dataset = build_dataset(section, data_root=data_root, training=training, seed=seed, meta=meta)
    return build_loader(dataset, section, training=training, seed=seed, size_divisor=size_divisor, **ranks)


def checkpoint_of(model: Any, meta: DatasetMeta | None = None) -> dict[str, Any]:
    """A checkpoint in our own format, without training state."""
    return {"chordate": 2, "model": model.state_dict(), "meta": (meta or model.meta).to_dict()}
