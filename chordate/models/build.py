"""Builds backbones and models from configs, and loads their weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console

from chordate.arguments import Names, PositiveInt, checked_call
from chordate.composition import Section, located
from chordate.config import load_config, section
from chordate.contracts import Backbone, check_outputs
from chordate.data.dataset import Dataset
from chordate.data.fallback_meta import fallback_meta
from chordate.errors import CheckpointError, ChordateError, ConfigError
from chordate.model_contracts import Model
from chordate.registry import BACKBONES, DATASETS, MODELS
from chordate.structures import DatasetMeta
from chordate.structures.metadata import numbered_names
from chordate.weights.checkpoint_schema import checkpoint_meta, source_of
from chordate.weights.checkpoint_sources import read_state
from chordate.weights.load_report import LoadReport
from chordate.weights.loading import load_checkpoint, load_pretrained, scratch_settings
from chordate.weights.state_dict_match import find_backbones

TABLE_WIDTH = 120  # width in characters of the table of loaded tensors in the log
MIN_LOADED = 0.25  # warn if a smaller fraction of the model's tensors can be loaded
log = logging.getLogger("chordate")
DEFAULT_PIPELINE = [  # the test pipeline of a config without val_data
    {"type": "ResizeShortestEdge", "size": 800, "max_size": 1333}
]


@checked_call()
def build_backbone(
    backbone: str | Mapping[str, Any], *, pretrained: str | bool | None = None, **options: Any
) -> Backbone:
    """Build a backbone in evaluation mode, and load its pretrained weights.

    Args:
        backbone: a variant's name (`"resnet50"`), or a dict with `type` and arguments.
        pretrained: weights to load: True for the variant's default, `"torchvision://resnet50"`, a path or a URL; None
            for the value in `backbone`, if any.
        options: further arguments of the backbone, such as `out=["c3", "c4", "c5"]`; they override the variant's.

    Returns:
        A module that computes a dict of feature maps from normalized images `[N, in_channels, H, W]`; `out_features`
        has their names, channels and strides.

    Raises:
        ConfigError: a name or argument is unknown, or a forward pass does not return the feature maps in
            `out_features`.
        CheckpointError: the weights cannot be read or do not fit.
    """
    config: dict[str, Any] = {"type": backbone} if isinstance(backbone, str) else dict(backbone)
    if pretrained is not None:
        config["pretrained"] = pretrained
    built: Backbone = BACKBONES.build({**config, **options})
    check_outputs(built)
    load_pretrained(built)
    built.eval()  # not chained: in a network of others, `train` may return None
    return built


@checked_call()
def build_model(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    meta: DatasetMeta | None = None,
    classes: Names | None = None,
    num_classes: PositiveInt | None = None,
    checkpoint: str | Path | Mapping[str, Any] | None = None,
    pretrained: bool = True,
) -> Model:
    """Build a model and load its weights. The model is in evaluation mode, ready to predict.

    Args:
        config: the name of a packaged config (`"faster-rcnn_r50_fpn_1x_coco"`), the path of a config file, a Config, or
            a dict that is a complete config or only its `model` section.
        meta: metadata of the dataset; by default the checkpoint's, or else the config's (see `config_meta`).
        classes: class names, which replace the metadata's; only without `meta`.
        num_classes: number of classes, if their names do not matter; only without `meta`.
        checkpoint: checkpoint of a trained model: a path, a URL, or the result of `read_state`. `model.load_report`
            then lists the loaded tensors.
        pretrained: whether to load the pretrained backbone weights that the config sets; ignored with a checkpoint.

    Returns:
        The model. `model.pipeline` is the test pipeline of its config; `model.pretrained_reports` lists the loaded
        tensors of its backbones.

    Raises:
        ConfigError: the config has unknown names, its parts do not fit together, no source defines the classes, or
            the arguments contradict each other.
        CheckpointError: weights cannot be read, are of a different model, or were trained on other data than requested.
    """
    if isinstance(config, Mapping) and "type" in config and "model" not in config:
        config = {"model": config}
    cfg = load_config(config)
    parts = section(cfg, "model")
    state = checkpoint if checkpoint is None or isinstance(checkpoint, Mapping) else read_state(checkpoint)
    trained = None if state is None else checkpoint_meta(state)
    if meta is not None and (classes is not None or num_classes is not None):
        raise ConfigError("meta already has the class names; remove classes and num_classes")
    fallback = config_meta(cfg)
    meta = meta or _meta(fallback, classes, num_classes, trained, state)
    difference = None if trained is None else meta.difference(trained)
    if difference and state is not None:
        raise CheckpointError(
            f"{source_of(state)} was trained on other data (pass no meta, classes or num_classes to use its own): "
            f"the requested model has {difference}"
        )
    try:
        model: Model = MODELS.build(parts, meta=meta)
    except ConfigError as error:
        if state is None or meta is not trained or (meta.classes and not meta.extra):
            raise
        raise CheckpointError(f"{source_of(state)}: its metadata does not fit the config's model: {error}") from error
    model.pipeline = section(cfg, "val_data").get("pipeline", []) if cfg.get("val_data") else DEFAULT_PIPELINE
    if state is not None:
        model.load_report = load_checkpoint(model, state)
    elif pretrained:
        model.pretrained_reports = _load_pretrained(model, parts)
    model.eval()
    return model


def image_channels(cfg: Config) -> int | None:
    """Number of channels of the images of a config's model, from `preprocess.mean` or `backbone.in_channels`; None if
    it sets neither."""
    parts = section(cfg, "model")
    preprocess, backbone = parts.get("preprocess"), parts.get("backbone")
    mean = preprocess.get("mean") if isinstance(preprocess, Mapping) else None
    if isinstance(mean, list | tuple):
        return len(mean)
    channels = backbone.get("in_channels") if isinstance(backbone, Mapping) else None
    return channels if isinstance(channels, int) else None


def start_from(model: Model, source: str | Path, setting: str = "load_from") -> None:
    """Load the tensors of a checkpoint that fit the model, even if the classes differ, and log the report.

    Raises:
        CheckpointError: the checkpoint cannot be read, or none of its tensors fits; the message starts with `setting`,
            the config key that sets `source`.
    """
    try:
        report = load_checkpoint(model, source, strict=False)
    except CheckpointError as error:
        raise CheckpointError(f"{setting}: {error}") from error
    console = Console(file=StringIO(), width=TABLE_WIDTH)
    with console.capture() as table:
        console.print(report.table())
    log.info(f"{report}\n{table.get().rstrip()}")
    fitting = len(report.loaded) + len(report.adapted)
    total = fitting + len(report.missing)
    if fitting < MIN_LOADED * total:
        log.warning(
            f"{setting}={source}: only {fitting} of the model's {total} tensors fit; "
            "is the checkpoint from another model?"
        )


def warn_about_frozen_stages(model: Model) -> None:
    """Warn about each backbone with frozen stages but no pretrained weights: these stages keep random weights.

    Call it for a model into which no other checkpoint is loaded.
    """
    for path, backbone in find_backbones(model):
        if backbone.frozen_stages != -1 and not backbone.pretrained:
            log.warning(
                f"model.{path}: its frozen stages (frozen_stages={backbone.frozen_stages}) keep random weights; load "
                f"weights with model.{path}.pretrained or --load-from, or use {scratch_settings(path, backbone)}"
            )


def _load_pretrained(model: Model, parts: Section) -> list[LoadReport]:
    """Load the backbones' pretrained weights and log the reports. Error messages name the config file and the key."""
    named = [f"{path}.pretrained" for path, backbone in find_backbones(model) if backbone.pretrained]
    try:
        reports = load_pretrained(model)
    except ChordateError as error:
        raise located(error, parts, setting=named[0] if len(named) == 1 else None) from error
    for report in reports:
        log.info("%s", report)
    return reports


