"""Loads a checkpoint into a model, whosever names it uses, and says what became of every tensor."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chordate.contracts import Backbone, Library
from chordate.errors import CheckpointError
from chordate.libraries import timm_for
from chordate.structures import Skeleton
from chordate.weights.formats import timm, torchvision
from chordate.weights.formats.classifiers import as_classifier
from chordate.weights.formats.format import State
from chordate.weights.load_report import LoadReport, some
from chordate.weights.reading import Contents, read_state
from chordate.weights.state_dict_match import Fit, fit, not_finite

FORMATS = (torchvision.FORMAT, timm.FORMAT)
# What is read of a checkpoint of our own, and what it must be.
_PARTS = {"model": Mapping, "ema": Mapping | None, "classes": list | tuple | None, "skeleton": Mapping | None}
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile, Lightning


def load_checkpoint(model: nn.Module, source: str | Path | Mapping[str, Any], *, strict: bool = True) -> LoadReport:
    """Load weights into `model`; the format is found out from the names.

    Known are Chordate's own checkpoints (with averaged weights, those are taken), the state dict of the
    same model, bare or wrapped, and the formats in `FORMATS`. A backbone also takes its part out of a whole
    model's checkpoint. The model is changed only if no error is raised. A checkpoint of ours sets
    `model.classes`, and `model.skeleton` where it finds keypoints.

    Args:
        model: a whole model or a backbone.
        source: what `read_state` reads, what it returned, or a state dict.
        strict: every tensor of the model must be filled, and the checkpoint may not contradict the model;
            whole parts that the model does not have are skipped. False loads what fits, for example into a
            detector for other classes, which then keeps its own `classes`.

    Raises:
        CheckpointError: the checkpoint cannot be read or is of another model.
    """
    contents = source if isinstance(source, Mapping) else read_state(source)
    where = contents.source if isinstance(contents, Contents) else "the state dict"
    model = _unwrap_model(model)
    state, classes, own = _unwrap(contents, where)
    state = _without_prefix(state, model)
    name, found, left_out = _best(state, model, "chordate" if own else "state dict")
    ours = getattr(model, "classes", None)
    other_classes = bool(classes and ours and len(classes) != len(ours))

    if found.count == 0 or (strict and (other_classes or not found.whole)):
        raise CheckpointError(_misfit(where, name, found, state, model, classes))
    tensors = {**found.loaded, **found.adapted}
    broken = not_finite(tensors)
    if broken:
        warnings.warn(f"{where}: NaN or infinite values in {len(broken)} tensors: {some(broken)}", stacklevel=2)
    model.load_state_dict(tensors, strict=False)
    _compare_colours(model, where)
    if classes and hasattr(model, "classes") and (strict or not model.classes):
        model.classes = classes  # type: ignore[assignment]
    skeleton = contents.get("skeleton") if own else None
    if skeleton and getattr(model, "keypoint", None) is not None and (strict or not model.skeleton):
        model.skeleton = Skeleton.from_dict(skeleton)  # type: ignore[assignment]
    return LoadReport(
        source=where,
        format=name,
        loaded=list(found.loaded),
        adapted=list(found.adapted),
        skipped=[*found.misshapen, *found.foreign, *found.elsewhere, *left_out],
        missing=[*found.missing, *found.misshapen],
        classes=classes,
    )


def load_pretrained(model: nn.Module) -> list[LoadReport]:
    """Load what every backbone in `model` names in `pretrained`; True stands for its `default_weights`.

    Raises:
        CheckpointError: as `load_checkpoint`, or True for a backbone that has no default.
    """
    reports = []
    for backbone in model.modules():
        if isinstance(backbone, Backbone) and backbone.pretrained:
            source: Any = backbone.pretrained
            if isinstance(source, bool):
                source = backbone.default_weights
            if source is None:
                raise CheckpointError(
                    f"{_title(backbone)}: pretrained=True, but no weights are known for it; build the variant by its "
                    f'name ("resnet50"), or name the weights: "torchvision://…", "timm://…", a path or a URL'
                )
            reports.append(load_checkpoint(backbone, source))
            _compare_colours(model, str(source))
    return reports


def _compare_colours(model: nn.Module, source: str) -> None:
    """Warn where timm's weights were trained on other colours than the model makes of its images."""
    preprocess: Any = getattr(model, "preprocess", None)
    if preprocess is None or not source.startswith("timm://"):
        return
    name = source.removeprefix("timm://")
    cfg = timm_for(name, source).get_pretrained_cfg(name)
    for what in ("mean", "std"):
        wanted, ours = [round(255 * value, 3) for value in getattr(cfg, what)], getattr(preprocess, what).flatten()
        if len(ours) == len(wanted) and not torch.allclose(ours.cpu(), torch.tensor(wanted), atol=0.5):
            given = ", ".join(f"{value:g}" for value in ours.tolist())
            warnings.warn(
                f"{source} was trained with {what}={wanted}; the model has [{given}]: set model.{what}", stacklevel=2
            )


