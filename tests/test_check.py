"""`chordate check`: counts are those of the files, every problem is named, and any problem gives exit status 1."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_coco import CATEGORIES, annotation, write_coco

from chordate.cli.main import main
from chordate.data.coco import CocoDataset
from chordate.structures import ClassTargets, InstanceTargets

CONFIG = "faster-rcnn_r18_fpn_demo_shapes"
BOX = [10, 10, 30, 30]


def check(*arguments: object) -> int:
    return main(["check", *map(str, arguments)])


@pytest.fixture
def without_plots(monkeypatch) -> None:
    """Keep `chordate check` from writing its plots, which takes a second; the test of a clean dataset reads them."""
    monkeypatch.setattr("chordate.visualization.check_page.save", lambda *_: None)


def page(out: Path) -> str:
    return (out / "index.html").read_text(encoding="utf-8")


def table_row(printed: str, name: str) -> list[str]:
    (line,) = [line for line in printed.splitlines() if line.startswith("│") and f" {name} " in line]
    return [cell.strip() for cell in line.strip("│").split("│")]


def own_config(folder: Path, **settings: object) -> Path:
    config = folder / "own.py"
    more = "".join(f", {name}={value!r}" for name, value in settings.items())
    data = f'workers=0, dataset=dict(annotations="annotations.json", images="images"{more})'
    config.write_text(f'base = "{CONFIG}"\ntrain_data = dict({data})\nval_data = dict({data})\n')
    return config


def test_a_clean_dataset_has_status_0_and_the_counts_of_its_json(shapes: Path, tmp_path: Path, capsys) -> None:
    assert check(CONFIG, "--data-root", shapes, "--out", tmp_path, "--cfg-options", "train_data.workers=2") == 0
    output = capsys.readouterr()
    assert output.err == ""
    for split in ("train", "val"):
        content = json.loads((shapes / f"annotations/{split}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        counts = Counter(names[a["category_id"]] for a in content["annotations"] if not a.get("iscrowd"))
        row = table_row(output.out, f"{split}_data")
        assert row[1:4] == [f"{len(content['images'])}", "0", f"{counts.total()}"]
        assert row[4] == f"{len(counts)} of {len(names)}"
        (line,) = [line for line in output.out.splitlines() if line.startswith(f"{split}_data: instances per class: ")]
        listed = dict(part.rsplit(" ", 1) for part in line.split(": ")[2].split(", "))
        assert {name: int(count) for name, count in listed.items() if int(count)} == counts
    for plot in ("train_data_instances_per_class.png", "val_data_image_sizes.png"):
        assert plot in page(tmp_path) and (tmp_path / plot).stat().st_size > 1000


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Four images: the second is truncated, the third is missing; an annotation of the first has no known class."""
    boxes = [annotation(n, n, BOX) for n in (1, 2, 3, 4)]
    root = write_coco(tmp_path / "data", [*boxes, annotation(77, 1, BOX, category=99)], sizes=((60, 80),) * 4)
    image = root / "images/2.png"
    image.write_bytes(image.read_bytes()[:2000])
    (root / "images/3.png").unlink()
    return root


@pytest.mark.usefixtures("without_plots")
def test_every_problem_is_named_and_the_status_is_1(broken: Path, tmp_path: Path, capsys) -> None:
    assert check(own_config(tmp_path), "--data-root", broken, "--out", tmp_path) == 1
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert all(line.startswith("chordate check: ") for line in lines) and "Traceback" not in output.err
    assert any("annotations.json" in line and "77" in line for line in lines)
    assert any("train_data: 2 images cannot be read, the first: " in line for line in lines)
    html = page(tmp_path)
    assert "Training would fail." in html and "77" in html
    items = [line for line in html.splitlines() if line.startswith("<li>") or "<ul><li>" in line]
    for name in ("2.png", "3.png"):
        assert sum(f"images/{name}" in item and "cannot be read" not in item for item in items) >= 2  # in both sets
    assert table_row(output.out, "train_data")[1:4] == ["4", "2", "2"]


@pytest.mark.usefixtures("without_plots")
def test_what_the_config_skips_is_reported_and_is_no_problem(broken: Path, tmp_path: Path, capsys) -> None:
    config = own_config(tmp_path, skip_broken=True, health="warn")
    assert check(config, "--data-root", broken, "--out", tmp_path) == 0
    output = capsys.readouterr()
    assert output.err == "" and "left out" in output.out
    assert "images/2.png" in page(tmp_path) and "images/3.png" in page(tmp_path)


def test_data_that_cannot_be_opened_are_a_problem(tmp_path: Path, capsys) -> None:
    assert check(CONFIG, "--data-root", tmp_path / "nowhere", "--out", tmp_path) == 1
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("chordate check: ") and "nowhere: no such data folder" in line
    assert table_row(output.out, "train_data")[1:] == ["–"] * 5


