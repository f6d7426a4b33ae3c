"""Hostile and damaged checkpoints, in every command: each is read, or refused in one line that names the file.

No file is deleted, no code runs, nothing hangs, and there is no traceback.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from class_folders import write_folders
from hostile_archives import Write
from hostile_checkpoints import corpus
from mutated_checkpoints import mutate
from torch import nn

import chordate
from chordate import BACKBONES, Backbone, FeatureSpec
from chordate.cli.main import main
from chordate.errors import ChordateError
from chordate.weights.checkpoint_folder import read_checkpoint

pytestmark = pytest.mark.usefixtures("without_curves")
SECONDS = 20  # time limit for one command
CONFIG = {
    "model": {"type": "ImageClassifier", "backbone": {"type": "HostileTestNet"}},
    "train_data": {"dataset": {"type": "ImageFolder", "images": "train"}, "batch_size": 3, "workers": 0},
    "val_data": {"dataset": {"type": "ImageFolder", "images": "val"}, "batch_size": 3, "workers": 0},
    "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9},
    "train": {"iterations": 2, "log_every": 1, "tensorboard": False, "ema": 0.5, "save_best": "top1", "keep": 1},
}
CANARIES = ("precious.txt", "run/notes.txt", "run/best_other.pt", "run/epoch_x.pt")


@BACKBONES.register_module()
class HostileTestNet(Backbone):
    """One convolution and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4)
        self.out_features = {"c2": FeatureSpec(4, 4)}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"c2": self.bn(self.conv(images))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, a config, and a training checkpoint that has all fields."""
    root = write_folders(tmp_path_factory.mktemp("trained"), {"train": 1, "val": 1}, wider=0)
    (root / "config.json").write_text(json.dumps(CONFIG))
    arguments = ["--data-root", str(root), "--work-dir", str(root / "run")]
    assert main(["train", str(root / "config.json"), *arguments]) == 0
    (root / "run/iteration_2.pt").rename(root / "base.pt")
    config, image = str(root / "config.json"), str(root / "val/red/0.png")
    assert main(["predict", config, str(root / "base.pt"), image, "--out", str(root)]) == 0
    return root


class Case:
    """A hostile file in a run's folder, with other files that must survive."""

    def __init__(self, folder: Path, trained: Path, write: Write, suffix: str = ".pt"):
        self.folder, self.trained = folder, trained
        self.run = folder / "run"
        self.run.mkdir(parents=True)
        for canary in CANARIES:
            (folder / canary).write_text("mine")
        self.file = self.run / f"iteration_2{suffix}"
        write(self.file)

    def arguments(self, command: str) -> list[str]:
        config, file, data = str(self.trained / "config.json"), str(self.file), ["--data-root", str(self.trained)]
        image, train = str(self.trained / "val/red/0.png"), ["train", config, *data, "--work-dir", str(self.run)]
        longer = ["--cfg-options", "train.iterations=3"]
        return {
            "resume": [*train, "--resume", file, *longer],
            "resume newest": [*train, "--resume", *longer],
            "load from": [*train, "--load-from", file],
            "pretrained": [*train, "--cfg-options", f"model.backbone.pretrained={file}"],
            "test": ["test", config, file, *data],
            "predict": ["predict", config, file, image, "--out", str(self.folder / "predictions")],
            "features": ["features", config, file, image, "--out", str(self.folder / "features.npz")],
            "summary": ["summary", file],
            "convert": ["convert", file, str(self.folder / "converted.pt"), "--config", config],
            "export": [
                *("export", config, file, "--out", str(self.folder / "exported.pt")),
                *("--format", "torchscript", "--size", "32", "32", "--images", image),
            ],
        }[command]

    def check(self, command: str, capsys: pytest.CaptureFixture[str]) -> int:
        """Run a command; asserts that it works, or ends with one line that names the file, or the data that do not fit
        it. Returns the status."""
        capsys.readouterr()
        with no_hang():
            status = main(self.arguments(command))
        output = capsys.readouterr()
        errors = [line for line in output.err.splitlines() if line.startswith(f"chordate {command.split()[0]}:")]
        if command in ("load from", "pretrained", "resume", "resume newest"):
            errors = [line for line in output.err.splitlines() if line.startswith("chordate train:")]
        assert not any(line.startswith("Traceback") for line in output.err.splitlines())
        assert all(character.isprintable() or character == "\n" for character in output.err)
        assert status in (0, 2)
        if status == 2:
            assert len(errors) == 1, output.err
            # Class names that the validation data lack are an error of both; it names the data.
            assert any(name in errors[0] for name in (self.run.name, self.file.name, "val_data")), errors
        self.check_canaries()
        return status

    def check_canaries(self) -> None:
        for canary in CANARIES:  # a new run may have moved them to a subfolder, as it moves old checkpoints
            assert [file.read_text() for file in self.folder.rglob(Path(canary).name)] == ["mine"], canary


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


