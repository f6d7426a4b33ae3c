"""Converts anchor sizes of other frameworks to the arguments of AnchorGenerator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

FPN_SIZES = (8.0,)  # Chordate's default sizes of an RPN, as multiples of the stride
RETINA_SIZES = tuple(4 * 2 ** (octave / 3) for octave in range(3))  # and of RetinaHead


def anchor_arguments(
    sizes: Sequence[Sequence[float]], strides: Sequence[float], ratios: Sequence[float], default: Sequence[float]
) -> dict[str, Any]:
    """The arguments for anchors with `sizes` in pixels for each level; sizes equal to `default` are left out.

    Args:
        sizes: for each level, the square roots of the anchors' areas.
        strides: stride of each level.
        ratios: height / width.
        default: sizes that the head has by default, as multiples of the stride.
    """
    relative = [[size / stride for size in level] for level, stride in zip(sizes, strides, strict=True)]
    if all(_close(level, default) for level in relative):
        return {"ratios": list(ratios)}
    if len(strides) > 1 and all(_close(level, relative[0]) for level in relative):
        return {"sizes_per_stride": relative[0], "ratios": list(ratios)}
    return {"sizes": [list(level) for level in sizes], "ratios": list(ratios)}


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(one, other))
