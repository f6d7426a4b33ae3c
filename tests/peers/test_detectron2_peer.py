"""Random models of Detectron2 and the models that `chordate convert` makes of them predict the same.

Skipped without Detectron2; `tests/peers/README.md` describes how to build it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from compare_detectron2 import FAMILIES, IMAGES, compare

PHOTOS = sorted((Path(__file__).parents[1] / "data/bccd/JPEGImages").glob("*.jpg"))[:IMAGES]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_converted_models_predict_what_detectron2_predicts(family):
    """Boxes agree within 1e-2 pixels, scores within 1e-4, segments with an IoU above 0.99. At least 99.9 % of the
    pixels of semantic maps have the same class."""
    found = compare(family, PHOTOS)
    assert found.count >= 20
    assert found.matched >= (0.999 * found.count if family.startswith("DeepLab") else found.count)