COMMANDS = (
    *("resume", "resume newest", "load from", "pretrained"),
    *("test", "predict", "features", "summary", "convert", "export"),
)


def suffix_of(name: str) -> str:
    return ".safetensors" if name.startswith("safetensors") else ".pt"


def check_case(name: str, folder: Path, trained: Path, commands: tuple[str, ...], capsys: Any) -> None:
    """Run the commands and the functions of the Python API on one file of the corpus."""
    write = corpus(trained / "base.pt", folder / "ran")[name]
    folder.mkdir(exist_ok=True)
    (folder / "precious.txt").write_text("mine")
    case = Case(folder / "api", trained, write, suffix_of(name))
    for command in commands:
        kept = folder / f"kept_{command.replace(' ', '_')}"
        status = Case(kept, trained, write, suffix_of(name)).check(command, capsys)
        if name.startswith("valid"):
            if command == "predict":
                assert (kept / "predictions/predictions.json").read_text() == (trained / "predictions.json").read_text()
            assert status == (2 if command == "summary" else 0), command
        elif not name.startswith("names") and (command.startswith("resume") or not name.startswith("resume")):
            assert status == 2, f"{command} accepted {name}"
    if not name.startswith(("valid", "names", "resume")):
        for function in (read_checkpoint, partial(chordate.load_checkpoint, HostileTestNet())):
            with no_hang(), pytest.raises(ChordateError) as error:
                function(case.file)
            assert str(case.file) in str(error.value) and str(error.value).isprintable()
    case.check_canaries()
    assert not (folder / "ran").exists(), "code ran"
    assert (folder / "precious.txt").read_text() == "mine"


CHOSEN = (
    "code system in the training state", "huge as ema", "a list of lists of the same list", "a larger storage",
    "valid: an OrderedDict that hides its methods", "a position past the end", "a huge flag of numpy's generator",
    "file: a pipe", "names: weight 1",
    "pickle calls os.mkdir", "pickle repeats one array", "resume: all momenta of one element",
    "valid: deletes 0 '../precious.txt'",
)  # fmt: skip


@pytest.mark.parametrize("name", CHOSEN)
def test_hostile_checkpoints_are_refused_or_work(name: str, tmp_path: Path, trained: Path, capsys: Any) -> None:
    check_case(name, tmp_path, trained, ("resume", "predict"), capsys)


@pytest.mark.slow
def test_the_whole_corpus_through_every_command(tmp_path: Path, trained: Path, capsys: Any) -> None:
    names = list(corpus(trained / "base.pt", tmp_path / "ran"))
    assert len(names) >= 150
    failures = []
    for number, name in enumerate(names):
        try:
            check_case(name, tmp_path / str(number), trained, COMMANDS, capsys)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error!s:.300}")
    assert not failures, "\n".join([f"{len(failures)} of {len(names)}:", *failures])


def fuzz(seeds: range, folder: Path, trained: Path, capsys: Any = None) -> list[str]:
    """Open randomly changed checkpoints, and with `capsys` resume those that are valid. Returns a line per failure."""
    failures = []
    for seed in seeds:
        write = partial(mutate, trained / "base.pt", seed=seed)
        try:
            check_mutation(Case(folder / str(seed), trained, write), capsys)
        except Exception as error:
            change = mutate(trained / "base.pt", folder / "again.pt", seed)
            failures.append(f"seed {seed}, {change}: {type(error).__name__}: {error!s:.300}")
        shutil.rmtree(folder / str(seed))
    return failures


def check_mutation(case: Case, capsys: Any) -> None:
    is_valid = True
    for function in (read_checkpoint, partial(chordate.build_model, case.trained / "config.json")):
        name = "path" if function is read_checkpoint else "checkpoint"
        try:
            with no_hang():
                function(**{name: case.file})
        except ChordateError as error:
            is_valid = False
            assert str(case.file) in str(error) and str(error).isprintable(), error
    if is_valid and capsys is not None:
        case.check("resume", capsys)
    case.check_canaries()


def test_a_hundred_mutated_checkpoints(tmp_path: Path, trained: Path) -> None:
    failures = fuzz(range(100), tmp_path, trained)
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_two_thousand_mutated_checkpoints(tmp_path: Path, trained: Path, capsys: Any) -> None:
    failures = fuzz(range(100, 2100), tmp_path, trained, capsys)
    assert not failures, "\n".join(failures)
