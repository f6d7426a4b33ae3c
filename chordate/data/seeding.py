"""The one source of an augmentation's randomness: a key."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import mtrand  # where these functions have their types

_spare: list[np.random.MT19937] = []  # generators for numpy, since exchanging them is far cheaper than copying a state


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Within it, torch's (CPU), numpy's and Python's generators start from `key`; afterwards they are as before.

    The same key gives the same numbers in every process. torch's is set by its own generator:
    `torch.manual_seed` would set every CUDA device's too.
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
