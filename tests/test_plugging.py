"""The examples in docs/plugging.md work: custom components, and Chordate's backbones in other libraries."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from doc_pages import blocks, commands, files, page, with_options
from torch import nn

import chordate
from chordate.cli.main import main
from chordate.config import load_config, section
from chordate.data.loader import build_dataset
from chordate.data.shapes import generate_shapes

TEXT = page("docs/plugging.md")
FILES = files(TEXT)
UNNAMED = [block for block in blocks(TEXT, "python") if block not in FILES.values()]
COMMANDS = commands(TEXT)
pytestmark = pytest.mark.usefixtures("without_curves")
STEPS = 2
DETECTOR = [
    f"train.iterations={STEPS}", "train.epochs=None", f"train.eval_every={STEPS}", "train.save_every=1",
    "train.keep=None", "train_data.batch_size=2", "schedule.warmup_iters=0",
]  # fmt: skip
NARROW = "model.backbone.base_channels=8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the page's files and the datasets that its command lines use."""
    root = tmp_path_factory.mktemp("plugging")
    for name, text in FILES.items():
        (root / name).write_text(text, encoding="utf-8")
    generate_shapes(root / "data/shapes", train=4, val=2, size=64, seed=7)
    photos = root / "my_photos"
    photos.mkdir()
    for split in ("train", "val"):
        rows = []
        for number in range(16):
            name, color = [("dark", 40), ("light", 200)][number % 2]
            cv2.imwrite(str(photos / f"{split}{number}.png"), np.full((20, 30, 3), color, np.uint8))
            rows.append(f"{split}{number}.png,{name}\n")
        (photos / f"{split}.csv").write_text("".join(rows))
    return root


def run(folder: Path, config: str, monkeypatch, *options: str, command: str = "train") -> Path:
    """Run the page's command line for a config, with `options` added to its `--cfg-options`; returns the work dir."""
    monkeypatch.chdir(folder)
    (line,) = [words for words in COMMANDS if words[:3] == ["chordate", command, config]]
    assert main(with_options(line, *options)[1:]) == 0
    return folder / "work_dirs" / Path(config).stem


def weights(work_dir: Path, iteration: int) -> dict[str, torch.Tensor]:
    return torch.load(work_dir / f"iteration_{iteration}.pt", weights_only=True)["model"]


def assert_learns(work_dir: Path, part: str) -> None:
    """Assert that the second training step changes every parameter whose name starts with `part`."""
    before, after = weights(work_dir, 1), weights(work_dir, 2)
    changed = {name: not torch.equal(before[name], after[name]) for name in before if name.startswith(part)}
    assert changed and all(changed.values()), changed


def records(work_dir: Path, mode: str) -> list[dict[str, Any]]:
    lines = (work_dir / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["mode"] == mode]


def built(folder: Path, config: str) -> nn.Module:
    return chordate.build_model(folder / config, num_classes=5, pretrained=False)


def test_the_backbone_trains_under_the_demos_detector(folder, monkeypatch):
    work_dir = run(folder, "three_maps_config.py", monkeypatch, *DETECTOR)
    assert_learns(work_dir, "backbone.stages.")
    assert {name.split(".")[0] for name in weights(work_dir, 1)} == {"backbone", "neck", "rpn", "box"}
    assert "bbox_AP" in records(work_dir, "val")[-1]


