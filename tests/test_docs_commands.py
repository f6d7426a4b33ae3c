"""The command lines in the documentation do what the text around them says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from doc_commands import ONE_STEP, SMALL, folder, make_imagenet, promised, run_page, shortened
from doc_pages import NAMES, ROOT, blocks, commands, page, with_options
from loading import checkpoint_of

import chordate
from chordate.cli.main import main, parser
from chordate.config import load_config
from chordate.data.shapes import CLASSES

__all__ = ["folder"]  # keeps the linter from removing the import of a fixture


@pytest.mark.slow
def test_the_readmes_command_lines_run(folder, capsys, caplog):
    run_page("README.md", folder, capsys, caplog)
    found = json.loads((folder / "drawn/predictions.json").read_text())
    assert all(one["class"] in CLASSES and one["score"] >= 0.5 for one in found)
    assert cv2.imread("drawn/street_prediction.png") is not None
    assert (folder / "work_dirs/resnet50_finetune_folder/best_top1.pt").is_file()


@pytest.mark.slow
def test_the_readmes_line_for_many_processes_runs(folder):
    """Runs with two processes instead of eight."""
    (words,) = [words for words in commands(page("README.md")) if words[0] == "torchrun"]
    words = ["2" if word == "8" else str(ROOT / word) if word.startswith("tools/") else word for word in words]
    words = [word.replace("/data/coco", "coco") for word in words]
    words = with_options(words, *SMALL.split(), *ONE_STEP.split(), "model.rpn.post_nms_topk=[20,20]")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *words[1:]], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "work_dirs/mask-rcnn_r50_fpn_1x_coco/last_checkpoint").is_file()


@pytest.mark.slow
def test_the_command_lines_on_classification_run(folder, capsys, caplog):
    make_imagenet(folder / "imagenet")
    for file, config in (("a.pt", "resnet50"), ("b.pt", "resnet101"), ("c.pt", "resnet101")):
        model = chordate.build_model(f"{config}_imagenet", pretrained=False)
        torch.save(checkpoint_of(model), file)
    printed = run_page("docs/classification.md", folder, capsys, caplog)
    assert len(json.loads(Path("drawn/predictions.json").read_text())[0]["classes"]) == 5
    assert np.load("train.npz")["features"].shape == (12, 2048)
    assert Path("some.safetensors").is_file()
    assert "c.pt alone: top1" in printed


@pytest.mark.slow
def test_the_command_lines_on_backbones_run(folder, capsys, caplog):
    printed = run_page("docs/backbones.md", folder, capsys, caplog)
    assert all(name in printed for name in ("preact_resnet1001_cifar", "convnext_large"))
    assert "│ resnet50d" in printed and "640×640" in printed


def test_the_command_lines_on_augmentation_run(folder, capsys, caplog):
    printed = run_page("docs/augmentation.md", folder, capsys, caplog)
    for line in promised("docs/augmentation.md"):
        assert line in printed


@pytest.mark.slow
def test_the_command_line_on_configs_prints_the_dropped_settings(folder, capsys, caplog):
    def prepare(words: list[str]) -> list[str]:
        has_data = words[1] == "list" or "--data-root" in words
        return shortened(words) if has_data else [*shortened(words), "--data-root", "coco"]

    printed = run_page("docs/configs.md", folder, capsys, caplog, prepare=prepare)
    (line,) = promised("docs/configs.md")
    assert line in printed


def test_the_errors_on_the_page_about_configs_are_those_of_the_program(folder, capsys):
    (shown,) = [block for block in blocks(page("docs/configs.md"), "") if "mine.py" in block]
    mistakes = [
        ("model = dict(rpn=dict(nms_threshold=1.5))", []),
        ("", ["--cfg-options", "schedule.warmup=liner", "model.backbone.pretrained=None"]),
        ("model = dict(backbone=dict(frozen_stage=1))", []),
        ('model = dict(mask=dict(type="BoxHead"))', ["--cfg-options", "model.backbone.pretrained=None"]),
    ]
    for line, (text, options) in zip(shown.splitlines(), mistakes, strict=True):
        Path("mine.py").write_text(f'base = "faster-rcnn_r50_fpn_1x_coco"\n{text}\n')
        assert main(["train", "mine.py", "--data-root", "coco", *options]) == 2
        assert line in capsys.readouterr().err


def test_the_command_lines_on_evaluation_run(folder, capsys, caplog):
    """The demo config and an untrained checkpoint replace the page's CONFIG and CHECKPOINT."""
    config, checkpoint = "mask-rcnn_r18_fpn_demo_shapes", "untrained.pt"
    classes = ["circle", "rectangle", "triangle", "star", "ring"]
    torch.save(checkpoint_of(chordate.build_model(config, classes=classes, pretrained=False)), checkpoint)

    def prepare(words: list[str]) -> list[str]:
        stand_in = {"CONFIG": config, "CHECKPOINT": checkpoint, "/data/coco": os.environ["CHORDATE_DATA"]}
        return [stand_in.get(word, word) for word in words]

    run_page("docs/evaluation.md", folder, capsys, caplog, prepare=prepare)
    assert "bbox_AP" in json.loads(Path("metrics.json").read_text())
    assert isinstance(json.loads(Path("predictions.json").read_text()), list)
    assert Path("report/report.json").is_file()


def inline_commands(text: str) -> list[list[str]]:
    """The command lines in inline code, each split into words."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return [shlex.split(line) for line in re.findall(r"`((?:chordate|python|pytest|make) [^`]+)`", prose)]


@pytest.mark.parametrize("name", NAMES)
def test_command_lines_in_the_text_are_understood(name):
    """The options exist and the configs load; the commands are not run, since some take hours."""
    for words in inline_commands(page(name)):
        if words[0] == "chordate" and words[1:]:
            example = dict.fromkeys(("CONFIG", "…", "config.py", "few_people.py"), "resnet50_imagenet")
            words = [example.get(word, word) for word in words]
            if len(words) > 2:
                arguments = parser().parse_args(words[1:])
                if words[1] in ("list", "convert-config"):  # these take no config of ours
                    continue
                if words[1] == "convert" and arguments.config is None:
                    continue
                configs = arguments.names if words[1] == "summary" else [arguments.config]
                options = getattr(arguments, "cfg_options", {})  # `summary` has no such option
                assert all(load_config(config, options) for config in configs)
        elif words[0] == "python" and "<" not in words[1] and words[1] != "-m":
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            assert all(f'"{word}"' in source for word in words if word.startswith("--") and word != "--cfg-options")
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", page("Makefile"), flags=re.M), words


def test_the_commands_for_contributors_exist():
    for words in commands(page("CONTRIBUTING.md")):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", page("Makefile"), flags=re.M), words
        elif words[0] == "pytest":
            assert all((ROOT / word).is_file() for word in words if word.endswith(".py"))
