"""Loads a checkpoint of any known format into a model, and reports on every tensor."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from chordate.arguments import validate_value
from chordate.contracts import Backbone
from chordate.errors import CheckpointError, DownloadError, near_names
from chordate.model_contracts import Model
from chordate.ops.norms import FrozenBatchNorm
from chordate.registry import BACKBONES
from chordate.structures import DatasetMeta
from chordate.text import pluralize
from chordate.weights.candidates import Candidate, best_candidate, formats
from chordate.weights.checkpoint_sources import read_state
from chordate.weights.class_rows import has_names
from chordate.weights.find_weights import Weights, find_weights
from chordate.weights.load_report import LoadReport, abbreviate
from chordate.weights.numerics import (
    overrides,
    warn_about_normalization,
    warn_about_settings,
)
from chordate.weights.state_dict_match import StateDictMatch, find_backbones, not_finite


def load_checkpoint(model: nn.Module, source: str | Path | Mapping[str, Any], *, strict: bool = True) -> LoadReport:
    """Load weights into `model`; the format is recognized by the tensor names.

    Known formats are Chordate's own checkpoints (EMA weights are preferred), the state dict of the same model,
    bare or in a wrapper, and the formats in FORMATS. A backbone loads its part of a whole model's checkpoint. The model
    is changed only if no error is raised.

    Args:
        model: a whole model or a backbone.
        source: a path or URL for `read_state`, the contents that it returned, or a state dict.
        strict: if True, every tensor of the model must be loaded, and the checkpoint must not contradict the model
            (parts that the model does not have are skipped). Our own checkpoints set `model.meta`; checkpoints of other
            libraries set only the names and order of its classes, if they are known. If False, for fine-tuning, the
            tensors that fit are loaded; in layers with outputs per class (`class_rows` of the heads), these are the
            weights of the background and of classes with the same name. The rest of the model is unchanged, and so is
            `meta` if it has class names rather than numbers.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit the model.
    """
    validate_value(str | Path | Mapping, source, "load_checkpoint: source")
    model = _unwrap_model(model)
    weights = find_weights(source if isinstance(source, Mapping) else read_state(source))
    by_name = not strict and not _takes_meta(model, weights.meta, strict)
    candidate, matched = best_candidate(weights, model, by_name)
    if matched.count == 0 or (strict and (_other_classes(model, weights.meta) or not matched.is_complete)):
        raise CheckpointError(_mismatch_message(weights, candidate, matched, model))
    meta = _meta_of_outputs(model, weights, candidate, strict)
    tensors = {**matched.loaded, **matched.adapted}
    broken = not_finite(tensors)
    if broken:
        text = f"NaN or infinite values in {pluralize(len(broken), 'tensor')}: {abbreviate(broken)}"
        warnings.warn(f"{weights.source} has {text}", stacklevel=2)
    model.load_state_dict(tensors, strict=False)
    if isinstance(model, Model) and meta is not None:
        model.meta = meta
    warn_about_settings(model, weights.source, candidate.settings, candidate.guesses)
    warn_about_normalization(model, weights.source)
    is_backbone = isinstance(model, Backbone)
    lost = [name for name in candidate.unsupported if name.startswith("backbone.") or not is_backbone]
    if lost:
        text = f"{weights.source}: Chordate has no counterpart of {', '.join(lost)}, so predictions are wrong"
        warnings.warn(text, stacklevel=2)
    computed = {name: candidate.notes[name] for name in matched.loaded if name in candidate.notes}
    return LoadReport(
        source=weights.source,
        format=candidate.format,
        loaded=[name for name in matched.loaded if name not in computed],
        adapted=[*computed, *matched.adapted],
        skipped=[*matched.mismatched, *matched.unexpected, *matched.skipped, *candidate.left_out],
        missing=[*matched.missing, *matched.mismatched],
        meta=candidate.meta,
        notes={**computed, **matched.notes, **{name: _note(*shapes) for name, shapes in matched.mismatched.items()}},
        settings=candidate.settings,
    )


def load_pretrained(model: nn.Module) -> list[LoadReport]:
    """Load the `pretrained` weights of every backbone in `model`; True means the backbone's `default_weights`.

    Raises:
        CheckpointError: as in `load_checkpoint`; or `pretrained` is True for a backbone without default weights.
        DownloadError: a download failed; the message says how to load a local file, and how to train from scratch.
    """
    reports = []
    for path, backbone in find_backbones(model):
        if not backbone.pretrained:
            continue
        source = backbone.default_weights if backbone.pretrained is True else backbone.pretrained
        if source is None:
            raise CheckpointError(_no_default_weights(path, backbone))
        try:
            reports.append(load_checkpoint(backbone, source))
        except DownloadError as error:
            setting = f"model.{path}.pretrained" if path else "pretrained"
            remedy = f"set {setting} to a local file, or train from scratch ({scratch_settings(path, backbone)})"
            raise DownloadError(f"{error}; or {remedy}") from error
        # `load_checkpoint` has compared the backbone's own settings; the image settings belong to the whole model.
        own = {name: value for name, value in reports[-1].settings.items() if name.startswith("preprocess.")}
        warn_about_settings(model, str(source), own)
        warn_about_normalization(model, str(source))
    return reports


def scratch_settings(path: str, backbone: Backbone) -> str:
    """The settings that train a backbone from random weights: no frozen stages, and BN instead of FrozenBN."""
    settings = ["pretrained=False"]
    if any(isinstance(part, FrozenBatchNorm) for part in backbone.modules()):
        settings.append("norm=BN")
    if backbone.frozen_stages != -1:
        settings.append("frozen_stages=-1")
    return " ".join(["--cfg-options", *(f"model.{path}.{each}" for each in settings)] if path else settings)


def _no_default_weights(path: str, backbone: Backbone) -> str:
    """Error message: how to train from scratch, how to set other weights, and a similar backbone that has weights."""
    title, setting = _title(backbone), f"model.{path}." if path else ""
    with_weights = [name for name, variant in BACKBONES.variants.items() if variant.get("default_weights")]
    depth = re.search(r"\d+", title)
    close = near_names(f"resnet{depth[0] if depth else 50}", with_weights)
    return (
        f"{title}: pretrained=True, but it has no default weights; train it from scratch "
        f"({scratch_settings(path, backbone)}), set {setting}pretrained to a checkpoint's path or URL, "
        f"or use {close[0] if close else 'resnet50'}, which has weights"
    )


def _note(theirs: str, ours: str) -> str:
    return "no name in common" if theirs == ours else f"{theirs} for {ours}"


def _unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel or torch.compile."""
    for name in ("_orig_mod", "module"):
        inner = model._modules.get(name)
        if inner is not None and len(model._modules) == 1:
            return _unwrap_model(inner)
    return model


