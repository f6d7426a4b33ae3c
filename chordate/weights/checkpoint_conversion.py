"""Converts whole checkpoints: recognizes networks of other libraries; writes files of Chordate and other libraries."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from chordate.errors import CheckpointError, unknown
from chordate.failures import disk_error
from chordate.model_contracts import Model
from chordate.text import printable
from chordate.weights.candidates import conversions, formats, without_prefixes
from chordate.weights.checkpoint_folder import to_cpu, write_atomically
from chordate.weights.checkpoint_schema import FORM
from chordate.weights.find_weights import Weights, find_weights
from chordate.weights.formats.format import Format, State
from chordate.weights.numerics import overrides, read_setting

OWN = "chordate"


def libraries() -> list[str]:
    """The names of the libraries whose checkpoints can be written; Chordate is the first."""
    return [OWN, *dict.fromkeys(format.library for format in formats())]


class Recognized(NamedTuple):
    """The config and the format of a checkpoint's weights, from `recognize`.

    Attributes:
        name: name of the network's config.
        overrides: overrides of this config, with dotted keys: the architecture, and the settings of `Format.settings`.
        format: the format that recognizes the weights.
        state: the weights with the library's names, without the prefixes of wrappers.
    """

    name: str
    overrides: dict[str, Any]
    format: Format
    state: State


def recognize(weights: Weights) -> Recognized:
    """Find the config of the network that has these weights, from the format that recognizes them.

    Raises:
        CheckpointError: no format recognizes the weights and knows their config, or a tensor has no elements.
    """
    empty = next((name for name, tensor in weights.state.items() if not tensor.numel()), None)
    if empty is not None:  # a tensor without elements can have any shape, so a tiny file could ask for a huge layer
        raise CheckpointError(
            f"{weights.source}: {printable(empty, 160)} has no elements, so the config is not inferred; name it: "
            f"--config CONFIG"
        )
    libraries: list[str] = []
    for state, _ in () if weights.is_own else without_prefixes(weights.state):
        for format in formats(weights.contents):
            if not format.recognizes(state):
                continue
            libraries.append(format.library)
            try:
                named = format.config(state)
            except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"{weights.source} has tensor names of {format.library}, but its architecture cannot be determined "
                    f"({error}); name its config: --config CONFIG"
                ) from error
            if named:
                name, architecture = named
                settings = {f"model.{key}": value for key, value in format.settings(state).items()}
                return Recognized(name, {**architecture, **settings}, format, state)
    kind = OWN if weights.is_own else libraries[0] if libraries else "unknown library"
    networks = "" if weights.is_own else " (docs/weights.md lists the networks that are recognized)"
    raise CheckpointError(
        f"{weights.source} ({kind}): its config cannot be determined; name it: --config CONFIG{networks}"
    )


def recognized_config(weights: Weights) -> tuple[str, dict[str, Any]]:
    """The name of the config of the network that has these weights, and overrides; see `recognize`."""
    recognized = recognize(weights)
    return recognized.name, recognized.overrides


def restored(model: Model, library: str) -> dict[str, Any]:
    """The contents of a checkpoint with the weights of `model` under the library's names.

    Raises:
        CheckpointError: the library is unknown, or has no format for this model.
    """
    known = libraries()
    if library not in known:
        raise CheckpointError(f"--to: {unknown('library', library, known)}")
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    reasons = []
    for format in formats():
        if format.library != library:
            continue
        try:
            theirs = format.restore(state, model)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        contents = format.checkpoint(theirs, model)
        if _comes_back(contents, type(format), state, model):
            return contents
        reasons.append(f"{type(format).__name__} would change the weights")
    raise CheckpointError(f"{type(model).__name__} cannot be written as {library}: {'; '.join(dict.fromkeys(reasons))}")


def settings_notes(contents: Mapping[str, Any], library: str, model: Model) -> list[str]:
    """Lines about the settings that another library needs, so that it predicts like `model`.

    Args:
        contents: from `restored`.
        library: name of the library.
        model: the model whose weights are in `contents`.
    """
    weights = find_weights(contents)
    format = next(
        format for format in formats(weights.contents) if format.library == library and format.recognizes(weights.state)
    )
    theirs = format.settings(weights.state)
    ours = {name: value for name in theirs if (value := read_setting(model, name)) is not None}
    ours = {
        name: [round(x, 4) for x in value.flatten().tolist()] if isinstance(value, Tensor) else value
        for name, value in ours.items()
    }
    notes = [f"in {library}, set {name}={value}" for name, value in format.options(ours).items()]
    fixed = {name: value for name, value in theirs.items() if not format.options({name: value})}
    notes += [f"{library} differs from this model: {option}" for option in overrides(model, fixed)]
    return notes


def own_contents(model: Model, config: str) -> dict[str, Any]:
    """The contents of a Chordate checkpoint with the weights of `model`; `config` is the text of its config."""
    return {
        "chordate": FORM,
        "model": to_cpu(model.state_dict()),
        "ema": None,
        "meta": model.meta.to_dict(),
        "config": config,
        "train": None,
    }


def write_checkpoint(path: Path, contents: Mapping[str, Any]) -> None:
    """Write the contents of a checkpoint with `torch.save`, or only its tensors if `path` ends with .safetensors.

    If `path` ends with .pkl, the file is a pickle of numpy arrays, as in Detectron2's model zoo.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        if path.suffix == ".safetensors":
            inner = next((value for value in contents.values() if isinstance(value, Mapping)), contents)
            tensors = {name: x.contiguous() for name, x in inner.items() if isinstance(x, Tensor)}
            write_atomically(path, lambda file: file.write(safetensors.torch.save(tensors)))
        elif path.suffix == ".pkl":
            arrays = {name: tensor.numpy() for name, tensor in contents["model"].items()}
            write_atomically(path, lambda file: pickle.dump({"model": arrays, "__author__": "Chordate"}, file))
        else:
            write_atomically(path, lambda file: torch.save(dict(contents), file))
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else disk_error(error)
        if cause is None:
            raise
        raise CheckpointError(f"{path}: cannot be written ({cause.strerror or cause})") from error


def _comes_back(contents: Mapping[str, Any], kind: type[Format], state: State, model: Model) -> bool:
    """Whether a format recognizes the contents of a checkpoint, and converts them to `state`."""
    weights = find_weights(contents)
    reader = next(format for format in formats(weights.contents) if type(format) is kind)
    return reader.recognizes(weights.state) and any(
        _same(ours, state) for ours in conversions(reader, weights.state, model)
    )


def _same(ours: State, state: State) -> bool:
    """Whether `ours` has the names and values of `state`; BatchNorm's counters are not compared and may be missing."""
    names = {name for name in state if not name.endswith("num_batches_tracked")}
    return names <= ours.keys() <= state.keys() and all(torch.equal(ours[name], state[name]) for name in names)
