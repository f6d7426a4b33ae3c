"""The pages of the documentation: links lead somewhere, blocks run, command lines work, words are American."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
import yaml
from class_folders import write_folders
from doc_pages import PAGES, ROOT, blocks, commands, files, page, with_options
from loading import checkpoint_of

import chordate
from chordate.cli.main import main, parser
from chordate.config import list_configs, load_config
from chordate.data.coco_classes import COCO_CLASSES
from chordate.data.shapes import CLASSES, generate_shapes
from chordate.registry import HEADS, MODELS, NECKS

NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
RANDOM = "resnet50_random.pth"  # takes the place of torchvision's weights, which would be downloaded


# Links


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name):
    text, folder = page(name), (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (folder / path).resolve() if path else ROOT / name
        assert linked.exists() and linked.is_relative_to(ROOT), f"{name}: {target}"
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), f"{name}: {target}"


def test_every_page_and_image_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        if path.suffix == ".md":
            links = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
            waiting += [(path.parent / link).resolve() for link in links if not link.startswith("http")]
    assert set((ROOT / "docs").rglob("*.*")) <= reached


# Words

BRITISH = (
    r"\b(colou?red|\w*colour\w*|\w*(?:optimi|normali|recogni|initiali|summari|visuali|organi|generali|minimi|maximi)s"
    r"(?:e|ed|es|er|ers|ing|ation)|centres?|grey\w*|learnt|behaviours?|neighbours?|labelled|modelling|towards)\b"
)


@pytest.mark.parametrize("name", NAMES)
def test_spelling_in_the_pages_is_american(name):
    prose = re.sub(r"`[^`\n]*`", "", page(name))
    assert not [word for word in re.findall(BRITISH, prose) if word.lower() != "colored"]


# Blocks


@pytest.mark.parametrize("name", NAMES)
def test_every_config_of_a_page_builds_its_model(name, tmp_path, monkeypatch):
    """Those that build on a packaged config or are whole; `plugging.md` has its own test, which trains them."""
    monkeypatch.chdir(tmp_path)
    written = files(page(name))
    for file, text in written.items():
        Path(file).write_text(text, encoding="utf-8")
    for file, text in written.items():
        if re.search(r"^base = ", text, flags=re.M) and "custom_imports" not in text:
            model = chordate.build_model(file, num_classes=3, pretrained=False)
            assert isinstance(model, chordate.Model), file


@pytest.mark.parametrize("name", ["docs/backbones.md", "docs/weights.md"])
def test_blocks_run_from_above_downwards(name, tmp_path, monkeypatch):
    """Blocks without a file's name, on random weights under the names of the files that they load."""
    monkeypatch.chdir(tmp_path)
    named = set(files(page(name)).values())
    unnamed = [block for block in blocks(page(name), "python") if block not in named]
    assert unnamed
    for file in re.findall(r'"([\w-]+\.pth)"', "".join(unnamed)):
        make_weights(Path(file))
    scope: dict = {}
    for block in unnamed:
        exec(block, scope)


def test_every_code_block_of_a_page_is_run_by_a_test():
    """Where a page has Python blocks, they are files, which their page's test runs, or run from above downwards."""
    with_unnamed = {
        name for name in NAMES if set(blocks(page(name), "python")) - set(files(page(name)).values())
    }  # fmt: skip
    assert with_unnamed == {"docs/backbones.md", "docs/weights.md", "README.md"}  # of the last, test_readme.py


# Command lines


def make_weights(path: Path) -> None:
    """A file of random weights, in the form of the library that its name says."""
    if path.name.startswith("fasterrcnn_resnet50_fpn"):
        model = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    elif path.name == RANDOM:
        model = torchvision.models.resnet50()
    else:
        model = torchvision.models.get_model(path.name.split("-")[0], weights=None)
    torch.save(model.state_dict(), path)