def _meta_of_outputs(model: nn.Module, weights: Weights, candidate: Candidate, strict: bool) -> DatasetMeta | None:
    """The metadata that the model takes from the checkpoint; None if it keeps its own.

    Class names that are inferred from the number of classes (see `Format.has_names`) do not replace other names; they
    only change the order of the model's names, if both sets of names are equal.

    Raises:
        CheckpointError: the classes differ in name or order, but the model has stuff classes and is built for its own
            order.
    """
    if weights.meta is not None:
        return weights.meta if _takes_meta(model, weights.meta, strict) else None
    theirs = candidate.meta
    if not strict or theirs is None or not isinstance(model, Model) or len(theirs.classes) != len(model.classes):
        return None
    if theirs.classes == model.classes or not (candidate.has_names or {*theirs.classes} == {*model.classes}):
        return None
    meta = replace(model.meta, classes=theirs.classes, palette=None)
    difference = f"{weights.source} was trained on {theirs.difference(model.meta)}"
    if model.meta.stuff:
        raise CheckpointError(f"{difference}; load_checkpoint(…, strict=False) matches classes by name")
    if has_names(model.meta):
        warnings.warn(f"{difference}; the checkpoint's classes replace the model's classes", stacklevel=3)
    return meta


def _takes_meta(model: nn.Module, meta: DatasetMeta | None, strict: bool) -> bool:
    """Whether to replace the model's metadata with the checkpoint's.

    The number of classes, the number of keypoints (if the model has keypoints) and the model's `extra` entries must be
    equal in both. Unless `strict`, the model must also have classes, and these must be unnamed.
    """
    if meta is None or not isinstance(model, Model):
        return False
    if not strict and (has_names(model.meta) or not model.classes):
        return False
    theirs, ours = meta.facts(), model.meta.facts()
    same_keypoints = ours.get("num_keypoints") in (None, theirs.get("num_keypoints"))
    same_classes = theirs.get("num_classes") == ours.get("num_classes")
    same_facts = all(meta.extra.get(name) == value for name, value in model.meta.extra.items())
    return same_classes and same_keypoints and same_facts


