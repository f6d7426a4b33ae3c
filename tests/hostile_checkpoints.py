"""Makes hostile checkpoints from a valid one, for the tests of untrusted files: one per kind of attack or damage."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hostile_archives import Write, archives, members, other_files, safetensors_files, write_members
from hostile_pickles import pickles
from torch import nn

NAN, INF = float("nan"), float("inf")


class Call:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Hiding:
    """An object whose pickle makes an OrderedDict with attributes that hide its methods."""

    def __init__(self, values: dict[str, Any], names: tuple[str, ...]):
        self.values, self.attributes = values, dict.fromkeys(names, 3)

    def __reduce__(self) -> Any:
        return OrderedDict, (), self.attributes, None, iter(self.values.items())


def changed(state: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested dicts and lists in which the value at the path `keys` is replaced or added."""
    if not keys:
        return value
    items = state.items() if isinstance(state, dict) else enumerate(state)
    new = {key: changed(item, keys[1:], value) if key == keys[0] else item for key, item in items}
    if keys[0] not in new:
        new[keys[0]] = changed({}, keys[1:], value)
    return new if isinstance(state, dict) else list(new.values())


def save(state: Any, **options: Any) -> Write:
    return lambda path: torch.save(state, path, **options)


def code(canary: Path, state: dict[str, Any]) -> Iterator[tuple[str, Write]]:
    """Pickles that run code."""
    touch = f"open({str(canary)!r}, 'w')"
    calls = {
        "system": Call(os.system, f"touch {canary}"),
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "mkdir": Call(os.mkdir, str(canary)),
        "Popen": Call(subprocess.Popen, ["touch", str(canary)]),
        "rmtree": Call(shutil.rmtree, str(canary.parent)),
        "remove": Call(os.remove, str(canary.parent / "precious.txt")),
        "getattr": Call(getattr, Call(__import__, "os"), "getcwd"),
    }
    for name, call in calls.items():
        yield f"code {name} at the top", save(call)
        yield f"code {name} in the weights", save(changed(state, ("model", "head.fc.bias"), call))
        yield f"code {name} in the training state", save(changed(state, ("train", "files"), call))
        yield f"code {name} in an old file", save({"model": call}, _use_new_zipfile_serialization=False)
        yield f"code {name} in a pickle", lambda path, call=call: path.write_bytes(pickle.dumps({"model": call}))
    yield "code in the config", save({**state, "config": touch, "model": {"x": Call(exec, touch)}})


def tensors(state: dict[str, Any]) -> Iterator[tuple[str, Write]]:
    """Unusual tensors and other values in place of weights, momenta and random states, and unknown weights."""
    kinds: dict[str, Any] = {
        "sparse": torch.ones(2, 2).to_sparse(),
        "csr": torch.ones(2, 2).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
        "meta": torch.ones(3, device="meta"),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "huge": torch.ones(1).expand(10**12),
        "huge in two dimensions": torch.ones(1, 1).expand(10**6, 10**6),
        "NaN": torch.full((3,), NAN),
        "infinite": torch.full((3,), INF),
        "text": "zeros",
        "None": None,
        "list": [1.0],
        "other shape": torch.ones(7, 7, 7),
    }
    places = {
        "model": ("model", "head.fc.bias"),
        "ema": ("ema", "head.fc.bias"),
        "momentum": ("train", "optimizer", "state", "head.fc.bias", "momentum_buffer"),
        "random state": ("train", "rng", 0, "torch"),
    }
    for kind, tensor in kinds.items():
        for place, keys in places.items():
            name = f"{kind} as {place}"
            yield f"resume: {name}" if place == "momentum" else name, save(changed(state, keys, tensor))
    momenta = {name: {"momentum_buffer": torch.zeros(1)} for name in state["train"]["optimizer"]["state"]}
    yield "resume: all momenta of one element", save(changed(state, ("train", "optimizer", "state"), momenta))
    yield "an unknown weight", save(changed(state, ("model", "more"), torch.ones(3)))
    yield "a number as a weight's name", save(changed(state, ("model", 3), torch.ones(3)))
    yield "a negative position", save(changed(state, ("train", "rng", 0, "numpy", "rest"), [-1, 0, 0.0]))
    yield "a huge flag of numpy's generator", save(changed(state, ("train", "rng", 0, "numpy", "rest", 1), 2**70))
    yield "a position past the end", save(changed(state, ("train", "rng", 0, "numpy", "rest"), [10**6, 0, 0.0]))
    words = torch.full((624,), -1)
    yield "negative words", save(changed(state, ("train", "rng", 0, "numpy", "key"), words))
    yield "a wrong index", save(changed(state, ("train", "rng", 0, "python", "words"), torch.full((625,), 2**31)))


def containers(state: dict[str, Any]) -> Iterator[tuple[str, Write]]:
    """Containers that contain themselves or one list many times, are nested too deeply, or hide their methods."""
    endless: dict[str, Any] = {}
    endless["model"] = endless
    yield "a dict in itself", save(endless)
    loop: list[Any] = []
    loop.append(loop)
    yield "history in itself", save(changed(state, ("train", "history"), loop))
    yield "momentum in itself", save(changed(state, ("train", "optimizer", "groups"), [{"x": loop}]))
    bomb: list[Any] = []
    for _ in range(28):
        bomb = [bomb] * 10
    yield "a list of lists of the same list", save(changed(state, ("meta", "extra"), {"x": bomb}))
    yield "deep tuples", deep_pickle(state)
    hiding = Hiding(state["model"], ("items", "get", "values", "keys"))
    yield "valid: an OrderedDict that hides its methods", save({**state, "model": hiding})
    yield "a Counter", save({**state, "model": Counter(a=3)})
    weight = nn.Parameter(torch.ones(3))
    weight.numel = weight.detach = 5  # type: ignore[assignment]
    yield "valid: a tensor with attributes", save(changed(state, ("model", "head.fc.bias"), weight))