def _unwrap_model(model: Any) -> nn.Module:
    """The model inside DistributedDataParallel or torch.compile."""
    for name in ("_orig_mod", "module"):
        if name in model._modules and len(model._modules) == 1:
            return _unwrap_model(model._modules[name])
    return model


def _unwrap(contents: Mapping[str, Any], where: str) -> tuple[State, tuple[str, ...] | None, bool]:
    """The state dict in a checkpoint, the classes it names, and whether it is one of ours."""
    classes = None
    own = "chordate" in contents
    if own:
        if contents["chordate"] != 1:
            raise CheckpointError(f"{where} was written by a newer Chordate (form {contents['chordate']}); update it")
        for part, kinds in _PARTS.items():
            value = contents.get(part)
            if not isinstance(value, kinds):
                raise CheckpointError(
                    f"{where} is no whole Chordate checkpoint: its {part} is {type(value).__name__} data; "
                    f"take the file as training wrote it"
                )
        classes = tuple(contents.get("classes") or ()) or None
        weights = {**contents["model"], **(contents.get("ema") or {})}
    else:
        weights = dict(contents)
        while not any(isinstance(value, Tensor) for value in weights.values()):
            inner = next((weights[key] for key in _WRAPPERS if isinstance(weights.get(key), Mapping)), None)
            if inner is None:
                keys = some(list(weights), 5) or "nothing"
                raise CheckpointError(f"{where} holds no weights: neither tensors nor a state_dict, but {keys}")
            weights = dict(inner)
    state = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{where} holds no weights")
    return state, classes, own


def _without_prefix(state: State, model: nn.Module) -> State:
    """Take off what a wrapper put before every name, unless the model's names begin so too."""
    ours = model.state_dict()
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state) and not any(name.startswith(prefix) for name in ours):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _readings(state: State, model: nn.Module, plain: str) -> Iterator[tuple[str, State, list[str]]]:
    """Every way to read the state dict: the format's name, the tensors for the model, the names left out."""
    for format in FORMATS:
        if format.recognise(state):
            yield from _narrowed(format.name, format.convert(state, model), model)
    yield from _narrowed(plain, state, model)


def _narrowed(name: str, state: State, model: nn.Module) -> Iterator[tuple[str, State, list[str]]]:
    yield name, state, []
    if hasattr(model, "backbone") and hasattr(getattr(model, "head", None), "fc"):
        library = getattr(model.backbone, "library", None)
        yield name, as_classifier(state, f"backbone.{library.prefix if library else ''}"), []
    if isinstance(model, Backbone) and model.library is not None:
        yield _as_library(state, model, model.library)
    if isinstance(model, Backbone):
        part = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
        if part:
            yield name, part, [key for key in state if not key.startswith("backbone.")]


def _as_library(state: State, backbone: Backbone, library: Library) -> tuple[str, State, list[str]]:
    """The library's own state dict for a backbone that has a part of its network, under a prefix."""
    ours = backbone.state_dict()
    left_out = [name for name in state if name in library.tensors and library.prefix + name not in ours]
    return library.name, {library.prefix + name: state[name] for name in state if name not in left_out}, left_out


def _best(state: State, model: nn.Module, plain: str) -> tuple[str, Fit, list[str]]:
    """The reading of which most fits."""
    readings = [(name, fit(model, part), left_out) for name, part, left_out in _readings(state, model, plain)]
    return max(readings, key=lambda reading: reading[1].count)


def _title(model: nn.Module) -> str:
    return getattr(model, "name", None) or type(model).__name__


def _misfit(where: str, name: str, found: Fit, state: State, model: nn.Module, classes: tuple[str, ...] | None) -> str:
    """One line that says why the checkpoint is not for this model, and what to do."""
    total = found.count + len(found.missing) + len(found.misshapen)
    title = _title(model)
    for part_name, part in model.named_modules():
        if isinstance(part, Backbone) and part is not model:
            _, backbone_fit, left_out = _best(state, part, name)
            if left_out or not backbone_fit.whole:
                continue
            return (
                f"{where} has weights for the backbone of {title} only, not for the rest; set the backbone's "
                f"pretrained=… or call load_checkpoint(model.{part_name}, …)"
            )
    if found.count == 0:
        known = ", ".join(["chordate", "state dict", *(format.name for format in FORMATS)])
        return (
            f"{where} is of another model: no tensor of it fits {title}; it has {some(list(state))}, the model "
            f"{some(list(model.state_dict()))} (known formats: {known})"
        )
    ours = getattr(model, "classes", None)
    said = [f"{found.count} of {total} tensors fit", found.problems(), "strict=False would load only those that fit"]
    if classes and ours and len(classes) != len(ours):
        said.insert(0, f"it was trained on {len(classes)} classes, the model has {len(ours)}")
    return f"{where} ({name}) does not fit {title}: " + "; ".join(filter(None, said))