def _other_classes(model: nn.Module, meta: DatasetMeta | None) -> bool:
    return meta is not None and isinstance(model, Model) and len(meta.classes) != len(model.classes)


def _title(model: nn.Module) -> str:
    return (model.name if isinstance(model, Backbone) else "") or type(model).__name__


def _mismatch_message(weights: Weights, candidate: Candidate, matched: StateDictMatch, model: nn.Module) -> str:
    """Error message: why the checkpoint does not fit this model, and the remedy."""
    title, source = _title(model), weights.source
    for path, backbone in find_backbones(model):
        if not path:
            continue
        for_backbone, backbone_match = best_candidate(weights, backbone)
        only_backbone = backbone_match.is_complete and not for_backbone.left_out and not matched.mismatched
        if only_backbone and matched.count <= backbone_match.count:
            return (
                f"{source} has weights only for the backbone of {title}; set the backbone's pretrained=… or call "
                f"load_checkpoint(model.{path}, …)"
            )
    if matched.count == 0 and not matched.mismatched:
        known = ", ".join(dict.fromkeys(["chordate", "state dict", *(format.library for format in formats())]))
        return (
            f"{source} belongs to another model: none of its tensors fits {title}; it has "
            f"{abbreviate(list(weights.state))}, the model has {abbreviate(list(model.state_dict()))} "
            f"(known formats: {known})"
        )
    total = matched.count + len(matched.missing) + len(matched.mismatched)
    problems = [f"{matched.count} of {total} tensors fit", matched.problems()]
    if isinstance(model, Model) and weights.meta and _other_classes(model, weights.meta):
        counts = f"{pluralize(len(weights.meta.classes), 'class')}, the model has {len(model.classes)} (meta.classes)"
        problems.insert(0, f"it was trained on {counts}")
    if options := overrides(model, candidate.settings):
        problems.append(f"it was trained with other settings, set --cfg-options {' '.join(options)}")
    if weights.is_own and isinstance(model, Model) and not _other_classes(model, weights.meta):
        saved = _saved_config(source) or "the config in the folder of its run"
        problems.append(f"if it was trained with --cfg-options, repeat them, or use {saved}")
    elif matched.count:
        problems.append("load_checkpoint(…, strict=False), or --load-from in training, loads only the tensors that fit")
    return f"{source} ({candidate.format}) does not fit {title}: " + "; ".join(filter(None, problems))


def _saved_config(source: str) -> Path | None:
    """The newest config that a run saved in the folder of a checkpoint: `work_dirs/x/20260131_120000/x.py`."""
    path = Path(source)
    starts = f"{'[0-9]' * 8}_{'[0-9]' * 6}"
    return max(path.parent.glob(f"{starts}/*.py"), default=None) if path.is_file() else None