@pytest.mark.usefixtures("without_plots")
def test_an_exception_of_a_dataset_does_not_end_the_reading(tmp_path: Path, monkeypatch, capsys) -> None:
    root = write_coco(tmp_path / "data", [annotation(n, n, BOX) for n in (1, 2, 3, 4)], sizes=((60, 80),) * 4)
    read = CocoDataset.read

    def read_or_fail(self: CocoDataset, index: int) -> dict:
        return read(self, index) if index != 1 else {}["no such key"]

    monkeypatch.setattr(CocoDataset, "read", read_or_fail)
    assert check(own_config(tmp_path), "--data-root", root, "--out", tmp_path) == 1
    output = capsys.readouterr()
    assert "1 image cannot be read, the first: sample 1: KeyError: 'no such key'" in output.err
    assert table_row(output.out, "train_data")[1:4] == ["4", "1", "3"]


@pytest.mark.usefixtures("without_plots")
def test_class_names_with_markup_are_text_on_the_page_and_on_the_terminal(tmp_path: Path, capsys) -> None:
    name = "<b>dog</b>[/red]"
    categories = [{"id": 3, "name": name}, CATEGORIES[0]]
    root = write_coco(tmp_path / "data", [annotation(n, n, BOX) for n in (1, 2)], categories=categories)
    assert check(own_config(tmp_path), "--data-root", root, "--out", tmp_path) == 0
    assert f"instances per class: {name} 2, dog 0" in capsys.readouterr().out
    assert "<b>" not in page(tmp_path) and "&lt;b&gt;dog&lt;/b&gt;[/red] 2, dog 0" in page(tmp_path)


@pytest.mark.usefixtures("without_plots")
def test_suspicious_images_are_drawn(tmp_path: Path, capsys) -> None:
    boxes = [annotation(1, 1, BOX), annotation(2, 2, [5, 5, 2, 3]), annotation(3, 3, [0, 20, 80, 3.5])]
    root = write_coco(tmp_path / "data", boxes, sizes=((60, 80),) * 4)
    assert check(own_config(tmp_path), "--data-root", root, "--out", tmp_path) == 0
    assert table_row(capsys.readouterr().out, "train_data")[5] == "3"
    html = page(tmp_path)
    for index, phrases in {1: "boxes under 4 px", 2: "boxes under 4 px, boxes over 20:1", 3: "no instances"}.items():
        assert f"{index + 1}.png <small>{phrases}; 60×80" in html
        assert (tmp_path / f"train_data_{index:06}.jpg").is_file()
    examples, suspicious = html.index("train_data: examples"), html.index("train_data: suspicious")
    assert examples < html.index("train_data_000000.jpg") < suspicious < html.index("train_data_000001.jpg")


@pytest.mark.usefixtures("without_plots")
def test_a_folder_and_a_config_of_the_same_name_have_pages_of_their_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_coco(tmp_path / "own", [annotation(n, n, BOX) for n in (1, 2)])
    for arguments in ([root], [own_config(tmp_path), "--data-root", root]):
        assert check(*arguments) == 0
    verdicts = {path: page(path.parent) for path in Path("work_dirs").rglob("index.html")}
    assert len(verdicts) == 2 and ["taken for COCO" in html for html in verdicts.values()].count(True) == 1


def test_padding_and_crowds_are_not_counted() -> None:
    targets = InstanceTargets(
        boxes=torch.zeros(1, 4, 4),
        labels=torch.tensor([[2, 2, 1, 0]]),
        valid=torch.tensor([[True, True, True, False]]),
        crowd=torch.tensor([[False, False, True, False]]),
    )
    assert targets.class_counts(4).tolist() == [0, 0, 2, 0]


def test_a_classifiers_images_are_counted_by_class() -> None:
    assert ClassTargets(torch.tensor([1, 1, 0])).class_counts(3).tolist() == [1, 2, 0]


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["metric.iou_types=['segm']"], "the model predicts no masks"),
        (["train.save_best=bbox_XY"], 'train.save_best: unknown metric "bbox_XY"'),
        (["callbacks=[dict(type='EarlyStopping', monitor='AP')]"], 'EarlyStopping: unknown metric "AP"'),
    ],
)
def test_settings_that_do_not_fit_the_data_are_found_as_by_training(
    tmp_path: Path, capsys, options: list[str], problem: str
) -> None:
    square = [[10, 10, 40, 10, 40, 40, 10, 40]]
    root = write_coco(tmp_path / "data", [annotation(n, n, BOX, segmentation=square) for n in (1, 2)])
    arguments = [own_config(tmp_path), "--data-root", root]
    assert check(*arguments, "--out", tmp_path, "--cfg-options", *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(problem, line)
    assert main(["train", *map(str, arguments), "--work-dir", str(tmp_path / "run"), "--cfg-options", *options]) == 2
    assert re.search(problem, capsys.readouterr().err.splitlines()[-1])
