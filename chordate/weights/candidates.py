"""Candidate state dicts of a checkpoint: all or some of its tensors, unchanged or converted by a matching format."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import nn

from chordate.contracts import Backbone, Library
from chordate.errors import CheckpointError
from chordate.head_contracts import HasFinalLayers
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.text import one_line
from chordate.weights.class_rows import RowMatcher
from chordate.weights.find_weights import Weights
from chordate.weights.formats.classifiers import network_meta, split_network
from chordate.weights.formats.format import Format, State
from chordate.weights.state_dict_match import StateDictMatch, match

# Prefixes that wrappers add to tensor names. EMA weights are preferred, so their prefixes are first, and `teacher.`
# (the EMA of the student) precedes `student.`. DDP adds `module.`, and Lightning modules often add `model.`, `net.` or
# `network.`. Another first part that all names share is a prefix, too (`detector.`).
_PREFIXES = (
    *("model_ema.", "ema_model.", "averaged_model.", "ema."),
    *("module.", "model.", "net.", "network.", "teacher.", "student."),
)
# Parts that torch.compile, FSDP and activation checkpointing add anywhere in tensor names.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_MAX_PREFIXES = 4  # limit on the prefixes of one name; `model._orig_mod.module.` has 3
_MAX_PARTS = 32  # limit on the prefixes tried, since each format tries them all; real files have at most about 10


@dataclass(frozen=True)
class Candidate:
    """A state dict to match with a model: unchanged, or converted to the model's tensor names.

    Attributes:
        format: name of the checkpoint's format in reports.
        state: tensors by name.
        meta: classes and keypoints of the outputs, if known.
        has_names: whether the checkpoint contains the names of the classes, see `Format.has_names`.
        left_out: names of the checkpoint's tensors that are not in `state`.
        settings: settings that the weights were trained with, see `Format.settings`.
        guesses: which of the settings are guessed, see `Format.guesses`.
        unsupported: the library's settings that Chordate lacks, see `Format.unsupported`.
        notes: how tensors were computed, see `Format.notes`.
    """

    format: str
    state: State
    meta: DatasetMeta | None = None
    has_names: bool = False
    left_out: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    guesses: str = ""
    unsupported: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def best_candidate(weights: Weights, model: nn.Module, by_name: bool = False) -> tuple[Candidate, StateDictMatch]:
    """Find the candidate with the most tensors that fit the model. Returns the candidate and its StateDictMatch.

    If no tensor of any candidate fits, the candidate with the most mismatched tensors is returned.

    Args:
        weights: the weights of the checkpoint.
        model: the model to load, or a backbone.
        by_name: whether to match outputs by class name if the classes of the model and the checkpoint differ.

    Raises:
        CheckpointError: a format recognizes the names in the state dict, but cannot convert the tensors.
    """
    matches = []
    for candidate in _candidates(weights, model):
        rows = RowMatcher(model, candidate.meta) if by_name else None
        matches.append((candidate, match(model, candidate.state, rows)))
    return max(matches, key=lambda pair: (pair[1].count, pair[1].count == 0 and len(pair[1].mismatched)))


def formats(contents: Mapping[Any, Any] = MappingProxyType({})) -> list[Format]:
    """Build one object of every registered format; `contents` are the entries of a checkpoint besides its tensors."""
    return [FORMATS.build(name, facts={"contents": contents}) for name in FORMATS.names()]


def conversions(format: Format, state: State, model: nn.Module) -> list[State]:
    """Convert a library's state dict: returns the result, and the variants that `best_candidate` also tries."""
    candidate = Candidate(format.library, format.convert(state, model))
    return [variant.state for variant in _variants(candidate, model)]


def _candidates(weights: Weights, model: nn.Module) -> Iterator[Candidate]:
    library = model.library if isinstance(model, Backbone) else None
    names = [*model.state_dict(), *(library.tensors if library else ())]
    known = () if weights.is_own else formats(weights.contents)
    for state, left_out in without_prefixes(weights.state, names):
        for format in known:
            if format.recognizes(state):
                candidate = _convert(format, state, weights, model)
                yield from _variants(replace(candidate, left_out=left_out), model)
        plain = Candidate("chordate" if weights.is_own else "state dict", state, weights.meta, weights.is_own, left_out)
        yield from _variants(plain, model)


def _convert(format: Format, state: State, weights: Weights, model: nn.Module) -> Candidate:
    try:
        meta = weights.meta or format.meta(state, model)
        converted = format.convert(state, model)
        return Candidate(
            format.library,
            converted,
            meta,
            format.has_names(state),
            settings=format.settings(state),
            guesses=format.guesses(state),
            unsupported=format.unsupported(state),
            notes=format.notes(state),
        )
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {one_line(error, 160)}"
        raise CheckpointError(
            f"{weights.source} has tensor names of {format.library} ({type(format).__name__}), but cannot be "
            f"converted: {reason}"
        ) from error


