"""docs/evaluation.md documents every setting of the COCO metric and of test-time augmentation."""

import inspect
import re
from pathlib import Path

from chordate.evaluation import CocoMetric
from chordate.models.detector_tta import DetectorTTA

TEXT = (Path(__file__).parents[1] / "docs/evaluation.md").read_text(encoding="utf-8")


def test_every_setting_of_the_metric_is_documented():
    documented = re.findall(r"^\| `(\w+)` \|", TEXT.split("| setting of `metric`")[1].split("\n\n")[0], re.MULTILINE)
    assert documented == list(inspect.signature(CocoMetric).parameters)[1:]
    assert all(f"`{name}`" in TEXT or f"model.tta.{name}" in TEXT for name in inspect.signature(DetectorTTA).parameters)
