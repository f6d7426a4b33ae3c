"""The random number generators of a process: saved as plain values, preserved while other code draws."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]  # tensors and plain numbers only, so that it loads without unpickling anything


def rng_state() -> State:
    """The states of Python's, numpy's and torch's generators (and of the current CUDA device's)."""
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


def set_rng_state(state: State) -> None:
    """Put every generator back to where `rng_state` found it."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(("MT19937", numpy["key"].numpy().astype(np.uint32), *numpy["rest"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Within it, drawing random numbers does not change the state of this process's generators afterwards."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
