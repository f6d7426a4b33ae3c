"""Changes a checkpoint file or its contents at random, for the fuzzer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hostile_archives import members, write_members

NAN, INF = float("nan"), float("inf")
VALUES = (None, "x", "", -1, 0, 2**70, 1.5, NAN, INF, True, b"x", [], {}, [1], {"a": 1}, (), torch.ones(2))


def paths(state: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths (tuples of keys) of all values in nested dicts and lists, containers before their items."""
    if prefix:
        yield prefix
    if isinstance(state, dict | list):
        for key, item in state.items() if isinstance(state, dict) else enumerate(state):
            yield from paths(item, (*prefix, key))


def mutate(base: Path, path: Path, seed: int) -> str:
    """Write a random mutation of a checkpoint to `path`; returns what was changed."""
    draw = random.Random(seed)
    kind = draw.choice(["bytes", "bytes", "members", "fields", "fields", "fields", "pickle"])
    if kind == "bytes":
        data = bytearray(base.read_bytes())
        for _ in range(draw.choice([1, 1, 3, 30])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
    elif kind in ("members", "pickle"):
        content = members(base)
        if kind == "pickle":  # the zip file is rewritten, so the checksum of the changed pickle is correct
            name = next(name for name in content if name.endswith("data.pkl"))
            data = bytearray(content[name])
            for _ in range(draw.choice([1, 1, 2, 5])):
                data[draw.randrange(len(data))] = draw.randrange(256)
            content[name] = bytes(data)
        else:
            first, second = draw.sample(list(content), 2)
            action = draw.choice(["swap", "drop", "copy", "cut"])
            kind = f"members {action}"
            if action == "swap":
                content[first], content[second] = content[second], content[first]
            elif action == "drop":
                del content[first]
            elif action == "copy":
                content[first] = content[second]
            else:
                content[first] = content[first][: draw.randrange(1 + len(content[first]))]
        write_members(path, list(content.items()))
    else:
        state = torch.load(base, weights_only=True)
        for _ in range(draw.choice([1, 1, 2])):
            chosen = draw.choice(list(paths(state)))
            parent = state
            for key in chosen[:-1]:
                parent = parent[key]
            action = draw.choice(["drop", "rename", "retype", "retype"])
            kind = f"{action} {chosen}"
            if action == "retype" or not isinstance(parent, dict):
                parent[chosen[-1]] = draw.choice(VALUES)
            else:
                value = parent.pop(chosen[-1])
                if action == "rename":
                    parent[draw.choice(["x", f"{chosen[-1]}_", 3, "[/red]\x1b"])] = value
        torch.save(state, path)
    return kind
