"""Seeds the random number generators of a process with a key, and saves and restores their states."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand  # numpy.random's stubs do not export get_bit_generator

_spare: list[np.random.MT19937] = []  # numpy generators to reuse: swapping generators is far faster than copying states


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Context manager: seeds torch's (CPU), numpy's and Python's generators with `key`, and restores them on exit.

    The same key yields the same random numbers in every process. Only torch's CPU generator is seeded;
    `torch.manual_seed` would also seed the generators of all CUDA devices.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    torch_state, numpy_generator, python_state = torch.get_rng_state(), mtrand.get_bit_generator(), random.getstate()
    own = _spare.pop() if _spare else np.random.MT19937()
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
    mtrand.set_bit_generator(own)
    np.random.seed(words[2])
    random.seed(int(words[3]))
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        mtrand.set_bit_generator(numpy_generator)
        _spare.append(own)
        random.setstate(python_state)


def rng_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators (CPU and current CUDA device).

    They consist of tensors and numbers, so that `torch.load` can read them with `weights_only=True`.
    """
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "rest": [int(numpy["state"]["pos"]), int(numpy["has_gauss"]), float(numpy["gauss"])],
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore all generators to the states that `rng_state` returned."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(("MT19937", numpy["key"].numpy().astype(np.uint32), *numpy["rest"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Context manager: restores all generators on exit, so random numbers drawn inside do not change later ones."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
