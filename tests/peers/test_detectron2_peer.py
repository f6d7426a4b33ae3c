"""Random models of Detectron2 and the models that `chordate convert` makes of them predict the same.

Skipped without Detectron2; `tests/peers/README.md` describes how to build it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from compare_detectron2 import FAMILIES, IMAGES, compare
from differences import check

PHOTOS = sorted((Path(__file__).parents[1] / "data/bccd/JPEGImages").glob("*.jpg"))[:IMAGES]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_converted_models_predict_what_detectron2_predicts(family):
    """Boxes agree within 1e-2 pixels, scores within 1e-4, segments with an IoU above 0.99, keypoints within 1e-2
    pixels, feature maps and the outputs for all anchors within 0.1 % of a standard deviation, and Panoptic-DeepLab's
    logits, heatmaps and offsets within 0.01 %; at most 0.1 % of the pixels of masks and semantic maps differ."""
    found = compare(family, PHOTOS)
    check(found, tolerated=1e-3 if family.startswith("DeepLab") else 0.0)
    assert bool(found.masks[1]) == ("Mask" in family) and bool(found.keypoints[1]) == ("Keypoint" in family)
    assert bool(found.levels) != family.startswith("DeepLab")
    assert not family.startswith("Panoptic-DeepLab") or found.levels < 1e-4