def make_coco(root: Path, shapes: Path) -> Path:
    """The shapes under COCO's file names, with COCO's 80 categories."""
    for split in ("train", "val"):
        shutil.copytree(shapes / split, root / f"{split}2017")
        content = json.loads((shapes / f"annotations/{split}.json").read_text())
        content["categories"] = [{"id": n, "name": name} for n, name in enumerate(COCO_CLASSES, 1)]
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return root


def make_imagenet(root: Path) -> Path:
    """A thousand class folders, of which a few hold a picture."""
    noise = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(1000):
            folder = root / split / f"n{number:08}"
            folder.mkdir(parents=True)
            if number < 4:
                cv2.imwrite(str(folder / "a.jpg"), noise.integers(0, 256, (80, 90, 3), dtype=np.uint8))
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with what the command lines name: data, images and weights."""
    shapes = tmp_path / "data/shapes"
    generate_shapes(shapes, train=16, val=2, size=64, seed=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHORDATE_DATA", str(shapes))
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", lambda self: self.server_close())
    for name in ("street.jpg", "dog.jpg", "a.jpg", "folder/b.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        cv2.imwrite(name, np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    make_coco(tmp_path / "coco", shapes)
    shutil.copytree(shapes, tmp_path / "cells")
    write_folders(tmp_path / "my_photos", {"train": 4, "val": 2}, side=40)
    return tmp_path


SMALL = "train_data.pipeline.0.size=64 val_data.pipeline.0.size=64"
ONE_STEP = "train.iterations=1 train.epochs=None train_data.workers=0 val_data.workers=0 model.backbone.pretrained=None"


def shortened(words: list[str]) -> list[str]:
    """A command line with a smaller job: one step, small images, no download, no fixed port."""
    stand_in = {"/data/coco": "coco", "/data/imagenet": "imagenet", "torchvision://resnet50": RANDOM, "8000": "0"}
    words = [stand_in.get(word, word) for word in words]
    if words[1] == "summary":
        return words
    config = words[2]
    options = [] if config.startswith("my_") or "copypaste" in config else SMALL.split()
    if words[1] in ("train", "browse"):
        options += ["train_data.batch_size=2"]
    if words[1] == "train":
        options += ONE_STEP.split()
        if "--resume" in words:
            options[options.index("train.iterations=1")] = "train.iterations=2"
    if "imagenet" in config or "folder" in config:
        options = [option for option in options if "pipeline" not in option]
        options += [] if words[1] == "predict" else ["val_data.pipeline.0.size=64", "val_data.pipeline.1.size=64"]
    if words[1] in ("predict", "test", "features"):
        options = [option for option in options if not option.startswith("train")]
    if words[1] in ("test", "features"):
        options += ["val_data.workers=0"]
    return with_options(words, *options)


def run_page(name: str, folder: Path, capsys, caplog, *, prepare: Callable[[list[str]], list[str]] = shortened) -> str:
    """Run the `chordate` command lines of a page in their order; gives what they print."""
    text = page(name)
    for file, content in files(text).items():
        (folder / file).write_text(content, encoding="utf-8")
    lines = [words for words in commands(text) if words[0] == "chordate"]
    assert lines
    for words in map(prepare, lines):
        for word in words:
            if word.endswith(".pth") and not Path(word).exists():
                make_weights(Path(word))
        assert main(words[1:]) == 0, (words, capsys.readouterr().err[-800:])
    printed = capsys.readouterr()
    return printed.out + printed.err + caplog.text


def promised(name: str) -> list[str]:
    """The lines of output that a page shows below its command lines."""
    lines = [line for block in blocks(page(name), "console") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("$ ", "http://"))]


@pytest.mark.slow
def test_the_readmes_command_lines_run(folder, capsys, caplog):
    run_page("README.md", folder, capsys, caplog)
    found = json.loads((folder / "drawn/predictions.json").read_text())
    assert all(one["class"] in CLASSES and one["score"] >= 0.5 for one in found)
    assert cv2.imread("drawn/street_prediction.png") is not None
    assert (folder / "work_dirs/resnet50_finetune_folder/best_top1.pt").is_file()


@pytest.mark.slow
def test_the_readmes_line_for_many_processes_runs(folder):
    """With two in place of eight."""
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
        return [*shortened(words), "--data-root", "coco"]

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
    """The page's CONFIG and CHECKPOINT are the demo's, untrained."""
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
    """The words of the command lines between backticks in running text."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return [shlex.split(line) for line in re.findall(r"`((?:chordate|python|pytest|make) [^`]+)`", prose)]


@pytest.mark.parametrize("name", NAMES)
def test_command_lines_in_the_text_are_understood(name):
    """Their options exist, their configs load; runs of hours are not repeated here."""
    for words in inline_commands(page(name)):
        if words[0] == "chordate" and words[1:]:
            example = {"CONFIG": "resnet50_imagenet", "…": "resnet50_imagenet", "config.py": "resnet50_imagenet"}
            words = [example.get(word, word) for word in words]
            if len(words) > 2:
                arguments = parser().parse_args(words[1:])
                assert load_config(arguments.config, arguments.cfg_options)
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


# What the pages list


def test_the_table_of_the_readme_has_every_neck_and_head():
    table = page("README.md").split("| model | backbone | neck | heads |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([A-Z]\w+)`", table))
    registered = {name for registry in (NECKS, HEADS) for name in registry.names()}
    packaged = {name for name in registered if (NECKS.get(name) or HEADS.get(name)).__module__.startswith("chordate.")}
    assert named == packaged - {"ConvFC", "StageTrunk"}  # trunks: parts of heads