def deep_pickle(state: dict[str, Any]) -> Write:
    """A checkpoint file whose pickle has tuples nested 3000 levels deep."""

    def write(path: Path) -> None:
        torch.save(state, path)
        content = members(path)
        name = next(name for name in content if name.endswith("data.pkl"))
        content[name] = b"\x80\x02" + b"}" + b"X\x05\x00\x00\x00model" + b"}" + b"\x85" * 3000 + b"s."
        write_members(path, list(content.items()))

    return write


def fields(state: dict[str, Any]) -> Iterator[tuple[str, Write]]:
    """Fields with values of wrong types or ranges, and missing and unknown fields."""
    for name in ("iteration", "steps_per_epoch", "evaluated", "losses", "optimizer", "files", "history", "rng", "best"):
        for value in ("x", 2**70, NAN, [{}], {3: 4}, True):
            yield f"train.{name} is {value}", save(changed(state, ("train", name), value))
        train = {key: item for key, item in state["train"].items() if key != name}
        yield f"train.{name} is missing", save({**state, "train": train})
    for name in ("model", "meta", "config", "train", "ema"):
        for value in (3, [1], "x" if name != "config" else b"x"):
            yield f"{name} is {value!r}", save({**state, name: value})
    for form in (-1, 3, "2", None, 2.0, [2]):
        yield f"the form is {form!r}", save({**state, "chordate": form})
    yield "an unknown key", save({**state, "more": 1})
    yield "an unknown key of train", save(changed(state, ("train", "more"), 1))
    yield "an unknown key of meta", save(changed(state, ("meta", "more"), 1))
    yield "resume: groups set the parameters", save(changed(state, ("train", "optimizer", "groups"), [{"params": []}]))
    yield "resume: groups set the learning rate", save(changed(state, ("train", "optimizer", "groups"), [{"lr": 1e9}]))
    yield "history with a huge integer", save(changed(state, ("train", "history", 0, "loss"), 10**400))
    for name, value in {
        "classes": [3, 4],
        "skeleton": {"names": ["a"], "bones": [[0, 9]]},
        "palette": [[300, 0, 0]] * 3,
        "stuff": 3,
        "ignore_label": 10**30,
        "extra": {"num_classes": 10**9},
    }.items():
        yield f"meta.{name} is {value!r:.30}", save(changed(state, ("meta", name), value))


def files_to_delete(state: dict[str, Any], canary: Path) -> Iterator[tuple[str, Write]]:
    """Valid checkpoints that name, in `train.files` or `train.best`, files that a run must not delete.

    A run can be resumed from these checkpoints.
    """
    outside = canary.parent / "precious.txt"
    for number, name in enumerate(
        ["../precious.txt", str(outside), "notes.txt", "best_other.pt", "", ".", "..", "*.pt", "~/x", "x\0y", "a" * 500,
         "epoch_1.pt/../../precious.txt", "./notes.txt", "iteration_2.pt/../notes.txt", "epoch_x.pt", "\u0665.pt"]
    ):  # fmt: skip
        files = [name] * 3 + ["iteration_2.pt"]
        yield f"valid: deletes {number} {name!r:.40}", save(changed(state, ("train", "files"), files))
    best = {"metric": "../../precious", "score": 0.0, "iteration": 1}
    yield "valid: best names a path", save(changed(state, ("train", "best"), best))


def names(state: dict[str, Any]) -> Iterator[tuple[str, Write]]:
    """Names with markup, escape sequences and line breaks, in files that are otherwise valid."""
    for number, name in enumerate(
        ["[/red]", "[red]x", "\x1b[31mred", "a\nTraceback (most recent call last):", "x" * 10**6]
    ):
        classes = [name, *state["meta"]["classes"][1:]]
        yield f"names: class {number}", save(changed(state, ("meta", "classes"), classes))
        yield f"names: weight {number}", save(changed(state, ("model", name), torch.full((2,), NAN)))
        yield f"names: bare weight {number}", save({name: torch.ones(2)})
        yield f"names: log {number}", save(changed(state, ("train", "history", 0, name), 1.0))
    yield "names: a lone surrogate", save(changed(state, ("meta", "classes"), ["\ud800", "b", "c"]))


def corpus(base: Path, canary: Path) -> dict[str, Write]:
    """Functions that write the hostile files, keyed by name. The start of a name says what is expected of the file.

    "valid": must be accepted; "names": may be accepted or refused; "resume": must be refused when a run is resumed, but
    may be accepted by other commands, as the check needs the optimizer; any other start: must be refused.

    Args:
        base: a training checkpoint with all fields.
        canary: the path that hostile code creates if it is run.
    """
    state = torch.load(base, weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that some of these kinds of tensors are deprecated
        unusual = list(tensors(state))
    kinds = [
        code(canary, state), unusual, containers(state), fields(state), files_to_delete(state, canary),
        names(state), archives(base), other_files(base), safetensors_files(), pickles(canary),
    ]  # fmt: skip
    return {name: write for kind in kinds for name, write in kind}