def test_the_backbones_width_is_checked_by_its_annotation(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    options = ["--data-root", "data/shapes", "--cfg-options", "model.backbone.width=0"]
    assert main(["train", "three_maps_config.py", *options]) == 2
    assert "model.backbone.width must be ≥ 1, got 0" in capsys.readouterr().err


def test_the_neck_trains_between_backbone_and_heads(folder, monkeypatch):
    work_dir = run(folder, "my_neck_config.py", monkeypatch, *DETECTOR, NARROW)
    assert_learns(work_dir, "neck.convs.")
    specs = built(folder, "my_neck_config.py").neck.out_features
    assert {name: (spec.channels, spec.stride) for name, spec in specs.items()} == {
        "p2": (32, 4), "p3": (32, 8), "p4": (32, 16),
    }  # fmt: skip


def test_the_one_stage_head_trains(folder, monkeypatch):
    work_dir = run(folder, "my_dense_head_config.py", monkeypatch, *DETECTOR, NARROW)
    assert_learns(work_dir, "head.conv.")
    assert records(work_dir, "train")[-1].keys() >= {"cls", "box"}


def test_the_one_stage_head_learns_where_one_object_is(folder, monkeypatch):
    """After training on one image, the model detects the object in it, so `loss` and `predict` agree on coordinates."""
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    model = built(folder, "my_dense_head_config.py").train()
    boxes, labels = torch.zeros(1, 8, 4), torch.zeros(1, 8, dtype=torch.int64)
    boxes[0, 0], labels[0, 0] = torch.tensor([40.0, 20.0, 90.0, 70.0]), 3
    valid = torch.arange(8)[None] == 0
    targets = chordate.InstanceTargets(boxes, labels, valid, torch.zeros_like(valid))
    images = torch.randint(0, 255, (1, 3, 96, 128), dtype=torch.uint8)
    images[:, :, 20:70, 40:90] = 255
    infos = [chordate.structures.ImageInfo(0, "one.png", 96, 128)]
    batch = chordate.Batch(images, torch.tensor([[96, 128]]), infos, targets)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    (detections,) = model.predict(batch)
    assert int(detections.labels[0]) == 3 and float(detections.scores[0]) > 0.5
    assert (detections.boxes[0] - boxes[0, 0]).abs().max() < 5


def test_the_roi_head_trains(folder, monkeypatch):
    work_dir = run(folder, "my_roi_head_config.py", monkeypatch, *DETECTOR, NARROW)
    assert_learns(work_dir, "box.cls_score.")
    assert "box_reg" not in records(work_dir, "train")[-1]


def test_the_loss_is_the_focal_loss_of_the_paper(folder, monkeypatch):
    """The loss of two RoIs equals equation 4 (Lin et al. 2017); the box head's other settings are inherited from the
    demo config."""
    work_dir = run(folder, "my_loss_config.py", monkeypatch, *DETECTOR, NARROW)
    assert_learns(work_dir, "box.cls_score.")
    head = built(folder, "my_loss_config.py").box
    assert type(head).__name__ == "FocalBoxHead" and head.batch_size_per_image == 32
    probabilities = torch.tensor([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [0.1, 0.7, 0.05, 0.05, 0.05, 0.05]])
    labels = torch.tensor([[0, 1]])
    false, boxes = torch.zeros(1, 2, dtype=torch.bool), torch.tensor([[[0.0, 0, 9, 9]] * 2])
    rois = chordate.structures.SampledRoIs(boxes, labels, labels * 0, false, ~false, torch.tensor([[20, 20]]), 0)
    targets = chordate.InstanceTargets(boxes, labels, ~false, false)
    index = sys.modules["chordate.ops.padded_index"].PaddedIndex(rois.valid)
    losses = head.losses(probabilities.log(), torch.zeros(2, 5, 4), boxes[0], index, rois, targets)
    by_hand = (-(0.5**2) * np.log(0.5) - 0.3**2 * np.log(0.7)) / 2
    assert float(losses["box_cls"]) == pytest.approx(by_hand, rel=1e-4)


def test_the_pixel_head_trains_on_the_coarsest_feature_map(folder, monkeypatch):
    options = [*DETECTOR, "train_data.batch_size=2", "train_data.workers=0", "val_data.workers=0"]
    options += ["model.auxiliary=None", NARROW]
    work_dir = run(folder, "my_pixel_head_config.py", monkeypatch, *options)
    assert_learns(work_dir, "head.")
    assert {name for name in weights(work_dir, 1) if name.startswith("head.conv.0.")}
    assert weights(work_dir, 1)["head.logits.weight"].shape == (9, 32, 1, 1)
    assert "mIoU" in records(work_dir, "val")[-1]


def test_the_loss_per_pixel_is_added_to_the_cross_entropy(folder, monkeypatch):
    """The losses are the cross-entropy and the Brier score of the first pixel; the second pixel is unlabeled."""
    monkeypatch.chdir(folder)
    head = built(folder, "my_pixel_loss_config.py").head
    logits = torch.zeros(1, 11, 1, 2)
    logits[0, 3] = torch.tensor(10.0).log()  # probability 10 / 20; each of the other ten classes has 1 / 20
    labels = torch.tensor([[[3, -1]]], dtype=torch.int16)
    entropy, squared = -np.log(0.5), 0.5**2 + 10 * 0.05**2
    losses = {name: float(loss) for name, loss in head.loss(logits, labels).items()}
    assert losses == pytest.approx({"semantic_CrossEntropy": entropy, "semantic_SquaredError": squared}, rel=1e-5)


def test_the_dataset_trains_a_classifier(folder, monkeypatch):
    """The dataset reads file names and classes (dark, light) from a CSV file; the checkpoint stores these classes."""
    work_dir = run(folder, "my_dataset_config.py", monkeypatch, "train_data.workers=0", "val_data.workers=0")
    assert torch.load(work_dir / "best_top1.pt", weights_only=True)["meta"]["classes"] == ["dark", "light"]
    assert records(work_dir, "val")[-1].keys() >= {"top1", "error"}


def test_the_transform_darkens_the_images_of_browse(folder, monkeypatch):
    work_dir = run(folder, "my_transform_config.py", monkeypatch, command="browse")
    assert (work_dir / "browse/index.html").is_file()
    data = section(load_config("my_transform_config.py"), "train_data")
    dark = build_dataset(data, data_root="data/shapes", training=True)
    plain = build_dataset({**data, "pipeline": []}, data_root="data/shapes", training=True)
    for index in range(4):
        expected = plain[0, index]["image"] // 3
        got = dark[0, index]["image"]
        assert torch.equal(got, expected) or torch.equal(got, expected.flip(-1))


def test_the_metric_counts_and_chooses_the_best_checkpoint(folder, monkeypatch):
    work_dir = run(folder, "my_metric_config.py", monkeypatch, *DETECTOR, NARROW)
    assert (work_dir / "best_count_error.pt").is_file()
    assert records(work_dir, "val")[-1]["count_error"] >= 0
    metric = sys.modules["my_metric"].CountError(None, score_threshold=0.5)
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 4)
    detections = chordate.Detections(boxes, torch.tensor([0.9, 0.6, 0.5, 0.2]), torch.zeros(4, dtype=torch.int64))
    valid = torch.tensor([[True, True, False], [True, False, False]])
    crowd = torch.tensor([[True, False, False], [False, False, False]])
    targets = chordate.InstanceTargets(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), valid, crowd)
    metric.update([detections, detections[:1]], chordate.Batch(torch.zeros(2, 3, 9, 9), torch.zeros(2, 2), [], targets))
    assert metric.compute() == {"count_error": 1.0}  # image 0: 3 detections, 1 object; image 1: 1 detection, 1 object