def config_meta(cfg: Config) -> DatasetMeta | None:
    """The metadata that a config defines, found without reading the data; None if it defines none.

    It is `fallback_meta`, or else the class attribute `meta` of the training dataset. If the config sets `classes` of
    the training dataset, they replace the class names.
    """
    meta = fallback_meta(section(cfg, "fallback_meta", optional=True))
    dataset = section(cfg, "train_data", optional=True).get("dataset")
    if isinstance(dataset, str | Mapping):
        config = DATASETS.expand(dataset)
        cls = DATASETS.get(config["type"]) if isinstance(config["type"], str) else config["type"]
        if meta is None and issubclass(cls, Dataset) and cls.meta != DatasetMeta():
            meta = cls.meta
        if isinstance(config.get("classes"), list | tuple):
            meta = replace(meta or DatasetMeta(), classes=tuple(config["classes"]))
    return meta


def _meta(
    fallback: DatasetMeta | None,
    classes: Sequence[str] | None,
    num_classes: int | None,
    trained: DatasetMeta | None,
    state: Mapping[str, Any] | None,
) -> DatasetMeta:
    """Choose the metadata: from the arguments, or else from the checkpoint, or else from the config."""
    if classes is not None or num_classes is not None:
        if classes is not None and num_classes not in (None, len(classes)):
            raise ConfigError(f"num_classes={num_classes}, but classes has {len(classes)} names; pass only one of them")
        base = trained or fallback or DatasetMeta()
        if classes is None and num_classes == len(base.classes):
            return base
        names = numbered_names(num_classes) if classes is None and num_classes is not None else tuple(classes or ())
        return replace(base, classes=names, palette=None, stuff=())
    if trained is not None and state is not None:
        if fallback is not None and fallback.classes and not trained.classes:
            raise CheckpointError(f"{source_of(state)}: its meta.classes is empty, but the config's model has classes")
        return trained
    if fallback is not None:
        return fallback
    neither = "" if state is None else f", nor does {source_of(state)}"
    raise ConfigError(
        f"this config does not define the classes{neither}; pass classes=[…] or num_classes=…, or on the command line "
        f"--cfg-options 'fallback_meta.classes=[cat,dog]'"
    )