def _variants(candidate: Candidate, model: nn.Module) -> Iterator[Candidate]:
    """Yield the candidate, and variants of it: if `model` has a backbone and a head, a library's classifier is split
    into the two; if `model` is a backbone, only the backbone's tensors are kept."""
    yield candidate
    state, backbone = candidate.state, model._modules.get("backbone")
    for path, head in model.named_modules():
        if not (isinstance(backbone, Backbone) and isinstance(head, HasFinalLayers)):
            continue
        trunk = f"backbone.{backbone.library.prefix if backbone.library else ''}"
        final: dict[str, str] = {role: f"{path}.{name}" for role, name in head.final_layers.items()}
        yield replace(candidate, state=split_network(state, trunk, final), meta=candidate.meta or network_meta(state))
    if isinstance(model, Backbone):
        if model.library is not None:
            yield _library_part(candidate, model, model.library)
        part = {name.removeprefix("backbone."): state[name] for name in state if name.startswith("backbone.")}
        if part:
            left_out = [name for name in state if not name.startswith("backbone.")]
            notes = {name.removeprefix("backbone."): note for name, note in candidate.notes.items()}
            yield replace(candidate, state=part, left_out=[*candidate.left_out, *left_out], notes=notes)


def _library_part(candidate: Candidate, backbone: Backbone, library: Library) -> Candidate:
    """Drop the tensors of a library's network that `backbone` lacks; add `library.prefix` to the other names."""
    ours, state = backbone.state_dict(), candidate.state
    left_out = [name for name in state if name in library.tensors and library.prefix + name not in ours]
    part = {library.prefix + name: state[name] for name in state if name not in left_out}
    return replace(candidate, format=library.name, state=part, left_out=[*candidate.left_out, *left_out])


def without_prefixes(state: State, names: Collection[str] = ()) -> Iterator[tuple[State, list[str]]]:
    """For each prefix (or sequence of prefixes), yield two values: the tensors whose names start with it, with the
    prefix removed, and the names of all other tensors. Finally, yield all tensors, and no names. The parts that
    wrappers add to names (`_WRAPPERS`) are removed in all cases.

    An untrusted file may have thousands of prefixes, so only those with the most tensors are tried (`_MAX_PARTS`).

    Args:
        state: tensors by name.
        names: names of the model's tensors; a prefix that one of them starts with is not removed.
    """
    prefixes = [prefix for prefix in _PREFIXES if not any(name.startswith(prefix) for name in names)]

    def parts(part: dict[str, str], depth: int) -> Iterator[dict[str, str]]:
        for prefix in (*prefixes, *_shared_prefix(part, names)) if depth < _MAX_PREFIXES else ():
            inner = {name.removeprefix(prefix): full for name, full in part.items() if name.startswith(prefix)}
            if inner:
                yield from parts(inner, depth + 1)
        yield part

    found = list(parts(_without_wrappers(state, names), 0))
    largest = {id(part) for part in heapq.nlargest(_MAX_PARTS, found, key=len)}
    for part in found:
        if id(part) not in largest:
            continue
        kept = set(part.values())
        yield {name: state[full] for name, full in part.items()}, [name for name in state if name not in kept]


def _without_wrappers(state: State, names: Collection[str]) -> dict[str, str]:
    """Dict from each tensor's name without the parts in `_WRAPPERS` to its name in `state`. Parts that are in the
    model's `names` are kept, and all are kept if two tensors would have the same name."""
    wrappers = [wrapper for wrapper in _WRAPPERS if not any(wrapper in name for name in names)]
    unwrapped: dict[str, str] = {}
    for full in state:
        name = full
        for wrapper in wrappers:
            name = name.replace(wrapper, "")
        unwrapped[name] = full
    return unwrapped if len(unwrapped) == len(state) else {name: name for name in state}


def _shared_prefix(part: Collection[str], names: Collection[str]) -> list[str]:
    """The first part of all tensor names, if they share one that is neither in `_PREFIXES` nor in the model's `names`,
    nor `backbone.`, which says that the tensors are those of a backbone."""
    prefix, dot, _ = next(iter(part), "").partition(".")
    prefix += dot
    if not dot or prefix in (*_PREFIXES, "backbone.") or not all(name.startswith(prefix) for name in part):
        return []
    return [] if any(name.startswith(prefix) for name in names) else [prefix]
