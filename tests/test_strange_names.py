"""Class names with markup, control characters, formulas or thousands of characters break no table, plot or error."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny_coco import annotation, write_coco

from chordate.data.coco import CocoDataset
from chordate.errors import ChordateError, unknown
from chordate.evaluation import AccuracyMetric, CocoMetric
from chordate.model_contracts import Metric
from chordate.structures import Batch, Classification, ClassTargets, DatasetMeta, Detections, ImageInfo
from chordate.text import file_stem, printable
from chordate.visualization import draw, plot_report
from chordate.weights.checkpoint_folder import best_name

NAMES = ("[red]cat[/red]", "dog\n\x1b[31m\r\x00", "x" * 5000, "$a_$b{", "bi\u202edi", "[/]", "lone\udc80")
META = DatasetMeta(NAMES)


def shown(table) -> str:
    """The text of the table as a terminal shows it."""
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    return out.getvalue()


def assert_displayable(text: str) -> None:
    assert all(char.isprintable() or char == "\n" for char in text)
    assert len(text) < 20_000
    text.encode()


def test_printable_returns_one_short_line_and_keeps_plain_text() -> None:
    for name in NAMES:
        assert len(printable(name).splitlines()) == 1 and printable(name).isprintable() and len(printable(name)) <= 60
    for name in ("traffic light", "Größe", "猫", "می\u200cخواهم", "a/b"):
        assert printable(name) == name
    assert printable("x" * 5000, None) == "x" * 5000


def test_tables_of_metrics_show_brackets_and_one_line_per_class() -> None:
    metric = AccuracyMetric(type("Data", (), {"meta": META})())
    for label in range(len(NAMES)):
        scores = torch.eye(len(NAMES))[label]
        targets = ClassTargets(torch.tensor([label]))
        batch = Batch(torch.zeros(1, 3, 1, 1), torch.ones(1, 2), [ImageInfo(label, "", 1, 1)], targets)
        metric.update([Classification(scores)], batch)
    assert metric.compute()["top1"] == 1
    text = shown(metric.table())
    assert_displayable(text)
    assert "[red]cat[/red]" in text and "[/]" in text
    assert text.count("100.00") == 2 * (len(NAMES) + 1)
    assert len([line for line in text.splitlines() if "100.00" in line]) == len(NAMES) + 1

    plain = Metric()
    plain.numbers = dict.fromkeys(NAMES, 0.5)
    assert_displayable(shown(plain.table()))
    assert shown(plain.table()).count("0.5000") == len(NAMES)


def test_a_detection_report_is_drawn_and_written(tmp_path: Path) -> None:
    names = NAMES[:-1]  # datasets reject class names with lone surrogates
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    boxes = [annotation(n, 1, [10, 10, 20, 20], category=n) for n in range(1, len(names) + 1)]
    root = write_coco(tmp_path, boxes, sizes=[(64, 64)], categories=categories)
    dataset = CocoDataset("annotations.json", "images", data_root=root)
    assert dataset.classes == names
    count = len(names)
    detections = Detections(torch.tensor([[10.0, 10, 30, 30]] * count), torch.full((count,), 0.9), torch.arange(count))
    metric = CocoMetric(dataset)
    metric.update([detections], Batch(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]), [dataset[0, 0]["info"]]))
    assert metric.compute()["bbox_AP"] == pytest.approx(1)
    assert_displayable(shown(metric.table()))
    files = plot_report(metric.report(), tmp_path / "report")
    assert all(file.stat().st_size > 1000 for file in files)
    picture = draw(detections, np.zeros((64, 64, 3), np.uint8), dataset.meta)
    assert picture.max() > 100


def test_the_length_of_a_class_name_does_not_change_the_size_of_a_drawing() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    scores = torch.eye(len(NAMES))
    pictures = [draw(Classification(row), image, META) for row in scores]
    assert {picture.shape for picture in pictures} == {(640, 640, 3)}
    Image.fromarray(pictures[0])


@pytest.mark.parametrize("name", [*NAMES, "val/AP", "../../etc/x", "a:b*c?", "c\\d"])
def test_a_checkpoints_name_is_a_plain_file_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / best_name(name)
    path.write_bytes(b"")
    assert path.parent == tmp_path and [p.name for p in tmp_path.iterdir()] == [path.name]
    assert not set(file_stem(name)) & set('/\\:*?"<>|\n\x00')


def test_an_error_is_one_line_whatever_name_it_contains() -> None:
    for name in NAMES:
        assert str(ChordateError(unknown("class", name, NAMES))).isprintable()
        assert META.difference(DatasetMeta((name,))).isprintable()
