"""Random models of MMDetection, MMSegmentation and MMPretrain predict the same as the models that load their weights.

Skipped without these libraries; `mmcv_ops_stub.py` describes how to install them.
"""

from __future__ import annotations

import pytest

pytest.importorskip("mmcv")

import mmcv_ops_stub  # noqa: F401

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytest.importorskip("mmpretrain")

from compare_openmmlab import CONFIGS, compare
from differences import check

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name"), [(library, name) for library in CONFIGS for name in CONFIGS[library]])
def test_loaded_models_predict_what_openmmlab_predicts(library, name):
    """Boxes agree within 1e-2 pixels, scores within 1e-4, feature maps, outputs for all anchors, and logits within
    0.1 % of a standard deviation; at most 0.1 % of the mask pixels differ. All tensors are written back bit for bit."""
    found, changed = compare(library, name)
    check(found)
    assert not changed and found.levels and bool(found.masks[1]) == ("mask" in name)
