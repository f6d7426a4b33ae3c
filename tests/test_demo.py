"""`make demo` works: a small detector learns the generated shapes from scratch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_demo_reaches_box_and_mask_ap_050_and_writes_its_images(tmp_path):
    subprocess.run([sys.executable, str(ROOT / "tools/demo.py")], cwd=tmp_path, check=True)
    out = tmp_path / "work_dirs/demo"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["bbox_AP"] >= 0.50 and metrics["segm_AP"] >= 0.50
    assert (out / "predictions.png").is_file() and (out / "training.png").is_file()
