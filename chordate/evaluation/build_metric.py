"""Builds the metric that a config sets, or the dataset's default metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chordate.data.dataset import Dataset
from chordate.errors import ConfigError
from chordate.model_contracts import Metric, check_implements
from chordate.registry import METRICS


def build_metric(section: str | Mapping[str, Any] | None, dataset: Dataset) -> Metric:
    """Build the metric of a config's `metric` section, or the dataset's default metric if there is no such section.

    Raises:
        ConfigError: settings are unknown or invalid, neither the config nor the dataset sets a metric, or the metric
            does not implement `Metric`.
    """
    config = section or dataset.default_metric
    if not config:
        raise ConfigError(f"{type(dataset).__name__} has no default metric; add metric = dict(type=…) to the config")
    metric: Metric = METRICS.build(config, dataset=dataset)
    check_implements(metric, Metric, ["update", "compute"])
    return metric