def test_the_callback_stops_training(folder, monkeypatch):
    """The callback stops training at the first evaluation: its `value` is -1, and every AP is ≥ -1."""
    options = [option for option in DETECTOR if "eval_every" not in option]
    options = [*options, "train.iterations=9", "train.eval_every=1", "callbacks.0.value=-1", NARROW]
    work_dir = run(folder, "my_callback_config.py", monkeypatch, *options)
    assert [record["iteration"] for record in records(work_dir, "val")] == [1]


def test_the_optimizer_changes_every_weight_by_the_learning_rate(folder, monkeypatch):
    options = [option for option in DETECTOR if not option.startswith("schedule")]
    work_dir = run(folder, "my_optimizer_config.py", monkeypatch, *options)
    before, after = weights(work_dir, 1), weights(work_dir, 2)
    changes = [(after[name] - before[name]).abs() for name in before if name.endswith("conv1.weight")]
    changes = torch.cat([move.flatten() for move in changes])
    assert len(changes) > 1000
    assert ((changes - 1e-3).abs() < 1e-6).float().mean() > 0.99  # weights with gradient 0 do not change


def test_the_format_converts_the_pretrained_weights(folder, monkeypatch):
    theirs = {}
    backbone = built(folder, "my_format_config.py").backbone.state_dict()
    for name, tensor in backbone.items():
        stage = name.startswith("layer")
        theirs[f"trunk.stage{name[5:]}" if stage else f"trunk.{name}"] = tensor
    theirs["trunk.stage1.0.conv1.weight"] = torch.full_like(theirs["trunk.stage1.0.conv1.weight"], 0.25)
    torch.save(theirs, folder / "mylibrary_resnet18.pth")
    options = [*DETECTOR, "optimizer.lr=0.0"]
    work_dir = run(folder, "my_format_config.py", monkeypatch, *options)
    assert bool((weights(work_dir, STEPS)["backbone.layer1.0.conv1.weight"] == 0.25).all())


def test_the_custom_task_works_with_every_command(folder, monkeypatch, capsys):
    work_dir = run(folder, "my_task_config.py", monkeypatch, "train.eval_every=6")
    assert records(work_dir, "val")[-1]["error"] < 25  # in degrees; random guessing has a mean error of 45
    run(folder, "my_task_config.py", monkeypatch, command="browse")
    page = (work_dir / "browse/index.html").read_text()
    assert page.count("<img") == 16
    run(folder, "my_task_config.py", monkeypatch, command="test")
    assert cv2.imread(str(folder / "bars.png")).std() > 10

    degrees = 30.0
    bar = sys.modules["my_task"].bar(np.radians(degrees), np.zeros((64, 64, 3), np.uint8))
    cv2.imwrite(str(folder / "bar.png"), bar)
    run(folder, "my_task_config.py", monkeypatch, command="predict")
    (record,) = json.loads((folder / "drawn/predictions.json").read_text())
    assert abs(record["degrees"] - degrees) < 45
    run(folder, "my_task_config.py", monkeypatch, command="summary")
    assert "c3:16/8" in capsys.readouterr().out


@pytest.mark.parametrize("block", UNNAMED, ids=lambda block: re.findall(r"chordate\.integrations\.(\w+)", block)[0])
def test_the_example_of_a_library_runs(block):
    for module in set(re.findall(r"^(?:import|from) (\w+)", block, flags=re.M)):
        pytest.importorskip(module, reason=f"{module} is not installed")
    exec(block.replace("FasterRCNN(", "FasterRCNN(min_size=96, backbone="), {})  # images of 800 px take half a minute


def test_every_component_of_the_page_has_a_config_and_a_command():
    """Every module on the page has a config, and every config has a command line."""
    configs = {name for name in FILES if name.endswith("_config.py")}
    assert {f"{name.removesuffix('.py')}_config.py" for name in FILES if name not in configs} == configs
    assert {words[2] for words in COMMANDS if words[0] == "chordate"} == configs
