"""Datasets that other frameworks concatenate, as one dataset of a Chordate config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def concatenated(datasets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The config of one dataset: the only one of `datasets`, or a ConcatDataset."""
    return datasets[0] if len(datasets) == 1 else {"type": "ConcatDataset", "datasets": list(datasets)}


def single_datasets(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """The inverse of `concatenated`."""
    return dataset["datasets"] if dataset["type"] == "ConcatDataset" else [dataset]