def test_every_config_family_of_the_readme_exists():
    table = page("README.md").split("| model | backbone | neck | heads |")[1].split("\n\n")[0]
    for family in re.findall(r"\b(?:Faster|Mask|Keypoint|Cascade Mask|Cascade) R-CNN|RetinaNet", table):
        assert list_configs(f"{family.lower().replace('r-cnn', 'rcnn').replace(' ', '-')}_*"), family
    assert "ImageClassifier" in MODELS.names()


def test_plugging_names_every_registry():
    from chordate import registry

    names = {name for name in vars(registry) if name.isupper() and isinstance(vars(registry)[name], type(HEADS))}
    assert names - {"SCHEDULES"} == set(re.findall(r"^\| [^|]+\| ([A-Z]+) \|", page("docs/plugging.md"), flags=re.M))


def test_renamed_settings_of_the_changelog_are_answered_with_the_new_name():
    """The `fallback_` sections by their new names; settings of the model as unknown."""
    for old, new in re.findall(r"^\| `(fallback_\w+)` \| `([\w.]+)` \|", page("CHANGELOG.md"), flags=re.M):
        with pytest.raises(chordate.ChordateError, match=f"`{old}` is called `{new}` here"):
            load_config({old: "coco"})
    with pytest.raises(chordate.ChordateError, match="mean"):
        chordate.build_model({"type": "ImageClassifier", "backbone": "resnet18", "mean": [1, 2, 3]}, num_classes=3)


def test_the_readme_is_short():
    assert len(page("README.md").splitlines()) <= 125


def test_ci_runs_the_readmes_two_commands_on_the_pythons_that_are_allowed():
    workflow = yaml.safe_load(page(".github/workflows/ci.yml"))
    job = workflow["jobs"]["test"]
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert [words[:2] for words in commands(page("README.md")) if words[0] == "make"] == [s.split() for s in steps]
    required = tomllib.loads(page("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"][0] == required


def test_pre_commit_runs_the_tools_that_make_test_runs():
    config = yaml.safe_load(page(".pre-commit-config.yaml"))
    entries = " ".join(hook["entry"] for repo in config["repos"] for hook in repo["hooks"])
    developers = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]["dev"]
    for tool in ("ruff check", "ruff format", "mypy"):
        assert tool in entries and tool.split()[0] in developers
