"""Converts anchor sizes of other frameworks to the arguments of AnchorGenerator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# Default anchor sizes of Chordate's RPN and RetinaHead, as multiples of the stride.
FPN_SIZES = (8.0,)
RETINA_SIZES = tuple(4 * 2 ** (octave / 3) for octave in range(3))


def anchor_arguments(
    sizes: Sequence[Sequence[float]], strides: Sequence[float], ratios: Sequence[float], default: Sequence[float]
) -> dict[str, Any]:
    """AnchorGenerator's arguments for anchors of these sizes; sizes equal to `default` are left out.

    Args:
        sizes: for each level, the square roots of the anchors' areas, in pixels.
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
