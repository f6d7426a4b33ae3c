"""The how-tos: your own data, custom backbones, evaluation on COCO, and migration from other libraries."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from annotation_formats import write_voc, write_yolo
from doc_commands import ONE_STEP, SMALL, folder, run_page, shortened
from doc_pages import blocks, files, page, with_options
from loading import checkpoint_of

import chordate
from chordate import registry
from chordate.cli.main import main
from chordate.config import load_config, section
from chordate.contracts import check_outputs
from chordate.data.loader import build_dataset
from chordate.errors import ConfigError
from chordate.models.build import image_channels

pytestmark = pytest.mark.usefixtures("without_curves")
__all__ = ["folder"]  # keeps the linter from removing the import of a fixture
OWN_DATA, OWN_BACKBONE = "docs/own_data.md", "docs/own_backbone.md"
ON_COCO, MIGRATION = "docs/evaluate_on_coco.md", "docs/coming-from.md"


@pytest.fixture(scope="module", autouse=True)
def without_the_pages_backbones() -> Iterator[None]:
    """After the tests, removes the backbones that the modules of the pages register: other tests list all backbones."""
    backbones = registry.BACKBONES
    before = set(backbones.names())
    yield
    for name in set(backbones.names()) - before:
        backbones.variants.pop(name, None)
        backbones.module_dict.pop(name, None)
    sys.modules.pop("my_network", None)  # another import would register them again


# Your own data


@pytest.fixture
def own_data(folder) -> Path:
    """Writes the shapes dataset in three formats to the folders that the page names, and the configs that it shows."""
    shapes = folder / "data/shapes"
    shutil.copytree(shapes, folder / "my_data")
    write_voc(shapes, folder / "VOCdevkit/VOC2007")
    write_yolo(shapes, folder / "my_yolo")
    for name, text in files(page(OWN_DATA)).items():
        Path(name).write_text(text, encoding="utf-8")
    return folder


def objects_by_image(config: str, data_root: str, split: str) -> dict[str, list[tuple[str, list[float]]]]:
    """The class and box of every non-crowd object, keyed by image name; images without objects are left out."""
    data = section(load_config(config), f"{split}_data")
    dataset = build_dataset(data, data_root=data_root, training=split == "train")
    found = {}
    for index in range(len(dataset)):
        batch = dataset.original(index)
        kept = (batch.targets.valid & ~batch.targets.crowd)[0]
        names = [dataset.classes[label] for label in batch.targets.labels[0][kept]]
        boxes = [[round(side, 1) for side in box] for box in batch.targets.boxes[0][kept].tolist()]
        found[Path(batch.infos[0].path).stem.removeprefix(f"{split}_")] = sorted(zip(names, boxes))
    return {name: objects for name, objects in found.items() if objects}


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_three_formats_of_own_data_have_the_same_objects(own_data, split):
    coco = objects_by_image("my_coco.py", "my_data", split)
    assert sum(map(len, coco.values())) > 2
    assert objects_by_image("my_voc.py", "VOCdevkit", split) == coco
    assert objects_by_image("my_yolo.py", "my_yolo", split) == coco
    assert objects_by_image("my_ultralytics.py", "my_yolo", split) == coco


def test_the_files_of_own_data_are_read_with_the_models_number_of_channels(own_data):
    assert image_channels(load_config("my_bands.py")) == 4
    assert image_channels(load_config("my_coco.py")) in (None, 3)


@pytest.mark.slow
def test_the_command_lines_on_own_data_run(own_data, capsys, caplog):
    def small(words: list[str]) -> list[str]:
        sizes = SMALL.split() if words[1] in ("train", "browse") else SMALL.split()[1:]
        has_config = words[2].endswith(".py")  # `chordate check` also takes bare data
        return with_options(shortened(words), *sizes) if has_config else words

    run_page(OWN_DATA, own_data, capsys, caplog, prepare=small)
    assert caplog.text.count("5 classes: ") == 4  # each of the four training runs logs it
    assert Path("drawn/street_prediction.png").is_file()


def test_the_error_on_own_data_is_that_of_the_program(own_data, capsys):
    text = Path("my_coco.py").read_text(encoding="utf-8")
    Path("my_coco.py").write_text(text.replace("train.json", "training.json"), encoding="utf-8")
    (shown,) = [block.strip() for block in blocks(page(OWN_DATA), "") if "training.json" in block]
    assert main(["train", "my_coco.py", "--data-root", "my_data", "--cfg-options", *ONE_STEP.split()]) == 2
    assert shown in capsys.readouterr().err


# Custom backbone


def test_the_own_backbone_is_pretrained_and_carries_a_detector(folder, capsys, caplog):
    def with_its_weights(words: list[str]) -> list[str]:
        """The classifier trains on small images; the detector keeps `pretrained`, which `shortened` sets to None."""
        words = [word for word in shortened(words) if word != "model.backbone.pretrained=None"]
        sizes = "train_data.pipeline.0.size=64 val_data.pipeline.0.size=64 val_data.pipeline.1.size=64"
        return with_options(words, *sizes.split()) if words[1:3] == ["train", "my_classifier.py"] else words

    printed = run_page(OWN_BACKBONE, folder, capsys, caplog, prepare=with_its_weights)
    assert "c2:16/4 c3:32/8 c4:64/16 c5:128/32" in printed  # printed by `chordate summary`
    classifier = torch.load("work_dirs/my_classifier/best_top1.pt", weights_only=True)["model"]
    detector = chordate.build_model("my_detector.py", num_classes=5).state_dict()
    names = [name for name in classifier if name.startswith("backbone.")]
    assert names and all(torch.equal(classifier[name], detector[name]) for name in names)


def test_the_error_on_own_backbones_is_that_of_the_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in files(page(OWN_BACKBONE)).items():
        Path(name).write_text(text, encoding="utf-8")
    load_config("my_detector.py")
    wrong = registry.BACKBONES.build("my_small")
    wrong.out_features["c5"] = chordate.FeatureSpec(256, 32)
    (shown,) = [block.strip() for block in blocks(page(OWN_BACKBONE), "") if "declares" in block]
    with pytest.raises(ConfigError, match=re.escape(shown)):
        check_outputs(wrong)


# COCO


def test_the_numbers_on_coco_are_those_that_torchvision_states():
    rows = re.findall(r"^\| `(\S+)` \| `torchvision://(\w+)` \| ([\d.]+) \| ?([\d.]*) ?\|$", page(ON_COCO), flags=re.M)
    assert len(rows) == 7
    for config, name, box, other in rows:
        assert config in chordate.list_models("*torchvision*")
        (stated,) = torchvision.models.get_model_weights(name).DEFAULT.meta["_metrics"].values()
        numbers = [value for key, value in stated.items() if key != "box_map"]
        assert (float(box), [float(other)] if other else []) == (stated["box_map"], numbers)


@pytest.mark.slow
def test_the_command_lines_on_coco_run_and_pycocotools_agrees(folder, capsys, caplog):
    trained = Path("work_dirs/mask-rcnn_r50_fpn_1x_coco/best_bbox_AP.pt")
    trained.parent.mkdir(parents=True)
    torch.save(checkpoint_of(chordate.build_model("mask-rcnn_r50_fpn_1x_coco", pretrained=False)), trained)

    def all_scores(words: list[str]) -> list[str]:
        return with_options(shortened(words), "model.box.score_threshold=0.0")

    run_page(ON_COCO, folder, capsys, caplog, prepare=all_scores)
    assert Path("report/report.json").is_file()
    (block,) = blocks(page(ON_COCO), "python")
    scope: dict = {}
    exec(block.replace("/data/coco", "coco"), scope)
    ours = json.loads(Path("metrics.json").read_text())["bbox_AP"]
    assert scope["evaluation"].stats[0] == pytest.approx(ours, abs=1e-9)


# Other libraries


def test_the_names_on_the_migration_page_exist():
    """Every name in the "here" columns of the page's tables exists: classes are public or registered, registries exist,
    functions are public or methods of `Model`, and configs are listed."""
    registries = {name: value for name, value in vars(registry).items() if name.isupper() and hasattr(value, "names")}
    plugs = {name for value in registries.values() for name in value.names()}
    code = ""
    for table in re.findall(r"(?:^\|.*\n)+", page(MIGRATION), flags=re.M):
        header, *rows = [[cell.strip() for cell in row.split("|")] for row in table.splitlines()]
        if "here" not in header:  # the table of converted configs
            continue
        code += " ".join(re.findall(r"`([^`]+)`", " ".join(row[header.index("here")] for row in rows))) + " "
    for name in re.findall(r"\b[A-Z][a-z]+(?:[A-Z]+[a-z]+)+\b", code):  # CamelCase, such as FeatureSpec
        assert name in plugs or hasattr(chordate, name), name
    for name in re.findall(r"\b[A-Z]{4,}\b", code):
        assert name in registries or name in ("CONFIG", "CHECKPOINT"), name
    for name in re.findall(r"\b(?:chordate\.|model\.)?(\w+)\(", code):
        assert hasattr(chordate, name) or hasattr(chordate.Model, name), name
    configs = re.findall(r"[a-z]+-?[a-z]*_r50_\w+", page(MIGRATION))
    assert configs and all(map(chordate.list_models, configs))
