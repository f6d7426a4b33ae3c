"""docs/tutorial.md: each command line runs, and its output has the format that the page shows."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from doc_commands import folder, promised, run_page
from doc_pages import blocks, files, page, with_options
from loading import checkpoint_of

import chordate
from chordate.data.shapes import CLASSES

__all__ = ["folder"]  # keeps the linter from removing the import of a fixture
NAME = "docs/tutorial.md"
NUMBER = r"[\d,.:–e-]+"  # such as 1,018, 0.5, 3e-05, or – for no value


def two_steps(words: list[str]) -> list[str]:
    """Shorten a command: `train` runs one epoch of two iterations, `mine.py` gets small images, `predict` keeps all
    detections, and random weights replace torchvision's."""
    words = [re.sub(r"^torchvision://(.*)", r"\1_random.pth", word) for word in words]
    options = []
    if words[1] == "train":
        options += ["train.epochs=1", "train.eval_every=1", "train.log_every=1", "train_data.batch_size=8"]
        options += ["train_data.workers=0", "val_data.workers=0", "model.backbone.pretrained=None"]
    if words[2] == "mine.py":
        options += ["val_data.pipeline.0.size=64"]
        options += ["train_data.pipeline.0.size=64"] if words[1] in ("train", "browse") else []
    if words[1] == "predict":
        words = [*words, "--score-threshold", "0"]
        options += ["model.box.score_threshold=0.0"]
    return with_options(words, *options)


def form(line: str) -> str:
    """A regular expression that matches the line with any numbers, any column widths, and any text in place of "…"."""
    line = re.sub(r"^[\d-]+ [\d:]+ INFO ", "", line.strip())
    words = [re.sub(r"\d(?:\\?[\d,.:–-])*", lambda _: NUMBER, re.escape(word)) for word in line.split()]
    return r"\s+".join({"…": ".*", "–": NUMBER}.get(word, word) for word in words)


@pytest.mark.slow
def test_every_command_of_the_tutorial_prints_what_the_page_shows(folder, capsys, caplog):
    shutil.copytree(folder / "data/shapes", folder / "my_data")
    printed = run_page(NAME, folder, capsys, caplog, prepare=two_steps)
    shown = [line for line in promised(NAME) if "─" not in line]
    assert len(shown) > 12
    for line in shown:
        assert re.search(form(line), printed), form(line)


def test_the_tutorials_python_prints_a_line_for_each_detection(folder, capsys):
    """An untrained checkpoint replaces the checkpoint of the page's training run."""
    (block,) = [block for block in blocks(page(NAME), "python") if block not in files(page(NAME)).values()]
    (trained,) = re.findall(r'"(work_dirs/.*?)"', block)
    Path(trained).parent.mkdir(parents=True)
    model = chordate.build_model("mask-rcnn_r18_fpn_demo_shapes", classes=CLASSES, pretrained=False)
    torch.save(checkpoint_of(model), trained)
    exec(block.replace("score_threshold=0.5)", "score_threshold=0.0)"), {})
    pattern = rf"({'|'.join(CLASSES)}) \d\.\d+ \[\d+, \d+, \d+, \d+\]"
    shown = [text for text in blocks(page(NAME), "") if re.match(pattern, text)]
    printed = capsys.readouterr().out.splitlines()[1:]  # skips the load report
    assert len(shown) == 1 and printed
    for line in [*shown[0].splitlines(), *printed]:
        assert re.fullmatch(pattern, line)
